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
from hf_quant.calibration.samples import is_sample
from hf_quant.config.plan import Plan
from hf_quant.config.recipe import Recipe
from hf_quant.errors import HfQuantError, UnsupportedModel
from hf_quant.planner.problem import Assignment, Problem
from hf_quant.planner.quality import Quality
from hf_quant.planner.search.base import Evaluate
from hf_quant.planner.sensitivity.table import LossTable
from hf_quant.quantizing.config import HfQuantConfig
from hf_quant.workflows.quantize import quantize

logger = logging.getLogger(__name__)

Rows = Sequence[Mapping[str, Tensor]]

_LEAST_LEFT = 0.05
"""Least factor that `left_by` gives: a smaller one, measured on few sequences, is not reliable."""


def steps_of(recipe: Recipe) -> Recipe:
    """A recipe with the same algorithms and amount of data, but without schemes."""
    return Recipe(
        transforms=recipe.transforms,
        solver=recipe.solver,
        observer=recipe.observer,
        bias_correction=recipe.bias_correction,
        calibration=recipe.calibration,
    )


class MeasuredPlans:
    """Measures how much worse a model is under plans; each plan is measured once.

    Args:
        model: Float model in memory; it is copied for each measurement.
        rows: Batches to measure on.
        quality: Function that is measured, such as the mean loss.
        recipe: Recipe of the algorithms that round weights; None: rounded to nearest.
        calibration_rows: Batches that the recipe is calibrated on; none of `rows`.
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
        """A function that measures how much worse the model is under an assignment of a problem."""

        def rise(assignment: Assignment) -> float:
            if assignment not in self._known:
                self._known[assignment] = self.rise(problem.plan(assignment))
            return self._known[assignment]

        return rise

    def rise(self, plan: Plan) -> float:
        """How much worse the model is under one plan, in the unit of `quality`."""
        if self._float is None:
            self._float = self.quality(self.model, self.rows)
        plan = Plan({name: scheme for name, scheme in plan.modules.items() if scheme is not None})
        if not plan.modules:
            return 0.0
        config = HfQuantConfig(plan=plan, recipe=self.recipe, calibration=self.calibration)
        quantized = quantize(copy.deepcopy(self.model), config, progress=False)
        try:
            return self.quality(quantized, self.rows) - self._float
        except RuntimeError as error:
            others = {name for name, each in plan.modules.items() if each is not None and not each.weight.has_scales}
            if isinstance(error, HfQuantError) or not others:
                raise
            # As of code that multiplies with the weight itself.
            raise UnsupportedModel(
                f"{type(self.model).__name__} does not run with float weights of another dtype, of which the plan has "
                f"{len(others)}, such as {min(others)}: offer other schemes than fp16, bf16 and fp32 ({error})"
            ) from error


def left_by(
    recipe: Recipe,
    model: Any,
    plan: Plan,
    linears: Container[str],
    rows: Rows,
    calibration_rows: Rows,
    quality: Quality,
) -> float:
    """Measured share of the loss by rounding to nearest that a recipe leaves in the linears of a plan.

    Args:
        recipe: Recipe of the algorithms.
        model: Float model in memory.
        plan: Plan whose schemes for `linears` are carried out both ways.
        linears: Names of the linears.
        rows: Batches to measure on.
        calibration_rows: Batches to calibrate on.
        quality: Function that is measured, in the unit of the sensitivities.

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
    """A table of losses with those of linears under schemes with codes, which recipes better, times `factor`."""
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
    if rows and is_sample(rows[0]):
        return Calibration(rows, samples=len(rows))
    sequences = []
    for row in rows:
        ids, mask = row["input_ids"], row.get("attention_mask")
        for index in range(len(ids)):
            sequences.append(ids[index] if mask is None else torch.masked_select(ids[index], mask[index] != 0))
    longest = max((len(sequence) for sequence in sequences), default=1)
    return Calibration(sequences, samples=max(1, len(sequences)), sequence_length=longest, packing=False)
