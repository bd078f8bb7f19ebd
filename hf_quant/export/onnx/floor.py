"""How far the outputs of a model move where the last bits of its numbers do."""

from __future__ import annotations

from typing import Any

import torch

from hf_quant.export.comparing import WEIGHT_ONLY, main_output, relative_error
from hf_quant.modules.swap import quantized_modules

_CHANGE = 1e-6
_CHANGES = 6


@torch.no_grad()
def allowed_error(model: Any, inputs: dict[str, torch.Tensor], expected: torch.Tensor) -> float:
    """Relative error of the main output that a graph with the same numbers may have.

    With float inputs it is that of float32 sums in another order. Where inputs are quantized, or the model computes in
    fewer bits than its graph, it is twice the most that one of a few weights, changed by a millionth, does to the model
    itself: where there are few inputs, it is chance whether one change moves a code.

    Args:
        model: Quantized; as it was afterwards.
        inputs: Its inputs.
        expected: Its main output for them.
    """
    if has_float_inputs(model):
        return WEIGHT_ONLY
    norms = [p for name, p in model.named_parameters() if p.ndim == 1 and p.is_floating_point() and "bias" not in name]
    chosen = norms[:: max(1, len(norms) // _CHANGES)][:_CHANGES]
    return max([WEIGHT_ONLY, *(2 * _effect(model, inputs, expected, each) for each in chosen)])


def has_float_inputs(model: Any) -> bool:
    """Whether a model computes in float32 throughout, on weights that may be quantized."""
    return model.dtype == torch.float32 and all(
        module.spec.scheme.input is None for _, module in quantized_modules(model)
    )


def _effect(model: Any, inputs: dict[str, torch.Tensor], expected: torch.Tensor, weight: torch.nn.Parameter) -> float:
    kept = weight.data
    noise = torch.randn(kept.shape, generator=torch.Generator().manual_seed(0))
    weight.data = (kept.float() * (1 + max(_CHANGE, torch.finfo(kept.dtype).eps) * noise)).to(kept.dtype)
    try:
        return relative_error(main_output(model(**inputs)).float(), expected)
    finally:
        weight.data = kept
