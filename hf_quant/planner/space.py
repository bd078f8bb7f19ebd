"""What a search chooses among: everything of a problem but the losses, which an analysis finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hf_quant.config.scheme import Scheme
from hf_quant.hardware.profiles import get_profile
from hf_quant.planner.build import build_problem
from hf_quant.planner.cost.disk import DiskCosts
from hf_quant.planner.cost.latency import LatencyCosts
from hf_quant.planner.options import Offer
from hf_quant.planner.pins import pinned
from hf_quant.planner.problem import Problem
from hf_quant.planner.sensitivity.table import LossTable


@dataclass(frozen=True)
class SearchSpace:
    """The schemes that the modules of one model may be given, and their costs.

    Args:
        costs: Bytes of each scheme for each module.
        offer: Options on schemes, hardware and pins.
        times: Milliseconds of each scheme for each module; None where times do not matter.
        groups: Module name to the name of the first module that it shares a scheme with.
    """

    costs: DiskCosts
    offer: Offer
    times: LatencyCosts | None = None
    groups: Mapping[str, str] | None = None

    @property
    def schemes(self) -> list[Scheme]:
        """Schemes that modules are offered, beside staying float."""
        return self.offer.offered()

    def problem(self, losses: LossTable | None = None) -> Problem:
        """The problem to search; without losses it tells only what is feasible.

        Raises:
            PlanError: Pins contradict each other.
        """
        alignment = 1 if self.offer.hardware is None else get_profile(self.offer.hardware).alignment
        portable_to = self.offer.portable_to
        whole = build_problem(self.costs, losses, self.schemes, self.times, self.groups, alignment, portable_to)
        return pinned(whole, self.offer.pins, self.offer.forbidden)
