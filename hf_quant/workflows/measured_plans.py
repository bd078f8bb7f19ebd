"""Plans carried out on copies of a model, and how much worse these are than the model."""

from __future__ import annotations

import copy
import logging
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hf_quant.calibration.data import Calibration
from hf_quant.config.plan import Plan
from hf_quant.config.recipe import Recipe
from hf_quant.planner.problem import Assignment, Problem
from hf_quant.planner.quality import Quality
from hf_quant.planner.search.base import Evaluate
from hf_quant.planner.sensitivity.table import LossTable
from hf_quant.quantizing.config import HfQuantConfig
from hf_quant.workflows.quantize import quantize

logger = logging.getLogger(__name__)

Rows = Sequence[Mapping[str, Tensor]]

_LEAST_LEFT = 0.05
"""Where few sequences say that less is left, they say too little to rely on."""


def steps_of(recipe: Recipe) -> Recipe:
    """The algorithms of a recipe, and how much data they take, without what they are applied to."""
    return Recipe(
        transforms=recipe.transforms,
        solver=recipe.solver,
        observer=recipe.observer,
        bias_correction=recipe.bias_correction,
        calibration=recipe.calibration,
    )


class MeasuredPlans:
    """Each plan is measured once.

    Args:
        model: Float, in memory; it is copied for each measurement.
        rows: To measure on.
        quality: What is measured.
        recipe: How weights are rounded; None: to nearest.
        calibration_rows: What the recipe is calibrated on; none of `rows`.
    """

    def __init__(
        self,
        model: Any,
        rows: Rows,
        quality: Quality,
        recipe: Recipe | None = None,
        calibration_rows: Rows = (),
    ):
        self.model, self.rows, self.quality, self.recipe = model, rows, quality, recipe
        self.calibration = _calibration(calibration_rows) if recipe is not None else None
        self._known: dict[Assignment, float] = {}
        self._float: float | None = None

    def of(self, problem: Problem) -> Evaluate:
        """By how much the model is worse under assignments of `problem`."""

        def rise(assignment: Assignment) -> float:
            if assignment not in self._known:
                self._known[assignment] = self.rise(problem.plan(assignment))
            return self._known[assignment]

        return rise

    def rise(self, plan: Plan) -> float:
        """By how much the model is worse under one plan."""
        if self._float is None:
            self._float = self.quality(self.model, self.rows)
        plan = Plan({name: scheme for name, scheme in plan.modules.items() if scheme is not None})
        if not plan.modules:
            return 0.0
        config = HfQuantConfig(plan=plan, recipe=self.recipe, calibration=self.calibration)
        quantized = quantize(copy.deepcopy(self.model), config, progress=False)
        return self.quality(quantized, self.rows) - self._float


def left_by(
    recipe: Recipe,
    model: Any,
    plan: Plan,
    linears: Container[str],
    rows: Rows,
    calibration_rows: Rows,
    quality: Quality,
) -> float:
    """The part of the loss of rounding to nearest that a recipe leaves in the linears of a plan, measured.

    Args:
        recipe: Algorithms, with data.
        model: Float, in memory.
        plan: What it has for `linears` is carried out both ways.
        linears: Names.
        rows: To measure on.
        calibration_rows: To calibrate on.
        quality: In the unit of the sensitivities.

    Returns:
        A factor from 0.05 to 1; 1 where rounding to nearest loses nothing on these rows.
    """
    plan = Plan({name: scheme for name, scheme in plan.modules.items() if name in linears})
    nearest = MeasuredPlans(model, rows, quality).rise(plan)
    if nearest <= 0:
        logger.warning("rounding to nearest loses nothing on the sequences measured on: give more data")
        return 1.0
    rise = MeasuredPlans(model, rows, quality, recipe, calibration_rows).rise(plan)
    return min(1.0, max(_LEAST_LEFT, rise / nearest))


def with_less_lost(table: LossTable, linears: Container[str], factor: float) -> LossTable:
    """Losses of weights in codes of linears, which is what recipes better, times `factor`; the others as they are."""
    rows = []
    for name, losses in zip(table.modules, table.losses, strict=True):
        rows.append(
            tuple(
                loss * factor if loss is not None and name in linears and scheme.weight.has_scales else loss
                for scheme, loss in zip(table.schemes, losses, strict=True)
            )
        )
    return replace(table, losses=tuple(rows))


def _calibration(rows: Rows) -> Calibration:
    sequences = []
    for row in rows:
        ids, mask = row["input_ids"], row.get("attention_mask")
        for index in range(len(ids)):
            sequences.append(ids[index] if mask is None else torch.masked_select(ids[index], mask[index] != 0))
    longest = max((len(sequence) for sequence in sequences), default=1)
    return Calibration(sequences, samples=max(1, len(sequences)), sequence_length=longest, packing=False)
