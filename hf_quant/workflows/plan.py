"""`hf_quant.search_plan`: the schemes that lose least within a budget."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from hf_quant.calibration.data import Calibration
from hf_quant.config.plan import Plan
from hf_quant.config.scheme import Scheme
from hf_quant.errors import CalibrationError, ConfigError
from hf_quant.modules.inventory import Inventory
from hf_quant.opening.open import opens_model
from hf_quant.planner.budget import Budget
from hf_quant.planner.confirm import confirmed
from hf_quant.planner.cost.disk import DiskCosts
from hf_quant.planner.cost.latency import LatencyCosts, Pass
from hf_quant.planner.cost.table import KernelTable
from hf_quant.planner.cost.table_file import read_table
from hf_quant.planner.groups import fusion_groups
from hf_quant.planner.limits import limits_of
from hf_quant.planner.options import Judge, Offer, Search, option_groups
from hf_quant.planner.pareto import sweep
from hf_quant.planner.quality import QUALITIES, mean_loss
from hf_quant.planner.report import SearchReport, search_report
from hf_quant.planner.search import STRATEGIES
from hf_quant.planner.sensitivity import MEASURES
from hf_quant.planner.sensitivity.analysis import analyse
from hf_quant.planner.sensitivity.sequences import sequences_of, singles, writes_text
from hf_quant.planner.sensitivity.table import LossTable
from hf_quant.planner.space import SearchSpace
from hf_quant.quantizing.algorithms import algorithms_of
from hf_quant.quantizing.fingerprint import weights_fingerprint
from hf_quant.workflows.measure_hardware import kernel_table
from hf_quant.workflows.measured_plans import MeasuredPlans, left_by, steps_of, with_less_lost

_MEASURED = 0.25
"""Share of the sequences that is kept for measuring plans; sensitivities are analysed on the others."""


@opens_model
def search_plan(
    model: Any,
    data: Calibration | Sequence[Mapping[str, Tensor]],
    budget: Budget | str | float,
    *,
    offer: Offer | Mapping[str, Any] | None = None,
    search: Search | Mapping[str, Any] | None = None,
    judge: Judge | Mapping[str, Any] | None = None,
    progress: bool = True,
    **options: Any,
) -> tuple[Plan, SearchReport]:
    """Find the plan that loses least within a budget, predict what it loses, and measure that.

    Experts of a layer are given one scheme for each of their linears: a plan names every expert.

    Sensitivities of all modules come from one analysis; a search makes a plan of them; the model is quantized by it,
    and measured on sequences that the analysis did not see; and what promises most is changed for as long as
    `measurements` allow. The loss is the rise of the model's own loss, in nats.

    Args:
        model: Float model in memory; it is not changed, but copied for each measurement.
        data: Sequences: a `Calibration`, or batches with ``labels`` for models that do not write text. A quarter is
            kept to measure plans on.
        budget: Limits of the plan: ``"350MB"``, ``"4.5bpw"``, ``"25%"``, ``"20ms/token"``, ``"drop<=1%"``, several of
            these, or a number of bytes.
        offer: Options on the schemes that modules are offered: `Offer`, or a dict of its fields.
        search: Options on how plans are searched: `Search`, or a dict of its fields.
        judge: Options on how plans are judged and carried out: `Judge`, or a dict of its fields.
        progress: Show progress bars.
        **options: Fields of `Offer`, `Search` and `Judge` by name: ``search_plan(..., strategy="greedy", fused=True)``.
            Beside an object they must agree with it.

    Raises:
        InfeasibleBudget: Nothing keeps to the budget; the least that does is named, before anything is measured.
        ConfigError: The budget cannot be read, an option is unknown or says something else than the object beside it,
            or ``judge.losses`` is of another model, data or schemes.
        CalibrationError: The data is not usable, or has no labels that a loss needs.
        WeightError: A parameter holds NaN or infinity; it is named.
        PlanError: A sensitivity is NaN (the module is named), or pins contradict each other.
        UnknownName: There is no such strategy, measure, metric or hardware.
    """
    offer, search, judge = option_groups(offer, search, judge, options)
    algorithms_of(judge.recipe)  # unknown ones are told before any work
    if Budget.of(budget).drop is not None and not MEASURES[judge.measure].in_nats:
        raise ConfigError(
            f"the sensitivities of {judge.measure} are not in the unit of a loss, which {budget} limits: take fisher, "
            "hessian, kl or loss, or a budget of bytes"
        )
    space = search_space(model, [budget], offer, progress)
    inventory = space.costs.inventory
    batches = data.batches(model) if isinstance(data, Calibration) else list(data)
    analysed, held_out = _divided(batches)
    measures = bool(search.options)
    if measures or judge.measurements:
        next(sequences_of(held_out, model, labelled=True))  # a loss that cannot be measured is told before the analysis
    if offer.together:
        example = next(sequences_of(analysed[:1], model, labelled=False))
        space = replace(space, groups=fusion_groups(model, example, inventory))
        limits_of(space.problem(), budget)
    table = _analysis(model, inventory, analysed, space.schemes, judge, progress)
    rounding, recipe = "", judge.recipe
    if recipe is not None:
        recipe = steps_of(recipe)
        unscaled = space.problem(table)
        uniform = unscaled.plan(STRATEGIES["uniform"](unscaled, budget).assignment)
        linears = set(inventory.linears())
        left = left_by(recipe, model, uniform, linears, held_out, analysed, mean_loss)
        rounding = f"{recipe.steps()}, which leaves {left:.0%} of what rounding to nearest loses in linears"
        table = with_less_lost(table, linears, left)
    problem = space.problem(table)
    measure_plan = MeasuredPlans(model, held_out, QUALITIES[judge.metric], recipe, analysed).of(problem)
    search_for = partial(
        STRATEGIES[search.strategy],
        problem,
        evaluate=measure_plan if measures else None,
        progress=progress and measures,
        **search.options,
    )
    solution, log = confirmed(problem, budget, search_for, measure_plan, judge.measurements, not measures, progress)
    alternatives = sweep(problem, milliseconds=Budget.of(budget).milliseconds)
    plan = problem.plan(solution.assignment)
    exact = space.costs.exact(plan)
    return plan, search_report(problem, budget, solution, log, alternatives, judge.metric, rounding, exact)


@opens_model
def search_space(
    model: Any, budgets: Sequence[Budget | str | float], offer: Offer, progress: bool = True
) -> SearchSpace:
    """The schemes that modules may be given, and their costs; each budget is checked to be feasible.

    Args:
        model: Float model in memory or on the meta device.
        budgets: Budgets in the forms that `search_plan` takes.
        offer: Options on the schemes that modules are offered; ``fused`` is left to the search, which has an input to
            find groups by.
        progress: Show a progress bar where kernels are measured.

    Raises:
        InfeasibleBudget: Nothing keeps to a budget; the least that does is named.
        ConfigError: A budget cannot be read, or needs times that are not known.
        PlanError: Pins contradict each other.
    """
    inventory, times = Inventory.of(model), None
    for budget in budgets:
        times = times or _times(model, inventory, budget, offer, progress)
    space = SearchSpace(DiskCosts(model, offer.dtype, inventory), offer, times)
    problem = space.problem()
    for budget in budgets:
        limits_of(problem, budget)
    return space


def _times(
    model: Any, inventory: Inventory, budget: Budget | str | float, offer: Offer, progress: bool
) -> LatencyCosts | None:
    """Milliseconds of each choice, if a budget limits them or kernel times are given; else None."""
    kernels, step = offer.kernels, offer.step
    if kernels is None:
        if Budget.of(budget).milliseconds is None:
            return None
        if offer.hardware not in (None, "host"):
            raise ConfigError(
                f"milliseconds on {offer.hardware} have to be measured there: run `hf-quant hardware --measure "
                "--output kernels.json` on it, and give that file as kernels (--kernels)"
            )
        kernels = kernel_table(quick=True, progress=progress)
    table = kernels if isinstance(kernels, KernelTable) else read_table(Path(kernels))
    if step is None:
        step = Pass(tokens=1, context=512, logits=1) if writes_text(model) else Pass(tokens=128)
    return LatencyCosts(model, table, step, inventory=inventory)


def _divided(batches: list[Any]) -> tuple[list[Any], list[Any]]:
    rows = [row for batch in batches for row in singles(batch)]
    kept = max(1, round(_MEASURED * len(rows)))
    if len(rows) < 2:
        raise CalibrationError(
            "a plan needs at least two sequences, one to analyse and one to measure on: give more data"
        )
    return rows[:-kept], rows[-kept:]


def _analysis(
    model: Any, inventory: Inventory, rows: list[Any], schemes: Sequence[Scheme], judge: Judge, progress: bool
) -> LossTable:
    measure = judge.measure
    if judge.losses is None:
        return analyse(model, rows, schemes, measure, progress=progress, inventory=inventory)
    digest = hashlib.sha256(f"{measure} {weights_fingerprint(model)}".encode())
    digest.update(json.dumps([scheme.to_dict() for scheme in schemes], sort_keys=True).encode())
    for row in rows:
        for name, tensor in sorted(row.items()):
            digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    file, fingerprint = Path(judge.losses), digest.hexdigest()
    return analyse(
        model, rows, schemes, measure, file=file, fingerprint=fingerprint, progress=progress, inventory=inventory
    )
