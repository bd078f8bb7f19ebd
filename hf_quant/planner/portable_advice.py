"""A plan by rules, changed as little as an export target asks for."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from hf_quant.config.plan import Plan
from hf_quant.hardware.profile import Profile
from hf_quant.modules.inventory import Inventory
from hf_quant.opening.open import opens_model
from hf_quant.planner.cost.disk import plan_bytes
from hf_quant.planner.optimize_for import Advice, advise, described_memory
from hf_quant.portability import TARGETS
from hf_quant.portability.facts import Facts, Part
from hf_quant.portability.kinds import made_as
from hf_quant.portability.overrides import overrides_of


def portable_advice(model: nn.Module, hardware: str | Profile, target: str, portable_to: str) -> Advice:
    """What `advise` gives, with another scheme, and the reason, for each module whose own an export target refuses.

    Args:
        model: Float model on any device; only shapes are read.
        hardware: As `advise` takes it.
        target: What to optimize for, likewise.
        portable_to: Name of an export target.

    Raises:
        UnknownName: There is no such profile or export target.
        ConfigError: There is no such target to optimize for.
        UnsupportedModel: The model is quantized already.
    """
    facts: Facts = TARGETS[portable_to]
    return _changed(model, advise(model, hardware, target), facts, portable_to)


@opens_model
def _changed(model: nn.Module, advice: Advice, facts: Facts, portable_to: str) -> Advice:
    inventory = Inventory.of(model)
    kinds = made_as(model, {name: type(model.get_submodule(name)) for name in inventory.candidates})
    parts = [
        Part(
            choice.module,
            inventory.candidates[choice.module].kind,
            inventory.candidates[choice.module].width,
            choice.scheme,
            kinds[choice.module],
            inventory.ties.get(choice.module, ""),
        )
        for choice in advice.choices
        if choice.scheme is not None
    ]
    verdicts = {part.name: facts.verdict(part) for part in parts}
    changes = overrides_of(parts, list(verdicts.values()))
    choices = []
    for choice in advice.choices:
        if choice.module in changes:
            scheme, why = changes[choice.module], verdicts[choice.module].reason or "what it shares its weight with"
            name, before = "float" if scheme is None else str(scheme), str(choice.scheme)
            how = f"in the place of {before}" if before != name else "changed"
            choice = replace(choice, scheme=scheme, preset=name, reason=f"{how} for {portable_to}: {why}")
        choices.append(choice)
    plan = Plan({choice.module: choice.scheme for choice in choices})
    size = plan_bytes(model, plan, inventory=inventory)
    fits, memory = described_memory(advice.profile, size)
    return replace(advice, choices=tuple(choices), bytes=size, memory=memory, fits=fits)
