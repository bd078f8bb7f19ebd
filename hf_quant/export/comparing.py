"""An artefact against the model that it was made of: the same inputs to both, and how far rounding may carry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hf_quant.evaluation.random_inputs import run_on_random_inputs
from hf_quant.export.config import dtype_of
from hf_quant.modules.stored import StoredModule
from hf_quant.modules.swap import quantized_modules

WEIGHT_ONLY = 1e-5
"""Relative error that float32 sums in another order may make of outputs, where inputs are floats."""
_NUDGE = 1e-6
_NUDGES = 8
_FLOORS = 2


def main_output(result: Any) -> Tensor:
    """Logits, or the first tensor, of what a model of Transformers returns."""
    return result.logits if "logits" in result else result[0]


@torch.no_grad()
def sample(model: Any, seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    """Random inputs that a model takes, and its main output for them, in float32.

    Weights that are stored as floats of another dtype are computed with in that of the model, as elsewhere.

    Raises:
        EvaluationError: What the model reads is not known.
    """
    with in_one_dtype(model):
        return run_on_random_inputs(model, lambda inputs: main_output(model(**inputs)).float().clone(), seed)


@contextmanager
def in_one_dtype(model: nn.Module) -> Iterator[None]:
    """Context in which weights that are stored as floats of another dtype are of the model's."""
    dtype = dtype_of(model)
    stored = [module for module in model.modules() if isinstance(module, StoredModule)]
    before = [module.weight for module in stored]
    for module in stored:
        module._parameters["weight"] = nn.Parameter(module.weight.detach().to(dtype), requires_grad=False)
    try:
        yield
    finally:
        for module, weight in zip(stored, before, strict=True):
            module._parameters["weight"] = weight


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Error in norm, relative to what is expected."""
    found, expected = found.double(), expected.double()
    return float((found - expected).norm() / expected.norm().clamp_min(1e-30))


def allowed_error(model: Any, inputs: Mapping[str, Tensor], expected: Tensor) -> float:
    """How far an exact artefact's outputs may lie from the model's own, relative.

    Where inputs are quantized, a last bit that differs makes a code differ, and that others: what a change of one
    weight by a millionth does to the model itself says how far this goes, and twice as much is allowed. So it is where
    floats have fewer bits than float32.
    """
    has_float_inputs = all(module.spec.scheme.input is None for _, module in quantized_modules(model))
    if has_float_inputs and dtype_of(model) == torch.float32:
        return WEIGHT_ONLY
    return max(WEIGHT_ONLY, _FLOORS * rounding_floor(model, inputs, expected))


@torch.no_grad()
def rounding_floor(model: Any, inputs: Mapping[str, Tensor], expected: Tensor) -> float:
    """Largest relative change of a model's main output where one weight changes by a millionth, or by its last bits.

    The weights are those of the first norms, whose changes go the farthest: one alone may happen to change no code.
    """
    norms = [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.ndim == 1 and parameter.is_floating_point() and name.endswith("weight")
    ]
    floor = 0.0
    for turn in range(_NUDGES if norms else 0):
        with in_one_dtype(model), _nudged(norms[turn % len(norms)], turn):
            floor = max(floor, relative_error(main_output(model(**inputs)).float(), expected))
    return floor


@contextmanager
def _nudged(parameter: nn.Parameter, seed: int) -> Iterator[None]:
    kept = parameter.data
    noise = torch.randn(kept.shape, generator=torch.Generator().manual_seed(seed)).to(kept.device)
    parameter.data = (kept.float() * (1 + max(_NUDGE, torch.finfo(kept.dtype).eps) * noise)).to(kept.dtype)
    try:
        yield
    finally:
        parameter.data = kept
