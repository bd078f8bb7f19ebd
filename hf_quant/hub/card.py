"""The part of a model card that says what was quantized and how to load it."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from yaml import YAMLError

from hf_quant.errors import SaveError

_BEGIN, _END = "<!-- hf_quant: begin -->", "<!-- hf_quant: end -->"


def extend_card(model: Any, directory: Path, existing: Path, source: str) -> None:
    """Write ``directory/README.md``: the card at `existing`, if any, with its section on quantization made new.

    Args:
        model: Quantized; its config holds the resolved plan.
        directory: Where the card goes.
        existing: Card whose other text and metadata are kept.
        source: Repository id or directory to load from, for the example.
    """
    card = _read(existing)
    if card is None:
        name = getattr(model.config, "name_or_path", "") or type(model).__name__
        card = ModelCard.from_template(
            ModelCardData(library_name="transformers"),
            template_str=f"---\n{{{{ card_data }}}}\n---\n\n# {Path(name).name}\n",
        )
    data: Any = card.data
    tags = list(data.tags or [])
    data.tags = [*tags, *(tag for tag in ("hf_quant", "quantized") if tag not in tags)]
    if not data.library_name:
        data.library_name = "transformers"
    base = _base_model(model)
    if base is not None and not data.base_model:
        data.base_model, data.base_model_relation = base, "quantized"
    section = f"{_BEGIN}\n{quantization_section(model, source)}\n{_END}"
    pattern = re.compile(f"{re.escape(_BEGIN)}.*?{re.escape(_END)}", re.DOTALL)
    if pattern.search(card.text):
        card.text = pattern.sub(lambda _: section, card.text)
    else:
        # Below the title, where a reader looks; a generated card goes on for pages.
        # Before the first code block: in one, "# " begins a comment.
        title = re.search(r"^# .*\n", card.text.partition("```")[0], re.MULTILINE)
        place = title.end() if title else len(card.text)
        card.text = f"{card.text[:place].rstrip()}\n\n{section}\n{card.text[place:]}"
    card.save(directory / "README.md")


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


def quantization_section(model: Any, source: str) -> str:
    """Markdown: how to load, the plan in words, what stayed float and why."""
    config = model.config.quantization_config
    schemes = Counter(str(scheme) for scheme in config.plan.modules.values())
    auto_class = _auto_class(type(model).__name__)
    lines = [
        "## Quantization",
        "",
        "Quantized with hf_quant"
        + (f' (preset "{config.preset}"). ' if config.preset else ". ")
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
    ]
    kept = Counter(config.kept_float.values())
    if kept:
        lines += ["", "Left in float:", "", *(f"- {count} modules: {reason}" for reason, count in kept.most_common())]
    return "\n".join(lines)


def _auto_class(class_name: str) -> str:
    match = re.search(r"(For[A-Z]\w+)$", class_name)
    if match:
        return f"AutoModel{match.group(1)}"
    return "AutoModelForCausalLM" if class_name.endswith("LMHeadModel") else "AutoModel"


def _base_model(model: Any) -> str | None:
    # Only what was quantized here: a reloaded checkpoint's name is its own. The Hub refuses local paths.
    name = str(getattr(model.config, "name_or_path", ""))
    quantizer = getattr(model, "hf_quantizer", None)
    is_repository = re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and not Path(name).exists()
    return name if is_repository and quantizer is not None and not quantizer.pre_quantized else None
