"""The part of a model card that says what was quantized and how to load it."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

_BEGIN, _END = "<!-- hf_quant: begin -->", "<!-- hf_quant: end -->"


def extend_card(model: Any, directory: Path, existing: Path) -> None:
    """Write ``directory/README.md``: the card at `existing`, if any, with its section on quantization made new.

    Args:
        model: Quantized; its config holds the resolved plan.
        directory: Where the card goes.
        existing: Card whose other text and metadata are kept.
    """
    card = ModelCard(existing.read_text(encoding="utf-8"), ignore_metadata_errors=True) if existing.exists() else None
    if card is None:
        name = getattr(model.config, "name_or_path", "") or type(model).__name__
        card = ModelCard.from_template(
            ModelCardData(library_name="transformers"), template_str="---\n{{ card_data }}\n---\n\n" f"# {Path(name).name}\n"
        )
    tags = list(card.data.tags or [])
    card.data.tags = [*tags, *(tag for tag in ("hf_quant", "quantized") if tag not in tags)]
    if not card.data.library_name:
        card.data.library_name = "transformers"
    section = f"{_BEGIN}\n{quantization_section(model)}\n{_END}"
    pattern = re.compile(f"{re.escape(_BEGIN)}.*?{re.escape(_END)}", re.DOTALL)
    if pattern.search(card.text):
        card.text = pattern.sub(lambda _: section, card.text)
    else:
        card.text = f"{card.text.rstrip()}\n\n{section}\n"
    card.save(directory / "README.md")


def quantization_section(model: Any) -> str:
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
        f'model = {auto_class}.from_pretrained("{{this repository or directory}}")',
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
