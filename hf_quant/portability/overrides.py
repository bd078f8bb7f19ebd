"""Schemes that make a model portable, alike for modules that share a weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hf_quant.config.scheme import Scheme, TensorScheme
from hf_quant.errors import ConfigError
from hf_quant.portability.facts import Part, Verdict


def overrides_of(parts: Sequence[Part], verdicts: Sequence[Verdict]) -> dict[str, Scheme | None]:
    """Module to another scheme, None for float: of all that are refused, and of all that share their weights.

    Args:
        parts: Quantized modules of a model.
        verdicts: What a target says of each.
    """
    shared: dict[str, list[int]] = {}
    for index, part in enumerate(parts):
        shared.setdefault(part.owner or part.name, []).append(index)
    found: dict[str, Scheme | None] = {}
    for members in shared.values():
        refused = {index: verdicts[index].scheme for index in members if verdicts[index].kind == "refused"}
        kept = [scheme for scheme in refused.values() if scheme is not None]
        for index in members if refused else ():
            own = refused.get(index, parts[index].scheme)
            if own is None or len(kept) < len(refused):
                found[parts[index].name] = None
            else:
                found[parts[index].name] = _with_weight(own, kept[0].weight)
    return {part.name: found[part.name] for part in parts if part.name in found}


def _with_weight(scheme: Scheme, weight: TensorScheme) -> Scheme:
    try:
        return replace(scheme, weight=weight)
    except ConfigError:
        return Scheme(weight)  # inputs were in groups of the weight that was
