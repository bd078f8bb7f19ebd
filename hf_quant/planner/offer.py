"""What modules of a model may be given and what that takes: a problem, before an analysis and after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hf_quant.config.scheme import Scheme
from hf_quant.planner.build import build_problem
from hf_quant.planner.cost.disk import DiskCosts
from hf_quant.planner.cost.latency import LatencyCosts
from hf_quant.planner.pins import Pins, pinned
from hf_quant.planner.problem import Problem
from hf_quant.planner.sensitivity.table import LossTable


@dataclass(frozen=True)
class Offer:
    """Everything of a problem but the losses.

    Args:
        costs: Bytes of each choice.
        schemes: What modules are offered, beside staying float.
        times: Milliseconds of each choice, where they matter.
        pins: What modules may have.
        forbidden: What they may not have.
        groups: Of modules that share one scheme, the first of them.
        alignment: As `build_problem` takes it.
    """

    costs: DiskCosts
    schemes: Sequence[Scheme]
    times: LatencyCosts | None = None
    pins: Pins | None = None
    forbidden: Pins | None = None
    groups: Mapping[str, str] | None = None
    alignment: int = 1

    def problem(self, losses: LossTable | None = None) -> Problem:
        """With losses, or without any: enough to tell what is feasible.

        Raises:
            PlanError: Pins contradict each other.
        """
        whole = build_problem(self.costs, losses, self.schemes, self.times, self.groups, self.alignment)
        return pinned(whole, self.pins, self.forbidden)
