"""The problem of a model: what its modules may have, and what each choice costs and loses."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from hf_quant.config.plan import fit
from hf_quant.config.scheme import Scheme
from hf_quant.errors import ConfigError, PlanError
from hf_quant.planner.cost.disk import DiskCosts
from hf_quant.planner.cost.latency import LatencyCosts
from hf_quant.planner.offered import is_aligned
from hf_quant.planner.problem import Option, Problem, Unit
from hf_quant.planner.sensitivity.table import LossTable

logger = logging.getLogger(__name__)


def build_problem(
    costs: DiskCosts,
    table: LossTable | None,
    schemes: Sequence[Scheme],
    times: LatencyCosts | None = None,
    groups: Mapping[str, str] | None = None,
    alignment: int = 1,
) -> Problem:
    """Units of modules that are tied or fused, the others alone.

    Args:
        costs: Of the model.
        table: Losses; without it all are 0.
        schemes: What modules are offered, beside staying float.
        times: Milliseconds; without it none are known. Schemes that nothing like was measured of are not offered.
        groups: Of modules that share a choice, the first of them.
        alignment: Of a profile: schemes of integers whose width or groups are no multiple of it are not offered to what
            is multiplied with.
    """
    known = [scheme for scheme in schemes if times is None or _is_timed(times, scheme)]
    leaders = {name: costs.inventory.ties.get(name, (groups or {}).get(name, name)) for name in costs.candidates}
    members: dict[str, list[str]] = {}
    for name in costs.candidates:
        members.setdefault(_root(leaders, name), []).append(name)
    return Problem(
        tuple(_unit(costs, table, known, times, names, alignment) for names in members.values()),
        fixed_bytes=costs.fixed_bytes,
        float_bytes=costs.float_bytes,
        fixed_milliseconds=0.0 if times is None else times.fixed_milliseconds,
    )


def _root(leaders: Mapping[str, str], name: str) -> str:
    while leaders[name] != name:
        name = leaders[name]
    return name


def _is_timed(times: LatencyCosts, scheme: Scheme) -> bool:
    try:
        times.interpolation.relative(scheme)
    except ConfigError as error:
        logger.warning("%s is not offered: %s", scheme, error)
        return False
    return True


def _unit(
    costs: DiskCosts,
    table: LossTable | None,
    schemes: Sequence[Scheme],
    times: LatencyCosts | None,
    names: list[str],
    alignment: int,
) -> Unit:
    def milliseconds(scheme: Scheme | None) -> float | None:
        return None if times is None else math.fsum(times.of(name, scheme) for name in names)

    options = [Option(None, costs.of_unit(names, None), 0.0, milliseconds(None))]
    # What is tied to something that stays float has no choice.
    for scheme in [] if costs.inventory.held.keys() & names else schemes:
        losses = [0.0 if table is None else table.loss(name, scheme) for name in names]
        fitted = _fitted(costs, scheme, names, alignment)
        # One that is fitted to the width may be the same as another.
        if fitted is None or any(loss is None for loss in losses) or any(one.scheme == fitted for one in options):
            continue
        rise = math.fsum(loss for loss in losses if loss is not None)
        options.append(Option(fitted, costs.of_unit(names, fitted), rise, milliseconds(fitted)))
    weights: dict[int, Any] = {}
    for name in names:
        weight: Any = costs.model.get_submodule(name).weight
        weights[id(weight)] = weight
    numbers = sum(weight.numel() for weight in weights.values())
    return Unit(tuple(names), numbers, tuple(sorted(options, key=lambda option: option.bytes)))


def _fitted(costs: DiskCosts, scheme: Scheme, names: Sequence[str], alignment: int) -> Scheme | None:
    """The scheme as the last module takes it, which others of its width take alike; None where one does not."""
    try:
        for name in names:
            fitted = fit(scheme, costs.candidates[name], name)
            if not is_aligned(fitted, costs.candidates[name], alignment):
                return None
    except PlanError:
        return None
    return fitted
