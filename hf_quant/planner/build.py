"""The problem of a model: what its modules may have, and what each choice costs and loses."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hf_quant.config.plan import fit
from hf_quant.config.scheme import Scheme
from hf_quant.errors import ConfigError, PlanError
from hf_quant.planner.cost.disk import DiskCosts
from hf_quant.planner.cost.latency import LatencyCosts
from hf_quant.planner.offered import is_aligned
from hf_quant.planner.problem import Option, Problem, Unit
from hf_quant.planner.sensitivity.table import LossTable
from hf_quant.portability.kinds import made_as
from hf_quant.portability.several import is_taken

logger = logging.getLogger(__name__)


def build_problem(
    costs: DiskCosts,
    table: LossTable | None,
    schemes: Sequence[Scheme],
    times: LatencyCosts | None = None,
    groups: Mapping[str, str] | None = None,
    alignment: int = 1,
    portable_to: Sequence[str] = (),
) -> Problem:
    """A model as the problem a search solves: one unit for modules that are tied, fused or experts of one layer.

    Each other module is a unit of its own.

    Args:
        costs: Bytes of each choice for the model's modules.
        table: Predicted loss of each choice; without it all losses are 0.
        schemes: Schemes that modules are offered, beside staying float.
        times: Milliseconds of each choice; None: no times are known. Schemes that resemble none that was measured are
            not offered.
        groups: Module name to the name of the first module that it shares a choice with.
        alignment: Number that a width and group size must be a multiple of for integer schemes to be offered to linears
            and heads; embeddings are not affected.
        portable_to: Names of targets; what one of them refuses is not offered.
    """
    known = [scheme for scheme in schemes if times is None or _is_timed(times, scheme)]
    inventory = costs.inventory
    classes = {name: type(costs.model.get_submodule(name)) for name in costs.candidates}
    kinds = made_as(costs.model, classes) if portable_to else {}

    def suits(name: str, scheme: Scheme) -> bool:
        candidate = costs.candidates[name]
        return is_aligned(scheme, candidate, alignment) and (
            not portable_to or is_taken(portable_to, name, candidate, scheme, kinds[name])
        )

    # Later ones win: what is fused is said of the first experts, which stand for the others.
    together = {**inventory.experts, **(groups or {}), **inventory.ties}
    leaders = {name: together.get(name, name) for name in costs.candidates}
    members: dict[str, list[str]] = {}
    for name in costs.candidates:
        members.setdefault(_root(leaders, name), []).append(name)
    return Problem(
        tuple(_unit(costs, table, known, times, names, suits) for names in members.values()),
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
    suits: Callable[[str, Scheme], bool],
) -> Unit:
    def milliseconds(scheme: Scheme | None) -> float | None:
        return None if times is None else math.fsum(times.of(name, scheme) for name in names)

    options = [Option(None, costs.of_unit(names, None), 0.0, milliseconds(None))]
    # What is tied to something that stays float has no choice.
    for scheme in [] if costs.inventory.held.keys() & names else schemes:
        measured = [name for name in names if costs.inventory.experts.get(name, name) == name]
        losses = [0.0 if table is None else table.loss(name, scheme) for name in measured]
        fitted = _fitted(costs, scheme, names, suits)
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


def _fitted(
    costs: DiskCosts, scheme: Scheme, names: Sequence[str], suits: Callable[[str, Scheme], bool]
) -> Scheme | None:
    """The scheme fitted to modules of one width; None if it does not suit one of them."""
    try:
        for name in names:
            fitted = fit(scheme, costs.candidates[name], name)
            if not suits(name, fitted):
                return None
    except PlanError:
        return None
    return fitted
