"""`hf_quant.search_plan`: the schemes that lose least within a budget."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hf_quant.calibration.data import Calibration
from hf_quant.config.plan import Plan
from hf_quant.config.recipe import Recipe
from hf_quant.config.scheme import Scheme
from hf_quant.errors import CalibrationError, ConfigError
from hf_quant.hardware.profiles import get_profile
from hf_quant.integration.algorithms import algorithms_of
from hf_quant.integration.fingerprint import weights_fingerprint
from hf_quant.modules.inventory import Inventory
from hf_quant.planner.budget import Budget
from hf_quant.planner.confirm import confirmed
from hf_quant.planner.cost.disk import DiskCosts
from hf_quant.planner.cost.latency import LatencyCosts, Pass
from hf_quant.planner.cost.table import KernelTable
from hf_quant.planner.cost.table_file import read_table
from hf_quant.planner.groups import fusion_groups
from hf_quant.planner.limits import limits_of
from hf_quant.planner.offer import Offer
from hf_quant.planner.offered import offered
from hf_quant.planner.pareto import sweep
from hf_quant.planner.pins import Pins
from hf_quant.planner.quality import QUALITIES, mean_loss
from hf_quant.planner.report import SearchReport, search_report
from hf_quant.planner.search import STRATEGIES
from hf_quant.planner.sensitivity import MEASURES
from hf_quant.planner.sensitivity.analysis import analyse
from hf_quant.planner.sensitivity.sequences import sequences_of, writes_text
from hf_quant.planner.sensitivity.table import LossTable
from hf_quant.workflows.measure_hardware import kernel_table
from hf_quant.workflows.measured_plans import MeasuredPlans, left_by, steps_of, with_less_lost

_MEASURING = ("evolutionary", "rl", "random")
"""Strategies that measure plans themselves."""

_MEASURED = 0.25
"""Share of the sequences that plans are measured on, and sensitivities are not."""


def search_plan(
    model: Any,
    data: Calibration | Sequence[Mapping[str, Tensor]],
    budget: Budget | str | float,
    *,
    schemes: Sequence[Scheme] | None = None,
    strategy: str = "ilp",
    measure: str = "fisher",
    metric: str = "loss",
    recipe: Recipe | None = None,
    hardware: str | None = None,
    kernels: KernelTable | str | Path | None = None,
    step: Pass | None = None,
    fused: bool = False,
    pins: Pins | None = None,
    forbidden: Pins | None = None,
    dtype: torch.dtype | None = None,
    measurements: int = 5,
    evaluations: int = 30,
    seed: int = 0,
    losses: str | Path | None = None,
    progress: bool = True,
) -> tuple[Plan, SearchReport]:
    """Find the plan that loses least within a budget, predict what it loses, and measure that.

    Sensitivities of all modules come from one analysis; a search makes a plan of them; the model is quantized by it,
    and measured on sequences that the analysis did not see; and what promises most is changed for as long as
    `measurements` allow. The loss is the rise of the model's own loss, in nats.

    Args:
        model: Float, in memory; it is not changed, but copied for each measurement.
        data: `Calibration`, or batches with ``labels`` for models that do not write text. A quarter is kept to measure
            on.
        budget: ``"350MB"``, ``"4.5bpw"``, ``"25%"``, ``"20ms/token"``, ``"drop<=1%"``, several of these, or bytes.
        schemes: What modules are offered, beside staying float; None for `planner.offered.SCHEMES`.
        strategy: A name of `planner.search.STRATEGIES`.
        measure: A name of `planner.sensitivity.MEASURES`.
        metric: What plans that are measured are judged by, a name of `planner.quality.QUALITIES`. With ``"accuracy"``,
            ``"drop<=1%"`` is one point of it: the search begins with what is predicted to raise the loss by so much,
            and measuring finds out what that does to the accuracy.
        recipe: The plan is to be carried out by these transforms and this solver, and so it is when it is measured,
            calibrated on what the analysis sees. Sensitivities are of rounding to nearest: those of linears are scaled
            by the part of the loss that the recipe leaves there, which is measured first. The recipe's own schemes
            and data do not count.
        hardware: Offer the preset of this profile that is fastest there, for each number of bits; of `schemes` that are
            given, those of which the profile has such; and no module what its width or groups do not suit there.
        kernels: Times of kernels on the machine in question, or their file, of ``hf-quant hardware --measure``. Without
            them a budget of milliseconds is one of this machine, whose kernels are measured if they were not yet.
        step: The pass that milliseconds are of; None for one token after 512, or for 128 of models that only read.
        fused: Whether linears of one input, such as query, key and value, share one scheme, as they have to where a
            runtime computes them together.
        pins: What modules may have: ``{"lm_head": "int8", "*.down_proj": ["int8", "float"]}``.
        forbidden: What they may not have, in the same form.
        dtype: In which whatever stays float will be saved, as bytes count; None: that of `model`.
        measurements: Most plans to measure after the search; 0 leaves it at the prediction.
        evaluations: Most plans that a strategy which measures, such as ``evolutionary``, may measure.
        seed: Of strategies that draw.
        losses: File to keep the analysis in, and to take it from: several budgets need one analysis only. One that was
            interrupted goes on from what it left beside the file.
        progress: Show progress bars.

    Raises:
        InfeasibleBudget: Nothing keeps to the budget; the least that does is named, before anything is measured.
        ConfigError: The budget cannot be read, or `losses` is of another model, data or schemes.
        CalibrationError: The data is not usable, or has no labels that a loss needs.
        WeightError: A parameter holds NaN or infinity; it is named.
        PlanError: A sensitivity is NaN (the module is named), or pins contradict each other.
        UnknownName: There is no such strategy, measure, metric or hardware.
    """
    search, kind, quality = STRATEGIES[strategy], MEASURES[measure], QUALITIES[metric]
    algorithms_of(recipe)  # unknown ones are told before any work
    if Budget.of(budget).drop is not None and not kind.in_nats:
        raise ConfigError(
            f"the sensitivities of {measure} are not in the unit of a loss, which {budget} limits: take fisher, "
            "hessian, kl or loss, or a budget of bytes"
        )
    offer = offer_for(
        model,
        [budget],
        schemes=schemes,
        hardware=hardware,
        kernels=kernels,
        step=step,
        pins=pins,
        forbidden=forbidden,
        dtype=dtype,
        progress=progress,
    )
    inventory = offer.costs.inventory
    batches = data.batches(model.config) if isinstance(data, Calibration) else list(data)
    analysed, held_out = _divided(batches)
    measures = strategy in _MEASURING
    if measures or measurements:
        next(sequences_of(held_out, model, labelled=True))  # a loss that cannot be measured is told before the analysis
    if fused:
        example = next(sequences_of(analysed[:1], model, labelled=False))
        offer = replace(offer, groups=fusion_groups(model, example, inventory))
        limits_of(offer.problem(), budget)
    table = _analysis(model, inventory, analysed, offer.schemes, measure, losses, progress)
    rounding = ""
    if recipe is not None:
        recipe = steps_of(recipe)
        unscaled = offer.problem(table)
        uniform = unscaled.plan(STRATEGIES["uniform"](unscaled, budget).assignment)
        linears = set(inventory.linears())
        left = left_by(recipe, model, uniform, linears, held_out, analysed, mean_loss)
        rounding = f"{recipe.steps()}, which leaves {left:.0%} of what rounding to nearest loses in linears"
        table = with_less_lost(table, linears, left)
    problem = offer.problem(table)
    measure_plan = MeasuredPlans(model, held_out, quality, recipe, analysed).of(problem)
    search_for = partial(
        search,
        problem,
        evaluate=measure_plan if measures else None,
        evaluations=evaluations,
        seed=seed,
        progress=progress and measures,
    )
    solution, log = confirmed(problem, budget, search_for, measure_plan, measurements, not measures, progress)
    alternatives = sweep(problem, milliseconds=Budget.of(budget).milliseconds)
    plan = problem.plan(solution.assignment)
    exact = offer.costs.exact(plan)
    return plan, search_report(problem, budget, solution, log, alternatives, metric, rounding, exact)


def offer_for(
    model: Any,
    budgets: Sequence[Budget | str | float],
    *,
    schemes: Sequence[Scheme] | None = None,
    hardware: str | None = None,
    kernels: KernelTable | str | Path | None = None,
    step: Pass | None = None,
    pins: Pins | None = None,
    forbidden: Pins | None = None,
    dtype: torch.dtype | None = None,
    progress: bool = True,
) -> Offer:
    """What modules may be given, once it is clear that each of the budgets can be kept; arguments as in `search_plan`.

    Raises:
        InfeasibleBudget: Nothing keeps to a budget; the least that does is named.
        ConfigError: A budget cannot be read, or needs times that are not known.
        PlanError: Pins contradict each other.
        UnknownName: There is no such hardware, or no such preset.
    """
    inventory, times = Inventory.of(model), None
    for budget in budgets:
        times = times or _times(model, inventory, budget, hardware, kernels, step, progress)
    alignment = 1 if hardware is None else get_profile(hardware).alignment
    offer = Offer(
        DiskCosts(model, dtype, inventory), offered(schemes, hardware), times, pins, forbidden, alignment=alignment
    )
    problem = offer.problem()
    for budget in budgets:
        limits_of(problem, budget)
    return offer


def _times(
    model: Any,
    inventory: Inventory,
    budget: Budget | str | float,
    hardware: str | None,
    kernels: KernelTable | str | Path | None,
    step: Pass | None,
    progress: bool,
) -> LatencyCosts | None:
    """Milliseconds, where they are limited or a table is given."""
    if kernels is None:
        if Budget.of(budget).milliseconds is None:
            return None
        if hardware not in (None, "host"):
            raise ConfigError(
                f"milliseconds on {hardware} have to be measured there: run `hf-quant hardware --measure --output "
                "kernels.json` on it, and give that file as kernels (--kernels)"
            )
        kernels = kernel_table(quick=True, progress=progress)
    table = kernels if isinstance(kernels, KernelTable) else read_table(Path(kernels))
    if step is None:
        step = Pass(tokens=1, context=512, logits=1) if writes_text(model) else Pass(tokens=128)
    return LatencyCosts(model, table, step, inventory=inventory)


def _divided(batches: list[Any]) -> tuple[list[Any], list[Any]]:
    rows = [
        {name: tensor[i : i + 1] for name, tensor in b.items()} for b in batches for i in range(len(b["input_ids"]))
    ]
    kept = max(1, round(_MEASURED * len(rows)))
    if len(rows) < 2:
        raise CalibrationError(
            "a plan needs at least two sequences, one to analyse and one to measure on: give more data"
        )
    return rows[:-kept], rows[-kept:]


def _analysis(
    model: Any,
    inventory: Inventory,
    rows: list[Any],
    schemes: Sequence[Scheme],
    measure: str,
    losses: str | Path | None,
    progress: bool,
) -> LossTable:
    if losses is None:
        return analyse(model, rows, schemes, measure, progress=progress, inventory=inventory)
    digest = hashlib.sha256(f"{measure} {weights_fingerprint(model)}".encode())
    digest.update(json.dumps([scheme.to_dict() for scheme in schemes], sort_keys=True).encode())
    for row in rows:
        for name, tensor in sorted(row.items()):
            digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    file, fingerprint = Path(losses), digest.hexdigest()
    return analyse(
        model, rows, schemes, measure, file=file, fingerprint=fingerprint, progress=progress, inventory=inventory
    )
