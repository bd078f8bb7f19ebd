"""Grids of static inputs from what was observed of them, or of other experts of the layer."""

from __future__ import annotations

import logging

import torch
from torch import nn

from hf_quant.modules.experts import expert_layers
from hf_quant.qat.input import StaticInput
from hf_quant.qat.prepare import fake_quantized_modules

logger = logging.getLogger(__name__)


@torch.no_grad()
def initialise_inputs(model: nn.Module) -> bool:
    """Set every learned grid of a static input that has none yet; whether there was any.

    Experts that no token was sent to while inputs were observed take the widest range among the experts of their layer,
    which a warning says.

    Raises:
        CalibrationError: Nothing of an input was observed, nor in other experts.
    """
    fakes = ((name, getattr(module, "input_quantizer", None)) for name, module in fake_quantized_modules(model))
    statics = {name: static for name, static in fakes if isinstance(static, StaticInput)}
    new = {name: static for name, static in statics.items() if not static.grid.is_initialised}
    for name, static in new.items():
        static.next_step(name)
    within = {
        f"{layer}.{expert}.{part}": (layer, part)
        for layer, experts in expert_layers(model)
        for expert in range(experts.experts)
        for stack in experts.stacks
        for part in stack.parts
    }
    unseen = []
    for name, static in new.items():
        if int(static.batches) or name not in within:
            continue
        alike = [each for other, each in statics.items() if within.get(other) == within[name]]
        seen = [each for each in alike if int(each.batches) and each.scheme == static.scheme]
        if seen:
            static.low.copy_(torch.stack([each.low for each in seen]).amin())
            static.high.copy_(torch.stack([each.high for each in seen]).amax())
            static.batches.fill_(1)
            unseen.append(name)
    if unseen:
        logger.warning(
            "static inputs of %d linears, such as %s, are of experts that no token reached while inputs were observed: "
            "they begin with the widest range among the experts of the layer. More observer_steps would reach more",
            len(unseen),
            unseen[0],
        )
    for name, static in new.items():
        static.initialise(name)
    return bool(new)
