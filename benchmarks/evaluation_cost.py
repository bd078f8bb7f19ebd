"""What an evaluation of two models costs, beside plain forward passes of one of them over the same data.

An evaluation runs both models, so at least twice as much where both cost the same; what it adds is tokenizing,
comparing distributions, metrics, intervals, and the report. To see that alone, a float model is compared with itself.
The plain passes run over the very same batches and throw the outputs away. Both have their turns one after the other,
in changing order, and the ratio is taken within each round. Seconds are those of the processor, all threads together,
so that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import hf_quant
from hf_quant.demo.packaged import gpt2_directory, minilm_directory, sentiment_directory, smollm2_directory
from hf_quant.demo.texts import download_review_archive, news_split, review_sentences, review_split
from hf_quant.evaluation import TASKS
from hf_quant.evaluation.batches import batches
from hf_quant.evaluation.data import open_rows
from hf_quant.evaluation.models import evaluating, model_facts

EXAMPLES = """examples:
  python -m benchmarks.evaluation_cost
  python -m benchmarks.evaluation_cost --models sentiment --rounds 3
  python -m benchmarks.evaluation_cost --quantized int8        both models, of which one is faster
"""


@dataclass(frozen=True)
class Case:
    """A model and what it is evaluated on.

    Args:
        task: Name of the task.
        open: The float model.
        folder: Where its tokenizer is.
        rows: Data.
        options: Of the task.
    """

    task: str
    open: Callable[[], Any]
    folder: Callable[[], Any]
    rows: Callable[[], list[dict[str, Any]]]
    options: dict[str, Any]


def reviews() -> list[dict[str, Any]]:
    """Sentences of film reviews with their label."""
    _, _, test = review_split(review_sentences(download_review_archive()))
    return [{"text": text, "label": label} for label, text in test[:400]]


def articles() -> list[dict[str, Any]]:
    """News articles."""
    return [{"text": text} for _, text in news_split()[1][:2]]


def pairs() -> list[dict[str, Any]]:
    """Pairs of news sentences, with how alike their topics are."""
    test = news_split()[1][:200]
    return [
        {"sentence1": first[1][:200], "sentence2": second[1][:200], "score": float(first[0] == second[0])}
        for first, second in zip(test[::2], test[1::2], strict=True)
    ]


CASES = {
    "sentiment": Case(
        "text-classification",
        lambda: AutoModelForSequenceClassification.from_pretrained(sentiment_directory()),
        sentiment_directory,
        reviews,
        {},
    ),
    "minilm": Case(
        "sentence-similarity", lambda: AutoModel.from_pretrained(minilm_directory()), minilm_directory, pairs, {}
    ),
    "gpt2": Case(
        "causal-lm",
        lambda: AutoModelForCausalLM.from_pretrained(gpt2_directory()),
        gpt2_directory,
        articles,
        {"max_length": 256},
    ),
    "smollm2": Case(
        "causal-lm",
        lambda: AutoModelForCausalLM.from_pretrained(smollm2_directory()),
        smollm2_directory,
        articles,
        {"max_length": 256},
    ),
}


def plain(case: Case, model: Any, tokenizer: Any) -> Callable[[], None]:
    """Forward passes over the batches that an evaluation makes, and nothing else."""
    task = TASKS[case.task](**case.options)
    facts = model_facts(model, tokenizer)
    features = task.features(open_rows(case.rows()), facts)
    prepared = [batch.tensors for _, batch in batches(features, task.size(facts), facts.pad)]
    run = task.part(model)

    def work() -> None:
        with evaluating(model):
            for tensors in prepared:
                run(**tensors, **task.call)

    return work


def measure(name: str, rounds: int, preset: str | None) -> tuple[list[float], list[float]]:
    """Processor seconds of plain passes and of evaluations, one a round."""
    case = CASES[name]
    tokenizer, model = AutoTokenizer.from_pretrained(case.folder()), case.open()
    # The same weights twice: another copy would only compete for the cache that a quantized one would not fill.
    other = model if preset is None else hf_quant.quantize(case.open(), preset, progress=False)
    rows, passes = case.rows(), plain(case, model, tokenizer)

    def evaluation() -> None:
        options = {"tokenizer": tokenizer, "progress": False, **case.options}
        hf_quant.evaluate_drop(model, other, case.task, rows, **options)

    works, seconds = (passes, evaluation), ([], [])
    for number in range(rounds + 1):
        for which in (0, 1) if number % 2 else (1, 0):
            start = time.process_time()
            works[which]()
            # The round before the first warms up.
            if number:
                seconds[which].append(time.process_time() - start)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=5, help="that count (default: %(default)s)")
    parser.add_argument("--quantized", metavar="PRESET", help="compare with this instead of with the model itself")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = Table("model", "task", "plain passes of one, CPU s", "evaluation of two, CPU s", "ratio", "of each round")
    for name in options.models:
        passes, evaluations = measure(name, options.rounds, options.quantized)
        ratios = [second / first for first, second in zip(passes, evaluations, strict=True)]
        table.add_row(
            name,
            CASES[name].task,
            f"{statistics.median(passes):.2f}",
            f"{statistics.median(evaluations):.2f}",
            f"{statistics.median(ratios):.3f}",
            f"{min(ratios):.3f} to {max(ratios):.3f}",
        )
    console = Console(width=140)
    console.print(table)
    both = f"float32 and {options.quantized}" if options.quantized else "float32 with itself"
    print(f"{both}, {options.threads} threads, medians of {options.rounds} rounds")


if __name__ == "__main__":
    main()
