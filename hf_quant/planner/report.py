"""What a search found and why, as a frozen report that goes to JSON and back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hf_quant.evaluation.from_json import from_json
from hf_quant.planner.budget import Budget
from hf_quant.planner.groups import condensed
from hf_quant.planner.pareto import front
from hf_quant.planner.problem import Problem
from hf_quant.planner.repair import Repair
from hf_quant.planner.search.base import Solution
from hf_quant.reporting.tables.table import Table


@dataclass(frozen=True)
class ChosenUnit:
    """The scheme that a search chose for one unit, with its costs.

    Args:
        modules: Names of the unit's modules.
        scheme: Short name of the scheme, or ``"float"``.
        bytes: Bytes of the unit on disk.
        bits: Bits per weight, scales and zero points counted.
        loss: Predicted rise of the model's loss by this choice alone.
        reason: Why this option, in words: what its neighbours would cost and lose.
    """

    modules: tuple[str, ...]
    scheme: str
    bytes: int
    bits: float
    loss: float
    reason: str


@dataclass(frozen=True)
class Point:
    """One plan's size, time and loss; `loss` is measured where `measured` says so, else predicted."""

    strategy: str
    bytes: int
    loss: float
    milliseconds: float | None
    measured: bool


@dataclass(frozen=True)
class SearchReport:
    """Everything about one search, from its budget to its plan.

    Args:
        budget: The budget, in its written form: ``"350MB"``.
        strategy: Name of the search strategy.
        bytes: Exact bytes of the quantized model's file.
        float_bytes: Exact bytes of the float model's file.
        predicted_loss: Predicted rise of the loss: the sum over the units.
        measured_loss: Measured rise of the loss, or fall of the accuracy, under the plan; None if not measured.
        milliseconds: Predicted milliseconds of the whole model; None if not known.
        evaluations: Number of assignments whose loss was evaluated.
        units: The choice for each unit, in the order of the model.
        history: All evaluations of the search, in order.
        repairs: Changes that were measured after the search, in order.
        front: Pareto front of alternative plans, smallest first.
        metric: What measured losses are: rises of ``"loss"``, or falls of ``"accuracy"``.
        rounding: Algorithms that the plan is carried out by, in words; empty: weights are rounded to nearest.
    """

    budget: str
    strategy: str
    bytes: int
    float_bytes: int
    predicted_loss: float
    measured_loss: float | None
    milliseconds: float | None
    evaluations: int
    units: tuple[ChosenUnit, ...]
    history: tuple[Point, ...] = ()
    repairs: tuple[Repair, ...] = ()
    front: tuple[Point, ...] = ()
    metric: str = "loss"
    rounding: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The report as a JSON-ready dict; the infinite loss of a model that broke is written as the largest float."""
        return _finite(asdict(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SearchReport:
        """A report from what `to_dict` gives; unknown keys and wrong types are refused.

        Raises:
            EvaluationError: A key is unknown or missing, or a value has the wrong type; the key is named.
        """
        return from_json(cls, values, "the search report")

    def tables(self, folded: bool = False) -> tuple[Table, ...]:
        """The report as tables: units, and repairs and alternatives if there are any.

        Args:
            folded: Whether a page shows the tables on request only.
        """
        units = Table(
            ("modules", "scheme", "bytes", "bits", "loss", "why"),
            tuple(
                (", ".join(condensed(u.modules)), u.scheme, f"{u.bytes:,}", f"{u.bits:.2f}", f"{u.loss:.3g}", u.reason)
                for u in self.units
            ),
            caption=self.summary(),
            title="Plan",
            numbers=(2, 3, 4),
            folded=folded,
        )
        repairs = Table(
            ("change", "predicted", "measured", "kept", "why"),
            tuple(
                (r.change, f"{r.predicted:.4g}", f"{r.measured:.4g}", "yes" if r.kept else "no", r.reason)
                for r in self.repairs
            ),
            title="Measured and repaired",
            numbers=(1, 2),
            folded=folded,
        )
        points = Table(
            ("bytes", "loss", "milliseconds", "found by"),
            tuple(
                (
                    f"{p.bytes:,}",
                    f"{p.loss:.4g}" + ("" if p.measured else " predicted"),
                    "" if p.milliseconds is None else f"{p.milliseconds:.3g}",
                    p.strategy,
                )
                for p in self.front
            ),
            title="Alternatives",
            numbers=(0, 1, 2),
            folded=folded,
        )
        return tuple(table for table in (units, repairs, points) if table.rows)

    def summary(self) -> str:
        """The outcome of the search in one line."""
        measured = ""
        if self.measured_loss is not None and self.metric == "loss":
            measured = f", measured {self.measured_loss:.4g}"
        elif self.measured_loss is not None:
            measured = f", {self.metric} {-self.measured_loss:+.2%} measured"
        time = "" if self.milliseconds is None else f", {self.milliseconds:.3g} ms"
        share = self.bytes / self.float_bytes
        return (
            f"{self.strategy} for {self.budget}: {self.bytes:,} bytes ({share:.1%} of float){time}; "
            f"loss predicted {self.predicted_loss:.4g}{measured}, {self.evaluations} evaluations"
            + (f"; by {self.rounding}" if self.rounding else "")
        )


def search_report(
    problem: Problem,
    budget: Budget | str | float,
    solution: Solution,
    repairs: Sequence[Repair] = (),
    alternatives: Iterable[Solution] = (),
    metric: str = "loss",
    rounding: str = "",
    exact_bytes: int | None = None,
) -> SearchReport:
    """Make the report of a solution.

    Args:
        problem: The problem that the solution solves.
        budget: The budget that the solution keeps.
        solution: The solution after repairs.
        repairs: Log of the repairs.
        alternatives: Other solutions of the same problem; their Pareto front is reported.
        metric: What measured losses are: rises of ``"loss"``, or falls of ``"accuracy"``.
        rounding: Algorithms that the plan is carried out by, in words; empty for rounding to nearest.
        exact_bytes: Exact bytes of the file; None: the sum that the search kept below the budget, some bytes too high.
    """
    return SearchReport(
        budget=str(Budget.of(budget)),
        strategy=solution.strategy,
        bytes=solution.bytes if exact_bytes is None else exact_bytes,
        float_bytes=problem.float_bytes,
        predicted_loss=solution.predicted_loss,
        measured_loss=solution.measured_loss,
        milliseconds=solution.milliseconds,
        evaluations=solution.evaluations,
        units=tuple(_chosen(problem, number, index) for number, index in enumerate(solution.assignment)),
        history=tuple(
            Point(solution.strategy, step.bytes, step.loss, step.milliseconds, solution.measured_loss is not None)
            for step in solution.history
        ),
        repairs=tuple(repairs),
        front=tuple(
            Point(one.strategy, one.bytes, one.loss, one.milliseconds, one.measured_loss is not None)
            for one in front(alternatives)
        ),
        metric=metric,
        rounding=rounding,
    )


def _chosen(problem: Problem, number: int, index: int) -> ChosenUnit:
    unit = problem.units[number]
    option = unit.options[index]
    return ChosenUnit(
        unit.modules, option.name, option.bytes, unit.bits(index), option.loss, _reason(problem, number, index)
    )


def _reason(problem: Problem, number: int, index: int) -> str:
    """Why a unit has its option, in words: what the next smaller and larger options would cost and lose."""
    unit = problem.units[number]
    option = unit.options[index]
    if len(unit.options) == 1:
        return "the only option"
    below = max((o for o in unit.options if o.bytes < option.bytes), key=lambda o: o.bytes, default=None)
    better = [o for o in unit.options if o.bytes > option.bytes and o.loss < option.loss]
    above = min(better, key=lambda o: o.bytes, default=None)
    words = []
    if below is not None:
        words.append(
            f"{below.name} would save {option.bytes - below.bytes:,} bytes and lose {below.loss - option.loss:+.3g}"
        )
    if above is not None:
        words.append(
            f"{above.name} would cost {above.bytes - option.bytes:,} bytes and lose {above.loss - option.loss:+.3g}"
        )
    plain = next((one for one in unit.options if one.scheme is None), option)
    if None not in (option.milliseconds, plain.milliseconds) and option.milliseconds > plain.milliseconds:  # type: ignore[operator]
        words.append(f"slower than float here: {option.milliseconds:.3g} ms and {plain.milliseconds:.3g}")
    return "; ".join(words) or "nothing larger loses less"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and math.isinf(value):
        return math.copysign(1.7976931348623157e308, value)
    return value
