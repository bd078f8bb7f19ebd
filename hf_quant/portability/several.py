"""What several targets take at once, of modules that are still float."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from hf_quant.config.plan import Candidate
from hf_quant.config.scheme import Scheme
from hf_quant.portability import TARGETS
from hf_quant.portability.facts import Part

_ROUNDS = 4
_WIDTH = 4096
"""Of a linear that every group size divides."""


def is_taken(targets: Iterable[str], name: str, candidate: Candidate, scheme: Scheme, made_as: str) -> bool:
    """Whether no target refuses a module that is quantized so.

    Args:
        targets: Names of targets.
        name: Name of the module.
        candidate: Its kind and width.
        scheme: Its scheme, group size settled.
        made_as: What it is as a float module, as in `facts.Part`.
    """
    part = Part(name, candidate.kind, candidate.width, scheme, made_as)
    return all(TARGETS[target].verdict(part).kind != "refused" for target in targets)


def are_fused(targets: Iterable[str]) -> bool:
    """Whether one of the targets computes linears of one input as one, with one scheme."""
    return any(TARGETS[target].fuses for target in targets)


def taken_instead(schemes: Sequence[Scheme], targets: Sequence[str]) -> list[Scheme]:
    """Schemes of linears, each changed as little as all targets ask for; those for which there is no such are left out.

    Args:
        schemes: Group sizes may be open, and stay so.
        targets: Names of targets.
    """
    found = (_taken_instead(scheme, targets) for scheme in schemes)
    return list(dict.fromkeys(scheme for scheme in found if scheme is not None))


def _taken_instead(scheme: Scheme, targets: Sequence[str]) -> Scheme | None:
    is_open = scheme.weight.granularity == "group" and scheme.weight.group_size is None
    part = Part("", "linear", _WIDTH, _in_groups_of(scheme, 128) if is_open else scheme)
    for _ in range(_ROUNDS):
        seen = [part.scheme]
        for target in targets:
            changed = TARGETS[target].portable(part)
            if changed is None:
                return None
            seen.append(changed)
            part = replace(part, scheme=changed)
        if len(set(seen)) == 1:
            is_open = is_open and part.scheme.weight.granularity == "group"
            return _in_groups_of(part.scheme, None) if is_open else part.scheme
    return None


def _in_groups_of(scheme: Scheme, size: int | None) -> Scheme:
    given = scheme.input
    if given is not None and given.granularity == "group":
        given = replace(given, group_size=size)
    return Scheme(replace(scheme.weight, group_size=size), given)
