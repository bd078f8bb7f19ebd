"""Schemes that modules are offered: all that search well, or what a machine has instructions for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hf_quant.config.plan import Candidate
from hf_quant.config.presets import PRESETS
from hf_quant.config.scheme import Scheme, TensorScheme
from hf_quant.errors import ConfigError
from hf_quant.hardware.profile import Profile
from hf_quant.hardware.profiles import get_profile


def _groups(bits: int) -> Scheme:
    inputs = TensorScheme(bits=8, granularity="group", dynamic=True)
    return Scheme(TensorScheme(bits=bits, symmetric=False, granularity="group"), inputs)


SCHEMES: dict[str, Scheme] = {
    "2 bits": _groups(2),
    "3 bits": _groups(3),
    "4 bits": PRESETS["int4"].linear,
    "5 bits": _groups(5),
    "6 bits": _groups(6),
    "8 bits": PRESETS["int8"].linear,
    "16 bits": PRESETS["bf16"].linear,
}
"""Schemes that modules are offered by default, beside staying float; 4 and 8 bits as in presets ``int4``, ``int8``."""


def offered(schemes: Sequence[Scheme] | None, hardware: str | None) -> list[Scheme]:
    """Schemes that modules are offered: those given or the default ones, restricted to what a profile has.

    Args:
        schemes: Schemes to choose from; None: `SCHEMES`, or with `hardware` the profile's fastest preset of each number
            of bits.
        hardware: Name of a profile; None for any machine.

    Raises:
        ConfigError: Nothing is left.
        UnknownName: There is no such profile.
    """
    if schemes is not None and not schemes:
        raise ConfigError("no scheme is offered: leave schemes out, or give some")
    if hardware is None:
        return list(SCHEMES.values() if schemes is None else schemes)
    profile = get_profile(hardware)
    presets = _presets_of(profile)
    if schemes is None:
        return list(presets.values())
    found = [scheme for scheme in schemes if _is_taken(scheme, profile)]
    if not found:
        raise ConfigError(f"{hardware} takes none of the schemes that are offered, but such as {', '.join(presets)}")
    return found


def is_aligned(scheme: Scheme, candidate: Candidate, alignment: int) -> bool:
    """Whether a module's width and groups are multiples of an alignment, as integer kernels need.

    Args:
        scheme: Scheme of the module, its group size settled.
        candidate: The module; an embedding's rows are looked up, so that any width will do.
        alignment: Number that the profile's kernels need widths and groups to be a multiple of.
    """
    if not scheme.weight.facts.is_even or candidate.kind in ("embedding", "filters"):
        return True
    group = scheme.weight.group_size or candidate.width
    return candidate.width % alignment == 0 and group % alignment == 0


def _presets_of(profile: Profile) -> dict[str, Scheme]:
    """Names of presets to their schemes of linears: for each number of bits the profile's first that needs no data."""
    found: dict[str, Scheme] = {}
    widths = set()
    for name in (*profile.fast, *profile.schemes):
        scheme = PRESETS[name].linear
        is_static = scheme.input is not None and not scheme.input.dynamic
        if name == "fp32" or is_static or scheme.weight.bits in widths or not _is_taken(scheme, profile):
            continue
        widths.add(scheme.weight.bits)
        found[name] = scheme
    return found


def _is_taken(scheme: Scheme, profile: Profile) -> bool:
    """Whether a preset of the profile has weights and inputs like those of a scheme."""

    def numbers(one: Scheme) -> tuple[Any, ...]:
        return one.weight.format, one.weight.bits, None if one.input is None else (one.input.bits, one.input.dynamic)

    if profile.per_channel and scheme.weight.granularity == "group":
        return False
    return any(numbers(scheme) == numbers(PRESETS[name].linear) for name in profile.schemes)
