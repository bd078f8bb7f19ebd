"""The Markdown of a model card that says what was quantized, how to load it, and what was measured."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from hf_quant.config.name_ranges import differing, in_short, unfolded
from hf_quant.config.plan import Plan
from hf_quant.config.recipe import Recipe
from hf_quant.evaluation.benchmark_report import BenchmarkReport
from hf_quant.evaluation.report import DropReport
from hf_quant.hub.plan_words import in_words, recipe_in_words
from hf_quant.reporting.markdown import escaped, table_lines
from hf_quant.reporting.report import Report
from hf_quant.reporting.tables.accuracy import metrics_table
from hf_quant.reporting.tables.speed import sizes_table, times_table
from hf_quant.reporting.words import percent, sentence, shortened


@dataclass(frozen=True)
class Quantization:
    """Facts about a checkpoint's quantization, from its ``config.json``.

    Args:
        class_name: Name of the model's class.
        preset: Name of the preset; None without one.
        plan: Plan of exact module names.
        kept_float: Names of modules that stayed float, to the reason.
        recipe: Recipe of the algorithms; None where none was given.
        calibration_fingerprint: SHA-256 of the calibration data's tokens; None without data.
        left_float: How much stays float though nobody asked for it, in a sentence; empty where that is little.
    """

    class_name: str
    preset: str | None
    plan: Plan
    kept_float: Mapping[str, str]
    recipe: Recipe | None
    calibration_fingerprint: str | None
    left_float: str = ""

    @classmethod
    def of(cls, class_name: str, settings: Mapping[str, Any]) -> Quantization:
        """The facts in the ``quantization_config`` of ``config.json``.

        Raises:
            ConfigError: The settings hold a plan or recipe that is not valid.
        """
        recipe = settings.get("recipe")
        return cls(
            class_name,
            settings.get("preset"),
            Plan.from_dict(settings["plan"]),
            unfolded(settings.get("kept_float") or {}, settings.get("kept_float_ranges") or {}),
            None if recipe is None else Recipe.from_dict(recipe),
            settings.get("calibration_fingerprint"),
            str(settings.get("left_float") or ""),
        )


def section(quantization: Quantization, source: str, report: Report) -> str:
    """The section on quantization of a model card, as Markdown.

    Args:
        quantization: Facts about the checkpoint's quantization.
        source: Repository id or directory that the example loads from.
        report: Evaluations and benchmarks of the checkpoint; may be empty.
    """
    schemes = Counter(scheme for scheme in quantization.plan.modules.values() if scheme is not None)
    auto_class = _auto_class(quantization.class_name)
    lines = [
        "## Quantization",
        "",
        "Quantized with hf_quant"
        + (f' (preset "{quantization.preset}"). ' if quantization.preset else ". ")
        + "Import the plugin first: it teaches Transformers to read this checkpoint.",
        "",
        "```python",
        "import hf_quant  # first: registers the format with Transformers (pip install hf-quant)",
        f"from transformers import {auto_class}",
        "",
        f'model = {auto_class}.from_pretrained("{source}")',
        "```",
        "",
        "| scheme | modules |",
        "|---|---|",
        *(f"| {scheme} | {count} |" for scheme, count in schemes.most_common()),
        "",
        *(f"- {scheme}: {in_words(scheme)}." for scheme, _ in schemes.most_common()),
        "",
        " ".join(recipe_in_words(quantization.recipe, quantization.calibration_fingerprint)),
    ]
    schemes_of = {
        name: "float" if scheme is None else str(scheme) for name, scheme in quantization.plan.modules.items()
    }
    if mixed := differing({**dict.fromkeys(quantization.kept_float, "float"), **schemes_of}):
        lines += ["", "Where modules of a kind differ:", "", *(f"- {_differences(each)}" for each in mixed)]
    kept = Counter(quantization.kept_float.values())
    if kept:
        counted = ((reason, f"{count} module{'s' * (count > 1)}") for reason, count in kept.most_common())
        lines += ["", "Left in float:", "", *(f"- {modules}: {reason}" for reason, modules in counted)]
    if quantization.left_float:
        lines += ["", escaped(sentence(quantization.left_float))]
    for drop in report.drops:
        lines += ["", *_accuracy(drop)]
    for benchmark in report.benchmarks:
        lines += ["", *_speed(benchmark)]
    return "\n".join(lines)


def _differences(found: Mapping[str, list[str]]) -> str:
    # Names may come from anyone, and a backtick would end the code.
    shown = {
        scheme: [shortened(name, 200).replace("`", "'") for name in in_short(names)] for scheme, names in found.items()
    }
    return "; ".join(f"{scheme} `{name}`" for scheme, names in shown.items() for name in names)


def _accuracy(drop: DropReport) -> Iterator[str]:
    yield f"### Accuracy against {escaped(drop.reference)}: {escaped(drop.task)}"
    yield ""
    yield from table_lines(metrics_table(drop))
    yield ""
    found = drop.agreement
    sentences = [f"Data: SHA-256 of its examples `{escaped(drop.data.fingerprint)}`."]
    if found.top1_agreement is not None:
        alike = percent(found.top1_agreement, 2)
        sentences.append(f"Both models give the same answer for {alike} of {found.compared:,} {found.unit}.")
    if found.flips_to_wrong is not None and found.flips_to_right is not None:
        sentences.append(
            f"{found.flips_to_wrong:,} right ones became wrong, {found.flips_to_right:,} wrong ones right."
        )
    yield " ".join(sentences)


def _speed(benchmark: BenchmarkReport) -> Iterator[str]:
    machine = benchmark.machine
    place = machine.get("cpu", "")
    if machine.get("device", "cpu") != "cpu":
        place = machine["device"]
    yield f"### Size and speed on {escaped(place)}, {benchmark.threads} thread{'s' * (benchmark.threads != 1)}"
    for table in (sizes_table(benchmark), replace(times_table(benchmark), title="")):
        yield ""
        yield from table_lines(table)
    yield ""
    versions = ", ".join(f"{name} {version}" for name, version in machine.items() if name in ("torch", "transformers"))
    yield escaped(f"Native kernels: {machine.get('native kernels', 'none')}; {versions}; {benchmark.date[:10]}.")
    for note in benchmark.notes:
        yield ""
        yield escaped(sentence(note))


def _auto_class(class_name: str) -> str:
    match = re.search(r"(For[A-Z]\w+)$", class_name)
    if match:
        return f"AutoModel{match.group(1)}"
    return "AutoModelForCausalLM" if class_name.endswith("LMHeadModel") else "AutoModel"
