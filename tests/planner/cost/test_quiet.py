"""What is timed while others slow the processor down is timed again."""

import pytest
import torch

from hf_quant.planner.cost.quiet import Quiet
from hf_quant.planner.cost.timing import in_turn


class Shared(Quiet):
    """On a machine whose probes take as long as the test says."""

    probe = 1.0

    def _probe(self):
        return self.probe


def test_on_a_machine_that_nobody_slows_everything_is_timed_once():
    quiet, calls = Shared(), []
    assert [quiet.time(lambda: calls.append(0) or 3.0) for _ in range(4)] == [3.0] * 4
    assert len(calls) == 4 and (quiet.timed, quiet.disturbed) == (4, 0)
    assert quiet.patience == 60


def test_a_probe_may_take_a_quarter_longer_than_the_best_which_another_process_may_have_found():
    quiet = Shared(best=0.8)
    assert quiet.is_now() and quiet.best == 0.8
    quiet.probe = 1.01
    assert not quiet.is_now()
    quiet.probe = 0.5
    assert quiet.is_now() and quiet.best == 0.5


def test_a_machine_that_is_never_as_fast_as_its_best_is_timed_when_patience_is_at_its_end():
    quiet = Shared(patience=0.1, best=0.1)
    assert [quiet.time(lambda: 2.0) for _ in range(3)] == [2.0] * 3
    assert quiet.patience <= 0 and (quiet.timed, quiet.disturbed) == (3, 3)


def test_work_that_somebody_else_slows_is_timed_again_when_it_is_over():
    quiet, calls = Shared(best=1.0), []

    def work():
        calls.append(0)
        quiet.probe = 2.0 if len(calls) < 3 else 1.0
        return float(len(calls))

    naps = []
    quiet._wait = lambda: naps.append(quiet.probe)
    assert quiet.time(work) == 3 and naps == [1, 2, 2]
    assert quiet.disturbed == 0 and quiet.patience < 60


def test_probes_of_the_machine_at_hand_take_time():
    quiet = Quiet()
    assert quiet.is_now(), "there was none before"
    assert 0 < quiet.best < 1


@pytest.mark.parametrize("patience", [None, 0.0])
def test_turns_have_as_many_times_with_quiet_moments_as_without(patience):
    works = [lambda: torch.ones(4).sum(), lambda: torch.ones(8).sum()]
    times = in_turn(works, 3, 1e-4, None if patience is None else Quiet(patience))
    assert len(times) == 3 and all(len(row) == 2 and min(row) > 0 for row in times)
