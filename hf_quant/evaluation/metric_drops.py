"""Metrics of two models on the same examples, and the intervals of what was lost."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import evaluate
import numpy as np

from hf_quant.errors import EvaluationError
from hf_quant.evaluation.metrics.base import ANSWERS, Items, OfflineMetric, ResampledMetric, SummedMetric, classes
from hf_quant.evaluation.metrics.resolve import higher_is_better, is_fraction, needs, only_numbers
from hf_quant.evaluation.paired_shares import score_interval
from hf_quant.evaluation.report import MetricDrop
from hf_quant.evaluation.statistics import Bootstrap, Counts, Floats, interval, leave_one_out

FOREIGN_RESAMPLES = 200
"""Most resamples of a metric that has to be computed anew for each, which takes milliseconds."""


@dataclass(frozen=True)
class MetricInputs:
    """Answers of both models and right answers, as a metric compares them.

    Args:
        references: Right answer of each item.
        predictions: Answers of the reference model and of the quantized one, one for each item.
        owner: Index of the example that each item belongs to, ascending, int64 ``[items]``; None where each item is an
            example.
    """

    references: Items
    predictions: tuple[Items, Items]
    owner: Counts | None = None

    @property
    def examples(self) -> int:
        """Number of examples, which are drawn with all their items."""
        return len(self.references) if self.owner is None else int(self.owner[-1]) + 1


@dataclass(frozen=True)
class _Paired:
    """One value of a metric for both models: of the data, of resamples, and of the data without each example.

    Where it is the share of examples that are right, there are `flips` in place of resamples: how many became wrong,
    how many became right, and all.
    """

    values: tuple[float, float]
    replicates: tuple[Floats, Floats] | None = None
    jackknife: tuple[Floats, Floats] | None = None
    flips: tuple[int, int, int] | None = None


def metric_drops(module: evaluate.EvaluationModule, inputs: MetricInputs, bootstrap: Bootstrap) -> list[MetricDrop]:
    """Drops, with intervals, of every number that a metric gives.

    Examples are drawn together, with all of their items, and the same ones for both models. The interval of a metric
    that is no `SummedMetric` lacks the acceleration of BCa. That of the share of examples that are right, such as
    accuracy, is Tango's score interval, since a bootstrap knows only those few flips that were seen.

    Raises:
        EvaluationError: The metric does not take what the task gives, or gives NaN.
    """
    if isinstance(module, OfflineMetric) and needs(module) == ANSWERS:
        for predictions in inputs.predictions:
            if not _defined(module, predictions, inputs.references):
                raise EvaluationError(
                    f"the metric {module.name} is not defined where all scores are the same: take more data, or "
                    "look at what the models answer"
                )
    if isinstance(module, SummedMetric):
        paired = _summed(module, inputs, bootstrap)
    else:
        paired = _resampled(module, inputs, bootstrap)
    drops = []
    for name, pair in paired.items():
        if not all(map(math.isfinite, pair.values)):
            raise EvaluationError(
                f"the metric {name} is {pair.values[0]} for the reference and {pair.values[1]} for the quantized "
                "model: take more data, or another metric"
            )
        higher = higher_is_better(module, name)
        drops.append(_drop(name, pair, higher, is_fraction(module, pair.values, higher), bootstrap.confidence))
    return drops


def _drop(name: str, pair: _Paired, higher: bool, fraction: bool, confidence: float) -> MetricDrop:
    sign = 1.0 if higher else -1.0

    def lost(reference: Any, quantized: Any) -> Any:
        return sign * (reference - quantized)

    def part(reference: Any, quantized: Any) -> Any:
        with np.errstate(divide="ignore", invalid="ignore"):
            return lost(reference, quantized) / np.abs(reference)

    def ends(statistic: Any, point: float) -> tuple[float, float]:
        if pair.flips is not None:
            low, high = score_interval(*pair.flips, confidence)
            # What the reference's own value may be wrong by matters little beside that.
            return (low, high) if statistic is lost else (low / abs(reference), high / abs(reference))
        assert pair.replicates is not None
        jackknife = None if pair.jackknife is None else statistic(*pair.jackknife)
        return interval(point, statistic(*pair.replicates), jackknife, confidence)

    reference, quantized = pair.values
    drop = lost(reference, quantized) + 0.0
    low, high = ends(lost, drop)
    relative = None if reference == 0 else drop / abs(reference)
    relative_low, relative_high = (None, None) if relative is None else ends(part, relative)
    return MetricDrop(
        *(name, reference, quantized, drop, low, high, relative, relative_low, relative_high),
        higher_is_better=higher,
        is_fraction=fraction,
    )


def _summed(module: SummedMetric, inputs: MetricInputs, bootstrap: Bootstrap) -> dict[str, _Paired]:
    labels = classes(inputs.references, *inputs.predictions) if module.by_class else []
    try:
        items = [module.contributions(each, inputs.references, labels) for each in inputs.predictions]
    except (ValueError, TypeError, AttributeError) as error:
        raise _not_taken(module, inputs.predictions[0], inputs.references, error) from error
    whole = [module.finish(each.sum(0)) for each in items]
    # Several answers of one example are not independent, and have to be drawn together.
    shares = module.shares if inputs.owner is None else {}
    paired = {
        name: _Paired((float(whole[0][name]), float(whole[1][name])), flips=_flips(*(each[:, at] for each in items)))
        for name, at in shares.items()
    }
    if len(paired) < len(whole[0]):
        together = np.concatenate([_by_example(each, inputs) for each in items], axis=1)
        # Without its only example there is nothing.
        others = leave_one_out(together) if len(together) > 1 else together
        drawn, left = (
            [module.finish(half) for half in np.split(view, 2, axis=-1)] for view in (bootstrap.sums(together), others)
        )
        for name in whole[0]:
            values = (float(whole[0][name]), float(whole[1][name]))
            resampled = _Paired(values, (drawn[0][name], drawn[1][name]), (left[0][name], left[1][name]))
            paired.setdefault(name, resampled)
    return {name: paired[name] for name in whole[0]}


def _flips(first: Floats, second: Floats) -> tuple[int, int, int]:
    return int((first > second).sum()), int((second > first).sum()), len(first)


def _by_example(contributions: Floats, inputs: MetricInputs) -> Floats:
    if inputs.owner is None:
        return contributions
    summed = np.zeros((inputs.examples, contributions.shape[1]))
    np.add.at(summed, inputs.owner, contributions)
    return summed


def _resampled(module: evaluate.EvaluationModule, inputs: MetricInputs, bootstrap: Bootstrap) -> dict[str, _Paired]:
    whole = [_compute(module, each, inputs.references) for each in inputs.predictions]
    if not isinstance(module, ResampledMetric):
        bootstrap = replace(bootstrap, resamples=min(bootstrap.resamples, FOREIGN_RESAMPLES))
    drawn: tuple[list[dict[str, Any]], ...] = ([], [])
    for draws in bootstrap.draws(inputs.examples):
        for found, predictions in zip(drawn, inputs.predictions, strict=True):
            if isinstance(module, ResampledMetric):
                found.append(module.resampled(predictions, inputs.references, draws))
            else:
                found.extend(_foreign(module, predictions, inputs, draws))
    paired = {}
    for name in whole[0]:
        first, second = (np.concatenate([np.atleast_1d(each[name]) for each in found]) for found in drawn)
        paired[name] = _Paired((whole[0][name], whole[1][name]), (first, second), None)
    return paired


def _foreign(
    module: evaluate.EvaluationModule, predictions: Items, inputs: MetricInputs, draws: Counts
) -> Iterable[dict[str, float]]:
    owner = np.arange(inputs.examples) if inputs.owner is None else inputs.owner
    items = np.split(np.arange(len(owner)), np.searchsorted(owner, np.arange(1, inputs.examples)))
    for drawn in draws:
        rows = np.concatenate([items[index] for index in drawn])
        yield _compute(module, [predictions[row] for row in rows], [inputs.references[row] for row in rows])


def _compute(module: evaluate.EvaluationModule, predictions: Items, references: Items) -> dict[str, float]:
    try:
        found = only_numbers(module.compute(predictions=list(predictions), references=list(references)))
    except (ValueError, TypeError, AttributeError) as error:
        raise _not_taken(module, predictions, references, error) from error
    if not found:
        raise EvaluationError(f"the metric {module.name} gives no single number: take another")
    return found


def _defined(module: OfflineMetric, predictions: Items, references: Items) -> bool:
    try:
        return module.is_defined(predictions, references)
    except (ValueError, TypeError) as error:
        raise _not_taken(module, predictions, references, error) from error


def _not_taken(
    module: evaluate.EvaluationModule, predictions: Items, references: Items, error: Exception
) -> EvaluationError:
    return EvaluationError(
        f"the metric {module.name} does not take the answers of this task, such as {predictions[0]!r} for "
        f"{references[0]!r}: {error}"
    )
