"""What has to be known of a loaded model before it is timed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from hf_quant.evaluation.file_size import computed_bytes
from hf_quant.evaluation.memory import weight_bytes
from hf_quant.workflows.inspect import inspect

CAUSAL, ENCODER, ENCODER_DECODER = "causal language model", "encoder", "encoder-decoder"


@dataclass(frozen=True)
class Facts:
    """Of one model; JSON-ready.

    Args:
        model_class: Name of its class.
        kind: ``CAUSAL``, ``ENCODER`` (whatever reads its input at once) or ``ENCODER_DECODER``.
        vocabulary: Token ids that it knows; None where it takes none.
        positions: Most tokens that it reads; None where it does not say.
        preset: As in `ModelFigures`, and what follows.
        schemes: Scheme or dtype to modules.
        kernels: Kernel to modules.
        parameters: Tied ones once.
        computed_bytes: Of the file it would be saved to.
        weight_bytes: In memory.
    """

    model_class: str
    kind: str
    vocabulary: int | None
    positions: int | None
    preset: str | None
    schemes: dict[str, int]
    kernels: dict[str, int]
    parameters: int
    computed_bytes: int
    weight_bytes: int


def facts_of(model: Any) -> Facts:
    """What is to be known of a Transformers model."""
    config, report = model.config, inspect(model)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    kind = CAUSAL if model.can_generate() else ENCODER
    if getattr(config, "is_encoder_decoder", False):
        kind = ENCODER_DECODER
    return Facts(
        model_class=type(model).__name__,
        kind=kind,
        vocabulary=getattr(text, "vocab_size", None),
        positions=getattr(text, "max_position_embeddings", None),
        preset=getattr(getattr(config, "quantization_config", None), "preset", None),
        schemes=dict(Counter(row.scheme for row in report.rows).most_common()),
        kernels=dict(Counter(row.kernel for row in report.rows if row.kernel).most_common()),
        parameters=report.parameters,
        computed_bytes=computed_bytes(model),
        weight_bytes=weight_bytes(model),
    )
