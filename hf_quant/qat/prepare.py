"""Fake-quantized modules in the place of float ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from hf_quant.calibration.pairs import weight_matrix
from hf_quant.config.plan import Plan
from hf_quant.config.scheme import Scheme
from hf_quant.errors import PlanError
from hf_quant.modules.joined import base_of
from hf_quant.modules.swap import counterpart, exchange
from hf_quant.qat.modules import FAKES, FakeQuantized
from hf_quant.qat.options import QATOptions


def prepare(model: nn.Module, plan: Plan, ties: dict[str, str], options: QATOptions | None = None) -> None:
    """Replace float modules by fake-quantized ones, in place. Parameters stay the same objects.

    Args:
        model: Float model; changed in place.
        plan: Plan resolved for this model: exact names, with group sizes settled.
        ties: Module whose weight belongs to another module, to that owner, from an `Inventory`.
        options: How grids are found; None for the defaults.

    Raises:
        PlanError: The plan quantizes nothing.
        WeightError: A weight holds NaN or Inf; the model is as it was.
    """
    options = options or QATOptions()
    chosen = {name: scheme for name, scheme in plan.modules.items() if scheme is not None}
    if not chosen:
        raise PlanError("the plan quantizes no module of the model: name modules by patterns, or take a preset")
    made: dict[str, FakeQuantized] = {}
    # Owners of shared weights before those who share them.
    for name in sorted(chosen, key=lambda name: name in ties):
        made[name] = _fake(model.get_submodule(name), name, chosen[name], made.get(ties.get(name, "")), options)
    exchange(model, made)


def fake_quantized_modules(model: nn.Module) -> Iterator[tuple[str, FakeQuantized]]:
    """Modules that `prepare` made, by name."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, FakeQuantized))


def _fake(
    module: nn.Module, name: str, scheme: Scheme, owner: FakeQuantized | None, options: QATOptions
) -> FakeQuantized:
    fake_class: Any = FAKES[base_of(type(module))]
    fake: FakeQuantized = fake_class.__new__(fake_class)
    nn.Module.__init__(fake)
    # The same attributes under another class: nothing of the float module is lost or repeated here.
    fake.__dict__.update({k: v.copy() if isinstance(v, dict | set) else v for k, v in module.__dict__.items()})
    counterpart(module, fake)
    fake.start(scheme, name, options, owner)
    if scheme.weight.has_scales and owner is None:
        fake.weight_quantizer.initialise(weight_matrix(fake, fake.weight), f"{name}.weight")
        # Nothing to learn where the weight itself is frozen.
        fake.weight_quantizer.requires_grad_(fake.weight.requires_grad)
    fake.train(module.training)
    return fake
