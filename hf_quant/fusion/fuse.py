"""Finding what can be fused in a model, and fusing it."""

from __future__ import annotations

import logging

import torch
from torch import nn

from hf_quant.fusion.agreement import agree, output
from hf_quant.fusion.blocks import FusedActivation, FusedGatedMlp, FusedMlp
from hf_quant.fusion.convolution import FusedConvolution, FusedConvolutionBlock
from hf_quant.fusion.experts import FusedExperts
from hf_quant.fusion.mixin import Fused, fuse_module, unfuse_module
from hf_quant.fusion.norm import FusedNorm
from hf_quant.fusion.post_norm import FusedFeedForward, FusedOutput
from hf_quant.fusion.recurrent import FusedRecurrent
from hf_quant.fusion.siblings import Siblings, find_siblings
from hf_quant.modules.base import QuantizedModule
from hf_quant.modules.experts import Expert
from hf_quant.modules.linear import QuantizedLinear
from hf_quant.modules.swap import quantized_modules

logger = logging.getLogger(__name__)

FUSIONS: tuple[type[Fused], ...] = (
    FusedGatedMlp,
    FusedMlp,
    FusedActivation,
    FusedOutput,
    FusedFeedForward,
    FusedNorm,
    FusedExperts,
    FusedRecurrent,
    FusedConvolution,
    FusedConvolutionBlock,
)


def fuse(model: nn.Module) -> None:
    """Fuse what can be, in place: feed-forward blocks, norms, and linears on one input.

    A part is fused only if it computes, element by element, what the native call does: with float linears of any
    weights to float rounding, and as it is to what rounding its inputs explains. Nothing happens without native
    kernels.
    """
    if not any(module.fuses for _, module in quantized_modules(model)):
        return
    if any(module.rescaled for _, module in quantized_modules(model)):
        unfuse(model)
        for _, quantized in quantized_modules(model):
            quantized.rescaled = False
    # Parts before the wholes that are made of them.
    for module in reversed(list(model.modules())):
        # A forward of an instance's own is not the one that would be exchanged.
        if isinstance(module, Fused | QuantizedModule | Expert) or module is model or "forward" in vars(module):
            continue
        if any(_fused_and_proved(module, mixin) for mixin in FUSIONS):
            continue
        members = find_siblings(module)
        if members and not any(member.siblings for member in members):
            siblings = Siblings(members)
            for member in members:
                member.siblings = siblings


def unfuse(model: nn.Module) -> None:
    """Undo all fusions of a model in place: modules get their own `forward` back, and siblings compute alone."""
    for module in model.modules():
        unfuse_module(module)
        if isinstance(module, QuantizedLinear):
            module.siblings = None


def _fused_and_proved(module: nn.Module, mixin: type[Fused]) -> bool:
    for facts in mixin.applies(module):
        if not mixin.proved(module, facts):
            continue
        inputs, tolerance = mixin.inputs(module), mixin.tolerance(module)
        before = _output(module, mixin, inputs)
        fuse_module(module, mixin, facts)
        if before is not None and agree(_output(module, mixin, inputs), before, tolerance):
            return True
        unfuse_module(module)
        logger.warning(
            "%s computes what %s does, but not the same numbers: left as it is, and slower",
            type(module).__name__,
            mixin.__name__,
        )
    return False


def _output(module: nn.Module, mixin: type[Fused], inputs: tuple[torch.Tensor, ...]) -> object:
    training = module.training
    module.eval()
    try:
        return output(mixin.call, module, *inputs)
    finally:
        module.train(training)
