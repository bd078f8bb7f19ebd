"""What quantization-aware training wins back, on real models and with paired intervals.

A sentiment classifier (accuracy on film reviews) and the small GPT-2 (perplexity on news articles), as
`benchmarks.train_sentiment` and `benchmarks.train_gpt2` left them; trained on the texts that those were trained on, and
measured on others; and SmolLM2-135M, which has not seen the news before. All training of a model takes the same steps,
batches and learning rate. What training wins back is a part of the way from rounding to nearest to the float model that
was trained on for as long, where that was measured, and what PTQ wins back, to the float model.

Every cell is a process of its own, whose result is appended to a file at once: the same call goes on after a kill.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import Trainer, TrainingArguments, set_seed
from transformers.utils import logging

import hf_quant
from benchmarks.calibrated_methods import NEAREST
from benchmarks.calibrated_subjects import SUBJECTS
from benchmarks.kept import Kept, add_record_option, weights_fingerprint
from benchmarks.memory import in_fresh_process
from benchmarks.options import add_names, parser_of
from benchmarks.qat_settings import (
    COLUMNS,
    CONTINUED,
    DISTILLED,
    FLOAT,
    PTQ,
    SETTINGS,
    TASKS,
    TRAINED,
    TRAINED_FLOAT,
    config_for,
    measured,
    plain_config,
)
from hf_quant import HfQuantConfig, QATCallback
from hf_quant.evaluation.paired_shares import score_interval
from hf_quant.evaluation.statistics import Bootstrap, interval_of_sums
from hf_quant.hardware.detect import cpu_features

EXAMPLES = """examples:
  python -m benchmarks.qat_quality                                      everything, the most telling cells first
  python -m benchmarks.qat_quality --models sentiment --settings "W4A8 per channel" --methods RTN QAT
  python -m benchmarks.qat_quality --models gpt2 --steps 20 --articles 5     a quick look
"""


@dataclass(frozen=True)
class Cell:
    """What a result depends on.

    Args:
        model: A name of `TASKS`.
        weights: Fingerprint of its checkpoint.
        setting: A name of `SETTINGS`; empty for float32.
        method: One of `COLUMNS`.
        steps: Of training; 0 where there is none.
        seed: Of batches and dropout.
        samples: Sequences that PTQ is calibrated on, None for the model's own number.
        articles: That perplexity is measured on.
    """

    model: str
    weights: str
    setting: str
    method: str
    steps: int
    seed: int
    samples: int | None
    articles: int

    def __str__(self) -> str:
        return " ".join(filter(None, (self.model, self.setting, self.method)))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = parser_of(__doc__, EXAMPLES)
    for option, names in (("--models", TASKS), ("--settings", SETTINGS), ("--methods", COLUMNS)):
        add_names(parser, option, names, f"; {FLOAT} is always measured")
    parser.add_argument("--steps", type=int, default=200, help="of training (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of batches and dropout (default: %(default)s)")
    parser.add_argument(
        "--samples", type=int, help="sequences that PTQ is calibrated on (default: as benchmarks.calibrated)"
    )
    parser.add_argument("--articles", type=int, default=40, help="to measure perplexity on (default: %(default)s)")
    add_record_option(parser, "qat_quality")
    parser.add_argument("--measured", action="store_true", help="print what is in that file, measuring nothing")
    return parser.parse_args()


def cells_of(options: argparse.Namespace) -> list[Cell]:
    """Model by model, setting by setting."""
    cells = []
    for model in options.models:
        weights = weights_fingerprint(SUBJECTS[model].directory())
        wanted = [("", method) for method in (FLOAT, TRAINED_FLOAT) if method in {FLOAT, *options.methods}]
        wanted += [
            (setting, method)
            for setting in options.settings
            for method in (NEAREST, PTQ, *TRAINED)
            if method in options.methods
        ]
        for setting, method in wanted:
            steps = options.steps if method in (TRAINED_FLOAT, *TRAINED) else 0
            samples = options.samples if method in (PTQ, CONTINUED) else None
            cells.append(Cell(model, weights, setting, method, steps, options.seed, samples, options.articles))
    return cells


def measure(cell: Cell, threads: int) -> dict[str, Any]:
    """Seconds of quantizing or training, and of each example what `qat_settings.measured` says."""
    torch.set_num_threads(threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.simplefilter("ignore")  # where a transform finds nothing to do, the figures say so
    model, tokenizer = SUBJECTS[cell.model].load()
    began = time.perf_counter()
    if cell.setting and (cell.method == CONTINUED or not cell.steps):
        config = config_for(cell.model, cell.setting, cell.method, tokenizer, cell.samples)
        model = hf_quant.quantize(model, config, progress=sys.stderr.isatty())
    if cell.method == CONTINUED:
        model = trainable(model)
    if cell.steps:
        train(model, tokenizer, cell)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "examples": measured(model, tokenizer, cell.model, cell.articles)}


def trainable(model: Any) -> Any:
    """A quantized model, saved and loaded to be trained from the grids that it has."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return type(model).from_pretrained(folder, quantization_config=HfQuantConfig(qat=True), dtype=torch.float32)


def train(model: Any, tokenizer: Any, cell: Cell) -> None:
    """Train in place, and leave a quantized model unless the method is float."""
    task = TASKS[cell.model]
    set_seed(cell.seed)
    callbacks = []
    if cell.setting:
        teacher = "self" if cell.method == DISTILLED else None
        config = None if cell.method == CONTINUED else plain_config(cell.setting)
        callbacks = [QATCallback(config, teacher=teacher)]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=cell.steps,
            per_device_train_batch_size=task.batch_size,
            learning_rate=task.learning_rate,
            warmup_steps=min(20, cell.steps // 10),
            bf16=cpu_features().multiplies_bfloat16,
            seed=cell.seed,
            save_strategy="no",
            logging_steps=50,
            report_to=[],
            use_cpu=True,
            dataloader_pin_memory=False,
            disable_tqdm=not sys.stderr.isatty(),
        )
        Trainer(
            model,
            arguments,
            train_dataset=task.examples(tokenizer),
            data_collator=task.collator(tokenizer),
            callbacks=callbacks,
        ).train()


def quality(model: str, examples: np.ndarray) -> float:
    """Accuracy from 0 to 1, or perplexity, of examples ``[count, 2]``."""
    total, count = examples.sum(0)
    return float(total / count) if model == "sentiment" else math.exp(total / count)


def against(model: str, reference: np.ndarray, examples: np.ndarray) -> str:
    """What is lost against `reference` on the same examples, with the ends of the 95 % interval."""
    if model == "sentiment":
        worse = int(((reference[:, 0] == 1) & (examples[:, 0] == 0)).sum())
        better = int(((reference[:, 0] == 0) & (examples[:, 0] == 1)).sum())
        point = (better - worse) / len(examples)
        low, high = (-end for end in reversed(score_interval(worse, better, len(examples), 0.95)))
        return f"{100 * point:+.2f} pt ({100 * low:+.2f} to {100 * high:+.2f})"

    def ratio(sums: np.ndarray) -> np.ndarray:
        return np.exp((sums[..., 1] - sums[..., 0]) / sums[..., 2]) - 1

    together = np.column_stack([reference[:, 0], examples])
    point, low, high = interval_of_sums(ratio, together, Bootstrap())
    return f"{100 * point:+.2f} % ({100 * low:+.2f} to {100 * high:+.2f})"


def recovered(model: str, reference: np.ndarray, nearest: np.ndarray, examples: np.ndarray) -> str:
    """The part of the way from rounding to nearest to `reference` that is won back; empty where there is none."""
    lost = quality(model, nearest) - quality(model, reference)
    if lost == 0 or (lost > 0) == (model == "sentiment"):
        return ""
    return f", {(quality(model, nearest) - quality(model, examples)) / lost:.0%} back"


def table(model: str, found: Mapping[tuple[str, str], Mapping[str, Any]]) -> str:
    """Quality, loss against float32 with its interval, and what is won back of rounding to nearest's loss."""
    examples = {key: np.array(result["examples"]) for key, result in found.items()}
    reference = examples["", FLOAT]
    figure = partial(_figure, model)
    lines = [f"### {model}: {'accuracy' if model == 'sentiment' else 'perplexity'}", ""]
    lines.append(f"{FLOAT} {figure(reference)}")
    if ("", TRAINED_FLOAT) in examples:
        trained = examples["", TRAINED_FLOAT]
        lines[-1] += f"; trained on for as long {figure(trained)}, {against(model, reference, trained)}"
    methods = [method for method in COLUMNS[2:] if any(of == method for _, of in examples)]
    settings = [setting for setting in SETTINGS if any(at == setting for at, _ in examples)]
    lines += ["", f"| | {' | '.join(methods)} |", f"|{'---|' * (len(methods) + 1)}"]
    for setting in settings:
        row = [setting]
        for method in methods:
            cell = examples.get((setting, method))
            if cell is None:
                row.append("")
                continue
            text = f"{figure(cell)}, {against(model, reference, cell)}"
            nearest = examples.get((setting, NEAREST))
            if nearest is not None and method != NEAREST:
                goal = examples.get(("", TRAINED_FLOAT), reference) if method in TRAINED else reference
                text += recovered(model, goal, nearest, cell)
            row.append(text)
        lines.append(f"| {' | '.join(row)} |")
    seconds = [
        [found[setting, method]["seconds"] for setting in settings if (setting, method) in found] for method in methods
    ]
    costs = [f"{method} {min(each):.0f} to {max(each):.0f} s" for method, each in zip(methods, seconds, strict=True)]
    return "\n".join([*lines, "", f"Time: {', '.join(costs)}."])


def _figure(model: str, examples: np.ndarray) -> str:
    return f"{quality(model, examples):.4f}" if model == "sentiment" else f"{quality(model, examples):.2f}"


def tables(cells: Sequence[Cell], results: Sequence[Mapping[str, Any]]) -> str:
    """A table for each model."""
    by_model: dict[str, dict[tuple[str, str], Mapping[str, Any]]] = {}
    for cell, result in zip(cells, results, strict=True):
        by_model.setdefault(cell.model, {})[cell.setting, cell.method] = result
    return "\n\n".join(table(model, found) for model, found in by_model.items())


def main() -> None:
    options = parse()
    kept = Kept(options.json, options.threads)
    cells = [cell for cell in cells_of(options) if not options.measured or asdict(cell) in kept]
    if not cells:
        print(f"Nothing in {options.json} was measured like that", file=sys.stderr)
        sys.exit(1)
    results = kept.all(
        cells,
        lambda cell: in_fresh_process(measure, cell, options.threads),
        lambda cell, result: f"{quality(cell.model, np.array(result['examples'])):.4f}, {result['seconds']:.0f} s",
    )
    print(f"{kept.measured_on(map(asdict, cells))}; {options.steps} steps, {options.articles} articles\n")
    print(tables(cells, results))


if __name__ == "__main__":
    main()
