"""What has to be known of a loaded model before it is timed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from hf_quant.evaluation.file_size import computed_bytes
from hf_quant.evaluation.memory import weight_bytes
from hf_quant.modules.positions import most_tokens
from hf_quant.workflows.inspect import inspect

CAUSAL, ENCODER, ENCODER_DECODER = "causal language model", "encoder", "encoder-decoder"


@dataclass(frozen=True)
class Facts:
    """Facts about a loaded model; all fields are JSON-ready.

    Args:
        model_class: Name of the model's class.
        kind: Kind of the model: ``CAUSAL``, ``ENCODER`` (whatever reads its input at once) or ``ENCODER_DECODER``.
        vocabulary: Number of token ids that the model knows; None where it takes none.
        positions: Most tokens that the model reads; None where its config does not say.
        preset: Preset of a quantized model; None without one.
        schemes: Scheme, or dtype of float modules, to the number of modules.
        kernels: Name of a kernel to the number of modules that it computes.
        parameters: Number of elements of weights and biases, tied ones counted once.
        computed_bytes: Bytes of the files that the model would be saved to.
        weight_bytes: Bytes of memory that the weights take, kernels' layouts included.
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
    """Facts about a Transformers model."""
    config, report = model.config, inspect(model)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    kind = CAUSAL if model.can_generate() else ENCODER
    if getattr(config, "is_encoder_decoder", False):
        kind = ENCODER_DECODER
    return Facts(
        model_class=type(model).__name__,
        kind=kind,
        vocabulary=getattr(text, "vocab_size", None),
        positions=most_tokens(model),
        preset=getattr(getattr(config, "quantization_config", None), "preset", None),
        schemes=dict(Counter(row.scheme for row in report.rows).most_common()),
        kernels=dict(Counter(row.kernel for row in report.rows if row.kernel).most_common()),
        parameters=report.parameters,
        computed_bytes=computed_bytes(model),
        weight_bytes=weight_bytes(model),
    )
