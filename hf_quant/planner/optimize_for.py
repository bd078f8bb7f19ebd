"""A plan for a machine by rules, each choice with its reason: no data, no measuring, no search."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from torch import nn

from hf_quant.config.plan import Candidate, Plan, fit
from hf_quant.config.presets import PRESETS
from hf_quant.config.scheme import Scheme, TensorScheme
from hf_quant.errors import ConfigError
from hf_quant.hardware.profile import Profile
from hf_quant.hardware.profiles import get_profile
from hf_quant.modules.inventory import Inventory
from hf_quant.opening.open import opens_model
from hf_quant.planner.cost.disk import plan_bytes
from hf_quant.planner.offered import is_aligned
from hf_quant.registry import unknown

logger = logging.getLogger(__name__)

TARGETS = {
    "speed": "the fastest that the machine's kernels compute with",
    "memory": "the fewest bits that the machine takes",
    "accuracy": "the least loss that saves anything and fits its memory",
}
"""Names of targets to what each means."""

_BY_BITS = ("fp32", "fp16", "bf16", "int16", "w8a16", "int8", "int8-static", "w4a16", "int4")
"""Presets from the most bits to the fewest; of equal bits, the more exact first."""
_WITHOUT_DATA = ("int8-static",)
"""Calibrated presets are passed over: rules have no data."""
_ROOM = 0.8
"""Share of the memory that weights may take, the rest being for activations, caches and the system."""


@dataclass(frozen=True)
class Choice:
    """The scheme of one module, and why.

    Args:
        module: Name of the module.
        scheme: Scheme of the module; None leaves it float.
        preset: Name of the preset that the scheme is from; ``"float"`` without one.
        reason: Why this scheme, in words.
    """

    module: str
    scheme: Scheme | None
    preset: str
    reason: str


@dataclass(frozen=True)
class Advice:
    """A plan for a machine, and the reasons for it.

    Args:
        profile: Profile of the machine.
        target: What was optimized for: ``"speed"``, ``"memory"`` or ``"accuracy"``.
        choices: One choice for each module that can be quantized, in the order of the model.
        bytes: Bytes of the model on disk under the plan.
        memory: Whether the weights fit the machine's memory, in words.
        fits: Whether the weights fit the machine's memory; None where the profile names no size.
    """

    profile: Profile
    target: str
    choices: tuple[Choice, ...]
    bytes: int
    memory: str
    fits: bool | None

    @property
    def plan(self) -> Plan:
        """The plan: exact module names to schemes."""
        return Plan({choice.module: choice.scheme for choice in self.choices})

    def lines(self) -> list[str]:
        """The advice as lines of text: one for each reason, with the number of its modules, and one on memory."""
        counts: dict[tuple[str, str], list[str]] = {}
        for choice in self.choices:
            counts.setdefault((choice.preset, choice.reason), []).append(choice.module)
        shown = (
            f"{preset}: {modules[0] if len(modules) == 1 else f'{len(modules)} modules'}, {reason}"
            for (preset, reason), modules in counts.items()
        )
        return [*shown, self.memory]


def optimize_for(model: nn.Module, hardware: str | Profile, target: str = "speed") -> Plan:
    """A plan for a machine, made by rules; the reasons are logged, and `advise` returns them.

    Args:
        model: Float model on any device; only shapes are read.
        hardware: Name of a profile, or a `Profile` of your own.
        target: What to optimize for: ``"speed"``, ``"memory"`` or ``"accuracy"``.

    Raises:
        UnknownName: There is no such profile; all are listed, with the nearest.
        ConfigError: There is no such target.
        UnsupportedModel: The model is quantized already.
    """
    advice = advise(model, hardware, target)
    for line in advice.lines():
        logger.info("%s, %s: %s", advice.profile.name, target, line)
    return advice.plan


@opens_model
def advise(model: Any, hardware: str | Profile, target: str = "speed") -> Advice:
    """A plan for a machine, with the reason for each choice and whether the model fits its memory.

    Arguments and errors are those of `optimize_for`.
    """
    profile = get_profile(hardware) if isinstance(hardware, str) else hardware
    if target not in TARGETS:
        raise ConfigError(unknown("target", target, TARGETS))
    inventory, ranked = Inventory.of(model), _ranked(profile, target)
    for index, preset in enumerate(ranked):
        choices = _choices(inventory, profile, target, preset)
        size = plan_bytes(model, Plan({choice.module: choice.scheme for choice in choices}), inventory=inventory)
        fits, memory = described_memory(profile, size)
        # For accuracy, the first that fits; for the others the first is meant, whether or not it does.
        if fits is not False or target != "accuracy" or index == len(ranked) - 1:
            break
    return Advice(profile, target, choices, size, memory, fits)


def _ranked(profile: Profile, target: str) -> list[str]:
    """Names of presets in the order in which they are tried."""
    usable = [name for name in profile.schemes if name not in _WITHOUT_DATA and _is_allowed(profile, name)]
    by_bits = sorted(usable, key=_BY_BITS.index)
    if target == "accuracy":
        # 32 bits save nothing, and floats of 16 bits only memory where they are not computed with.
        return [name for name in by_bits if PRESETS[name].linear.weight.has_scales or name in profile.fast]
    if target == "memory":
        return by_bits[::-1]
    fast = [name for name in profile.fast if name in usable]
    preferred = [profile.preferred] if profile.preferred in fast else []
    return list(dict.fromkeys([*preferred, *fast])) or by_bits


def _is_allowed(profile: Profile, preset: str) -> bool:
    return not (profile.per_channel and PRESETS[preset].linear.weight.granularity == "group")


def _choices(inventory: Inventory, profile: Profile, target: str, preset: str) -> tuple[Choice, ...]:
    found = inventory.candidates
    chosen = {name: _choice(name, candidate, profile, target, preset) for name, candidate in found.items()}
    for name, other in inventory.held.items():
        chosen[name] = Choice(name, None, "float", f"tied to {other}, which stays float")
    for owner in dict.fromkeys(inventory.ties.values()):
        group = inventory.group(owner)
        # What is multiplied with has to suit the kernels; rows can be read from any codes.
        leader = next((name for name in group if found[name].kind != "embedding"), owner)
        one = chosen[leader]
        for name in group:
            scheme = None if one.scheme is None else fit(one.scheme, found[name], name)
            if _weight(scheme) != _weight(chosen[name].scheme):
                chosen[name] = Choice(name, scheme, one.preset, f"tied to {leader}: one set of codes serves both")
    return tuple(chosen.values())


def _weight(scheme: Scheme | None) -> TensorScheme | None:
    return None if scheme is None else scheme.weight


def _choice(name: str, candidate: Candidate, profile: Profile, target: str, preset: str) -> Choice:
    wanted = TARGETS[target]
    scheme = fit(PRESETS[preset].scheme_for(candidate.kind, candidate.width), candidate, name)
    if not scheme.weight.has_scales:
        return Choice(name, scheme, preset, f"{wanted} ({scheme})")
    if candidate.kind == "embedding":
        return Choice(
            name, scheme, preset, f"rows of {scheme.weight.bits} bits: an embedding is looked up, not computed"
        )
    if candidate.kind == "filters":
        return Choice(name, scheme, preset, f"{scheme}: filters of a convolution in groups are few numbers")
    if not is_aligned(scheme, candidate, profile.alignment):
        return _next_best(name, candidate, profile, preset, scheme.weight.group_size or candidate.width)
    if candidate.kind == "head":
        return Choice(
            name, scheme, preset, f"the head, whose errors reach the output at once, keeps {scheme.weight.bits} bits"
        )
    decoded = "" if preset in profile.fast else "; codes are decoded before a float product there, which saves no time"
    return Choice(name, scheme, preset, f"{wanted} ({scheme}){decoded}")


def _next_best(name: str, candidate: Candidate, profile: Profile, preset: str, group: int) -> Choice:
    size = f"width {candidate.width}" if group == candidate.width else f"groups of {group}"
    verb = "is" if group == candidate.width else "are"
    why = f"{size} {verb} no multiple of {profile.alignment}, as {preset} needs on {profile.name}"
    if candidate.width % profile.alignment == 0:
        for other in profile.schemes:
            scheme = PRESETS[other].scheme_for(candidate.kind, candidate.width)
            per_channel = scheme.weight.has_scales and scheme.weight.granularity == "channel"
            if per_channel and other not in _WITHOUT_DATA:
                return Choice(name, fit(scheme, candidate, name), other, f"{why}; per channel instead")
    sixteen = next((other for other in ("bf16", "fp16") if other in profile.fast), None)
    if sixteen is None:
        return Choice(name, None, "float", f"{why}; left float")
    return Choice(name, PRESETS[sixteen].linear, sixteen, f"{why}; 16-bit floats instead")


def described_memory(profile: Profile, size: int) -> tuple[bool | None, str]:
    """Whether weights of so many bytes fit a machine's memory, None where that is not known; and the same in words."""
    shown = f"{size / 1e6:.1f} MB of weights"
    if profile.memory is None:
        return None, f"{shown}; {profile.name} comes with several sizes of memory: compare with yours"
    room = _ROOM * profile.memory.value
    if size <= room:
        return (
            True,
            f"{shown} fit {profile.name}: {room / 1e6:.0f} MB of its {profile.memory.value / 1e6:.0f} MB are free",
        )
    return (
        False,
        f"{shown} do not fit {profile.name}: {(size - room) / 1e6:.1f} MB more than the {room / 1e6:.0f} MB there are",
    )
