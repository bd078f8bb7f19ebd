"""Finding what can be fused in a model, and fusing it."""

from __future__ import annotations

import logging

import torch
from torch import nn

from hf_quant.fusion.blocks import NATIVE, FusedActivation, FusedGatedMlp, FusedMlp
from hf_quant.fusion.mixin import Fused, fuse_module, unfuse_module
from hf_quant.fusion.norm import FusedRmsNorm
from hf_quant.fusion.post_norm import FusedFeedForward, FusedOutput
from hf_quant.fusion.siblings import Siblings, find_siblings
from hf_quant.kernels.native.library import load
from hf_quant.modules.base import QuantizedModule
from hf_quant.modules.linear import QuantizedLinear
from hf_quant.modules.swap import quantized_modules

logger = logging.getLogger(__name__)

FUSIONS: tuple[type[Fused], ...] = (
    FusedGatedMlp,
    FusedMlp,
    FusedActivation,
    FusedOutput,
    FusedFeedForward,
    FusedRmsNorm,
)

_TOLERANCE = 0.05
"""Relative error, in norm, that both ways may differ by: sums in another order can round an input to another code."""


def fuse(model: nn.Module) -> None:
    """Fuse what can be, in place: feed-forward blocks, norms, and linears on one input.

    A block is fused only if, run on random input, it gives what it gave before. Nothing happens without native kernels.
    """
    if load() is None or all(module.kernel != NATIVE for _, module in quantized_modules(model)):
        return
    if any(module.rescaled for _, module in quantized_modules(model)):
        unfuse(model)
        for _, quantized in quantized_modules(model):
            quantized.rescaled = False
    # Parts before the wholes that are made of them.
    for module in reversed(list(model.modules())):
        if isinstance(module, Fused | QuantizedModule) or module is model:
            continue
        if any(_fused_and_proved(module, mixin) for mixin in FUSIONS):
            continue
        members = find_siblings(module)
        if members and not any(member.siblings for member in members):
            siblings = Siblings(members)
            for member in members:
                member.siblings = siblings


def unfuse(model: nn.Module) -> None:
    """Undo `fuse`."""
    for module in model.modules():
        unfuse_module(module)
        if isinstance(module, QuantizedLinear):
            module.siblings = None


def _fused_and_proved(module: nn.Module, mixin: type[Fused]) -> bool:
    candidates = mixin.applies(module)
    if not candidates:
        return False
    inputs = mixin.inputs(module)
    before = _output(module, mixin, inputs)
    if before is None:
        return False
    for facts in candidates:
        fuse_module(module, mixin, facts)
        after = _output(module, mixin, inputs)
        if after is not None and after.shape == before.shape:
            difference = (after.float() - before.float()).norm() / before.float().norm().clamp(min=1e-30)
            if bool(difference < _TOLERANCE):
                return True
        unfuse_module(module)
    logger.debug("%s is not what %s computes: left as it is", type(module).__name__, mixin.__name__)
    return False


@torch.no_grad()
def _output(module: nn.Module, mixin: type[Fused], inputs: tuple[torch.Tensor, ...]) -> torch.Tensor | None:
    training = module.training
    module.eval()
    try:
        output = mixin.call(module, *inputs)
    except Exception:  # it takes other arguments: no block of the kind
        return None
    finally:
        module.train(training)
    return output if isinstance(output, torch.Tensor) else None
