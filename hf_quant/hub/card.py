"""The model card: its part on quantization is ours, all other text and metadata its owner's."""

from __future__ import annotations

import json
import re
from os import PathLike
from pathlib import Path
from typing import Any, cast

from huggingface_hub import ModelCard, ModelCardData
from yaml import YAMLError

from hf_quant.errors import CheckpointError, ConfigError, SaveError
from hf_quant.evaluation.benchmark_report import BenchmarkReport
from hf_quant.evaluation.report import DropReport
from hf_quant.hub.eval_results import eval_results, is_ours
from hf_quant.hub.evidence import add_evidence, carry_evidence
from hf_quant.hub.section import Quantization, section
from hf_quant.reporting.json_file import write_text
from hf_quant.reporting.report import Report

_BEGIN, _END = "<!-- hf_quant: begin -->", "<!-- hf_quant: end -->"


def extend_card(model: Any, directory: Path, existing: Path, source: str) -> None:
    """Write a checkpoint's model card: an existing card, if any, with its section on quantization renewed.

    Figures are those of a report beside the earlier card, or where the model was loaded from, if it is about just the
    tensors that `directory` holds now.

    Args:
        model: Quantized model; its config holds the resolved plan.
        directory: Directory that holds the checkpoint; its ``README.md`` is written.
        existing: File of the card whose other text and metadata are kept, if it exists.
        source: Repository id or directory that the card's example loads from.
    """
    name = str(getattr(model.config, "name_or_path", ""))
    card = _read(existing) or _new(name or type(model).__name__)
    report = carry_evidence(directory, [existing.parent, *([Path(name)] if name else [])])
    _renew(card, quantization_of(model), source, report)
    base, data = _base_model(model), cast(Any, card.data)
    if base is not None and not data.base_model:
        data.base_model, data.base_model_relation = base, "quantized"
    card.save(directory / "README.md")


def write_model_card(
    directory: str | PathLike[str],
    drop: DropReport | None = None,
    benchmark: BenchmarkReport | None = None,
    source: str | None = None,
) -> Path:
    """Put evaluations and benchmarks on the model card of a quantized checkpoint, beside earlier ones.

    The reports are kept in ``hf_quant_report.json``, without texts of examples and without paths, so that saving,
    copying or pushing the same tensors keeps the figures; other tensors lose them.

    Args:
        directory: Directory of the checkpoint; its ``README.md`` is made, or extended.
        drop: Report of `evaluate_drop` on this checkpoint; None leaves the card's evaluations as they are.
        benchmark: Report of `benchmark` on this checkpoint; None leaves the card's benchmarks as they are.
        source: Repository id that the card's example loads from; None: the name of the directory.

    Returns:
        The path of the card.

    Raises:
        CheckpointError: The directory holds no checkpoint of this package.
        EvaluationError: A report is about another checkpoint.
        SaveError: The card cannot be read or written.
    """
    directory = Path(directory)
    quantization = _quantization_in(directory)
    file = directory / "README.md"
    card = _read(file) or _new(directory.absolute().name)
    if drop is None and benchmark is None:
        report = carry_evidence(directory, [directory])
    else:
        report = add_evidence(directory, drop, benchmark)
    _renew(card, quantization, source or directory.absolute().name, report)
    write_text(file, card.content)
    return file


def quantization_of(model: Any) -> Quantization:
    """Facts about the quantization of a model, from its config."""
    return Quantization.of(type(model).__name__, model.config.quantization_config.to_dict())


def quantization_section(model: Any, source: str) -> str:
    """The card's section on quantization as Markdown: how to load, the plan in words, what stayed float and why."""
    return section(quantization_of(model), source, Report())


def _renew(card: ModelCard, quantization: Quantization, source: str, report: Report) -> None:
    data: Any = card.data
    tags = list(data.tags or [])
    data.tags = [*tags, *(tag for tag in ("hf_quant", "quantized") if tag not in tags)]
    if not data.library_name:
        data.library_name = "transformers"
    results = [entry for entry in data.eval_results or [] if not is_ours(entry)] + eval_results(report.drops)
    data.eval_results = results or None
    data.model_name = (data.model_name or Path(source).name) if results else None
    text = f"{_BEGIN}\n{section(quantization, source, report)}\n{_END}"
    pattern = re.compile(f"{re.escape(_BEGIN)}.*?{re.escape(_END)}", re.DOTALL)
    if pattern.search(card.text):
        card.text = pattern.sub(lambda _: text, card.text)
    else:
        # Below the title, where a reader looks; a generated card goes on for pages.
        # Before the first code block: in one, "# " begins a comment.
        title = re.search(r"^# .*\n", card.text.partition("```")[0], re.MULTILINE)
        place = title.end() if title else len(card.text)
        card.text = f"{card.text[:place].rstrip()}\n\n{text}\n{card.text[place:]}"


def _new(name: str) -> ModelCard:
    return ModelCard.from_template(
        ModelCardData(library_name="transformers"),
        template_str=f"---\n{{{{ card_data }}}}\n---\n\n# {Path(name).name}\n",
    )


def _read(existing: Path) -> ModelCard | None:
    if not existing.exists():
        return None
    try:
        return ModelCard(existing.read_text(encoding="utf-8"), ignore_metadata_errors=True)
    except (ValueError, YAMLError) as error:
        raise SaveError(
            f"{existing} is not a model card that can be extended ({error}): repair the block between the --- lines "
            "at its top, or move the file away"
        ) from error


def _quantization_in(directory: Path) -> Quantization:
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        settings = config["quantization_config"]
        if settings["quant_method"] != "hf_quant":
            raise KeyError("quant_method")
        return Quantization.of((config.get("architectures") or [""])[0], settings)
    except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
        raise CheckpointError(
            f"{directory} holds no checkpoint that this package has quantized ({type(error).__name__}: {error}): give "
            "the directory that a quantized model was saved to"
        ) from error


def _base_model(model: Any) -> str | None:
    # Only what was quantized here: a reloaded checkpoint's name is its own. The Hub refuses local paths.
    name = str(getattr(model.config, "name_or_path", ""))
    quantizer = getattr(model, "hf_quantizer", None)
    is_repository = re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and not Path(name).exists()
    return name if is_repository and quantizer is not None and not quantizer.pre_quantized else None
