"""Simulate pairs of models whose drop is known, and count how often the interval of the report holds it.

Each experiment draws examples, gives them to `metric_drops` as an evaluation would, and looks at both ends, of the drop
and of the relative drop. An interval of 95 % should hold the truth in 95 % of the experiments, missing it about as
often on each side.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table
from tqdm.auto import tqdm

from hf_quant.evaluation.metric_drops import MetricInputs, metric_drops
from hf_quant.evaluation.metrics.accuracy import Accuracy
from hf_quant.evaluation.metrics.base import OfflineMetric
from hf_quant.evaluation.metrics.f1 import F1
from hf_quant.evaluation.metrics.perplexity import Perplexity
from hf_quant.evaluation.statistics import Bootstrap

EXAMPLES = """examples:
  python -m benchmarks.interval_coverage
  python -m benchmarks.interval_coverage --only perplexity --experiments 3000 --seed 1
  python -m benchmarks.interval_coverage --experiments 200 --resamples 500     seconds, and coarser
"""

Draw = Callable[[np.random.Generator, int], MetricInputs]


@dataclass(frozen=True)
class Simulation:
    """Pairs of models whose figures in the limit of infinitely many examples are known.

    Args:
        name: For the table.
        metric: What is measured.
        truth: The metric of the reference and of the quantized model.
        draw: So many examples.
        sizes: Numbers of examples to try.
    """

    name: str
    metric: OfflineMetric
    truth: tuple[float, float]
    draw: Draw
    sizes: tuple[int, ...]


def accuracy(right: float, to_wrong: float, to_right: float) -> Simulation:
    """The reference is right in a part of the cases; of all, parts flip."""

    def draw(generator: np.random.Generator, count: int) -> MetricInputs:
        kinds = generator.choice(4, count, p=[right - to_wrong, to_wrong, to_right, 1 - right - to_right])
        # Right is 1, for both: kept right, became wrong, became right, stayed wrong.
        return MetricInputs(np.ones(count, int), ((kinds <= 1).astype(int), (kinds % 2 == 0).astype(int)))

    name = f"accuracy {right:.0%}, {to_wrong:.1%} and {to_right:.1%} flip"
    return Simulation(name, Accuracy(), (right, right - to_wrong + to_right), draw, (300, 1000))


def f1(share: float, recall: float, alarms: float, flips: float) -> Simulation:
    """A rare class, found with some recall and some false alarms; the quantized model's answers flip at random."""

    def draw(generator: np.random.Generator, count: int) -> MetricInputs:
        there = generator.random(count) < share
        first = generator.random(count) < np.where(there, recall, alarms)
        second = first ^ (generator.random(count) < flips)
        return MetricInputs(there.astype(int), (first.astype(int), second.astype(int)))

    def of(recall: float, alarms: float) -> float:
        return 2 * share * recall / (share * recall + (1 - share) * alarms + share)

    flipped = (part * (1 - flips) + (1 - part) * flips for part in (recall, alarms))
    return Simulation(f"F1, class of {share:.0%}", F1(), (of(recall, alarms), of(*flipped)), draw, (300, 1000))


def perplexity(mean: float, spread: float, harm: float, unevenness: float) -> Simulation:
    """Windows of 128 to 512 tokens whose mean losses are skewed; what they lose is skewed, too, and may be negative."""

    def draw(generator: np.random.Generator, count: int) -> MetricInputs:
        tokens = generator.integers(128, 513, count)
        losses = mean * generator.gamma((mean / spread) ** 2, (spread / mean) ** 2, count)
        lost = harm + unevenness * (generator.exponential(size=count) - 1)
        return MetricInputs(tokens, (losses * tokens, (losses + lost) * tokens))

    truth = (math.exp(mean), math.exp(mean + harm))
    return Simulation(f"perplexity {truth[0]:.1f}, {harm} nats lost", Perplexity(), truth, draw, (60, 400))


SIMULATIONS = (
    accuracy(0.86, 0.02, 0.01),
    accuracy(0.95, 0.006, 0.002),
    accuracy(0.6, 0.1, 0.05),
    f1(0.3, 0.8, 0.1, 0.03),
    f1(0.1, 0.6, 0.05, 0.02),
    perplexity(3.0, 0.5, 0.02, 0.05),
    perplexity(2.5, 0.3, 0.1, 0.1),
)


def outcomes(simulation: Simulation, count: int, experiments: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Of each experiment, whether each truth lies below and above its interval: ``[2 drops, 2 sides]``."""
    first, second = simulation.truth
    lost = first - second if simulation.metric.higher_is_better else second - first
    generator = np.random.default_rng(seed)
    for number in range(experiments):
        inputs = simulation.draw(generator, count)
        # Another seed for each: the same resamples for all would be one bootstrap seen many times.
        drop = metric_drops(simulation.metric, inputs, Bootstrap(resamples, seed=number))[0]
        assert drop.relative_low is not None and drop.relative_high is not None
        ends = ((lost, drop.low, drop.high), (lost / first, drop.relative_low, drop.relative_high))
        yield np.array([[truth < low, truth > high] for truth, low, high in ends])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--experiments", type=int, default=500, help="of each row (default: %(default)s)")
    parser.add_argument("--resamples", type=int, default=2000, help="of each bootstrap (default: %(default)s)")
    parser.add_argument("--only", choices=("accuracy", "F1", "perplexity"), help="pairs of this kind")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    table = Table("pairs", "examples", "true drop", "95 % interval holds it", "below, above", "of the relative drop")
    for simulation in SIMULATIONS:
        if options.only is not None and not simulation.name.startswith(options.only):
            continue
        for count in simulation.sizes:
            found = outcomes(simulation, count, options.experiments, options.resamples, options.seed)
            bar = tqdm(found, desc=simulation.name, total=options.experiments, leave=False)
            missed = np.mean(list(bar), axis=0)
            table.add_row(
                simulation.name,
                str(count),
                f"{abs(simulation.truth[0] - simulation.truth[1]):.4g}",
                f"{1 - missed[0].sum():.1%}",
                f"{missed[0, 0]:.1%}, {missed[0, 1]:.1%}",
                f"{1 - missed[1].sum():.1%}",
            )
    Console(width=150).print(table)
    error = math.sqrt(0.95 * 0.05 / options.experiments)
    print(f"{options.experiments} experiments a row: a figure is known to {error:.1%} (one standard error)")


if __name__ == "__main__":
    main()
