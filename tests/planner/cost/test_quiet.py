"""What is timed while others slow the processor down is timed again."""

import threading

import pytest
import torch

from hf_quant.planner.cost.quiet import Quiet
from hf_quant.planner.cost.timing import in_turn


def test_on_a_machine_that_nobody_slows_everything_is_timed_once():
    quiet = Quiet(best=1.0)
    calls = []
    assert quiet.time(lambda: calls.append(0) or 3.0) == 3.0
    assert len(calls) == 1 and (quiet.timed, quiet.disturbed) == (1, 0)
    assert quiet.best < 1.0, "a faster probe is the new best"


def test_a_machine_that_is_never_as_fast_as_its_best_is_timed_when_patience_is_at_its_end():
    quiet = Quiet(patience=0.1, best=1e-9)
    assert not quiet.is_now()
    assert [quiet.time(lambda: 2.0) for _ in range(3)] == [2.0] * 3
    assert quiet.patience <= 0 and (quiet.timed, quiet.disturbed) == (3, 3)


def test_work_that_somebody_else_slows_is_timed_again_when_it_is_over():
    quiet = Quiet(patience=30.0)
    for _ in range(50):
        quiet.is_now()
    calls = []

    def work():
        calls.append(quiet.best)
        if len(calls) == 1:
            quiet.best /= 100  # as if the processor were slow from now on
            threading.Timer(0.2, lambda: setattr(quiet, "best", calls[0])).start()
        return float(len(calls))

    assert quiet.time(work) > 1
    assert quiet.patience < 30


@pytest.mark.parametrize("quiet", [None, Quiet(patience=0.0)])
def test_turns_have_as_many_times_with_a_quiet_moment_as_without(quiet):
    works = [lambda: torch.ones(4).sum(), lambda: torch.ones(8).sum()]
    times = in_turn(works, 3, 1e-4, quiet)
    assert len(times) == 3 and all(len(row) == 2 and min(row) > 0 for row in times)
