"""The models of the article's table, and what the article says of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import BertModel, GPT2LMHeadModel, LlamaForCausalLM

PRESETS = ("int8", "int4")


@dataclass(frozen=True)
class Row:
    """One model.

    Args:
        title: As the article has it.
        shape: Name in `benchmarks.checkpoints.SHAPES`.
        model_class: Of Transformers.
        family: ``model_type`` of the real models whose accuracy stands for it.
        article: Original and INT8 size, speed-up and loss of accuracy, in the article's words.
        layers: That its speed is measured with; None for all.
    """

    title: str
    shape: str
    model_class: Any
    family: str
    article: tuple[str, str, str, str]
    layers: int | None = None


ROWS = (
    Row("BERT-base (110M)", "bert-base", BertModel, "bert", ("440 MB", "110 MB", "2.1 x", "0.8 %")),
    Row("GPT-2 (1.5B)", "gpt2-xl", GPT2LMHeadModel, "gpt2", ("6 GB", "1.5 GB", "2.3 x", "1.2 %")),
    Row("Llama-7B", "llama-7b", LlamaForCausalLM, "llama", ("28 GB", "7 GB", "2.5 x", "1.5 %"), 4),
    Row("Llama-13B", "llama-13b", LlamaForCausalLM, "llama", ("52 GB", "13 GB", "2.4 x", "1.8 %"), 4),
    Row("Llama-70B", "llama-70b", LlamaForCausalLM, "llama", ("280 GB", "70 GB", "2.6 x", "2.1 %"), 2),
)
"""The article gives one saving of memory for all of them: 75 %."""

MEASURED_WHOLE = ("bert-base", "gpt2-xl")
"""Shapes whose files are written and weighed; of the others, sizes are computed."""
