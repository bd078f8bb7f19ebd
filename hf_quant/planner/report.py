"""What a search found and why, as a frozen report that goes to JSON and back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hf_quant.evaluation.from_json import from_json
from hf_quant.planner.budget import Budget
from hf_quant.planner.pareto import front
from hf_quant.planner.problem import Problem
from hf_quant.planner.repair import Repair
from hf_quant.planner.search.base import Solution
from hf_quant.reporting.tables.table import Table


@dataclass(frozen=True)
class ChosenUnit:
    """What one unit got.

    Args:
        modules: Their names.
        scheme: In short, or ``"float"``.
        bytes: On disk.
        bits: Per weight, scales and zero points counted.
        loss: Predicted of this choice alone.
        reason: In words.
    """

    modules: tuple[str, ...]
    scheme: str
    bytes: int
    bits: float
    loss: float
    reason: str


@dataclass(frozen=True)
class Point:
    """A size and the loss it has; `loss` is measured where `measured` says so."""

    strategy: str
    bytes: int
    loss: float
    milliseconds: float | None
    measured: bool


@dataclass(frozen=True)
class SearchReport:
    """A search from its budget to its plan.

    Args:
        budget: As it is written.
        strategy: The search's name.
        bytes: Of the whole model's file, to the byte.
        float_bytes: Of the float one's.
        predicted_loss: Sum over the units.
        measured_loss: Of the model under the plan, if it was measured.
        milliseconds: Of the whole model, if known.
        evaluations: How many losses were asked for.
        units: In the order of the model.
        history: The evaluations, in order.
        repairs: What was changed after the search, and why.
        front: Alternatives, smallest first.
        metric: What measured losses are of: rises of ``loss``, or falls of ``accuracy``.
        rounding: By what the plan is carried out, in words; empty: weights are rounded to nearest.
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
        """JSON-ready; an infinite loss, of a model that broke, is the largest float there is."""
        return _finite(asdict(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SearchReport:
        """Inverse of `to_dict`; rejects unknown keys and other types.

        Raises:
            EvaluationError: Naming the key.
        """
        return from_json(cls, values, "the search report")

    def tables(self, folded: bool = False) -> tuple[Table, ...]:
        """Units, repairs if any and alternatives if any.

        Args:
            folded: Whether a page shows them on request only.
        """
        units = Table(
            ("modules", "scheme", "bytes", "bits", "loss", "why"),
            tuple(
                (", ".join(u.modules), u.scheme, f"{u.bytes:,}", f"{u.bits:.2f}", f"{u.loss:.3g}", u.reason)
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
        """The outcome in one line."""
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
    """The report of a solution.

    Args:
        problem: What it solves.
        budget: What it keeps to.
        solution: As it is after repairs.
        repairs: Their log.
        alternatives: Solutions of the same problem; their front is reported.
        metric: What losses were measured of.
        rounding: By what the plan is carried out.
        exact_bytes: Of the file; None: the sum that the search kept to the budget, which is some bytes above it.
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
    """What the next options would have cost and lost, which is what the search weighed."""
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
