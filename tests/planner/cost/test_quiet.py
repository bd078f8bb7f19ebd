"""What is timed while others slow the processor down is timed again, or left out."""

import itertools
import pickle

import pytest
import torch

from hf_quant.planner.cost.quiet import Quiet, Timed, least_disturbed
from hf_quant.planner.cost.timing import in_turn, timed_in_turn


class Shared(Quiet):
    """On a machine whose probes take as long as the test says."""

    def __init__(self, patience=60.0, **options):
        super().__init__(patience, **options)
        self.probe = 1.0
        self._probes = (self.probe for _ in itertools.count())


def test_on_a_machine_that_nobody_slows_everything_is_timed_once():
    quiet, calls = Shared(), []
    assert [quiet.time(lambda: calls.append(0) or 3.0) for _ in range(4)] == [Timed(3.0, 1.0)] * 4
    assert len(calls) == 4 and (quiet.timed, quiet.disturbed) == (4, 0)
    assert quiet.patience == 60


def test_a_probe_may_take_a_tenth_longer_than_the_best_which_another_process_may_have_found():
    quiet = Shared(patience=0.0, best=0.95)
    quiet.time(lambda: 1.0)
    assert quiet.best == 0.95 and quiet.disturbed == 0
    quiet.probe = 1.05
    quiet.time(lambda: 1.0)
    assert quiet.best == 0.95 and quiet.disturbed == 1
    quiet.probe = 0.5
    quiet.time(lambda: 1.0)
    assert quiet.best == 0.5 and quiet.disturbed == 2, "it was slow before"
    quiet.time(lambda: 1.0)
    assert quiet.disturbed == 2


def test_a_probe_after_some_work_is_the_one_before_the_next():
    quiet, probes = Shared(), itertools.count()
    quiet._probes = (1.0 for _ in probes)
    for _ in range(4):
        quiet.time(lambda: 1.0)
    assert next(probes) == 3 * 5, "of three linears each"


def test_one_probe_that_an_interrupt_slows_does_not_count():
    quiet = Shared(best=1.0)
    quiet._probes = itertools.cycle([1.0, 9.0, 1.0])
    assert quiet.time(lambda: 2.0) == Timed(2.0, 1.0)


def test_a_machine_that_is_never_as_fast_as_its_best_is_timed_when_patience_is_at_its_end():
    quiet = Shared(patience=0.1, best=0.1)
    assert [quiet.time(lambda: 2.0) for _ in range(3)] == [Timed(2.0, 1.0)] * 3
    assert quiet.patience <= 0 and (quiet.timed, quiet.disturbed) == (3, 3)


def test_work_that_somebody_else_slows_is_timed_again_when_it_is_over():
    quiet, calls = Shared(best=1.0), []

    def work():
        calls.append(0)
        quiet._probes = itertools.chain([2.0] * 3, itertools.repeat(1.0)) if len(calls) < 3 else itertools.repeat(1.0)
        return float(len(calls))

    assert quiet.time(work) == Timed(3.0, 1.0)
    assert quiet.disturbed == 0 and quiet.patience < 60


def test_of_attempts_without_a_quiet_one_that_with_the_fastest_probes_is_taken():
    quiet, seconds = Shared(best=0.1), iter([5.0, 4.0, 6.0])
    quiet._wait = lambda: 0.1

    def work():
        found = next(seconds)
        quiet.probe = {5.0: 3.0, 4.0: 2.0, 6.0: 4.0}[found]
        return found

    assert quiet.time(work) == Timed(4.0, 2.0)
    assert quiet.disturbed == 1


def test_what_was_slow_by_the_best_probe_of_all_is_left_out_afterwards():
    quiet = Quiet(best=1.0)
    timed = [Timed("a", 1.05), Timed("b", 1.2), Timed("c", 1.0), Timed("d", 3.0)]
    assert quiet.quietest(timed) == ["a", "c"]
    quiet.best = 0.5
    assert quiet.quietest(timed) == ["c", "a"], "the quieter half, where nothing was quiet"
    assert quiet.quietest(timed[:1]) == ["a"]


def test_probes_of_the_machine_at_hand_take_time_and_go_on_in_another_process():
    quiet = Quiet()
    assert quiet.time(lambda: 2.0).probe > 0 and 0 < quiet.best < 1
    sent = pickle.dumps(quiet)
    assert len(sent) < 10_000, "weights of probes are not sent"
    there = pickle.loads(sent)
    assert there.best == quiet.best and there.time(lambda: 3.0).seconds == 3


def test_turns_have_as_many_times_with_quiet_moments_as_without():
    works = [lambda: torch.ones(4).sum(), lambda: torch.ones(8).sum()]
    for times in (
        in_turn(works, 3, 1e-4),
        [[each.seconds for each in row] for row in timed_in_turn(works, 3, 1e-4, Quiet(0.0))],
    ):
        assert len(times) == 3 and all(len(row) == 2 and min(row) > 0 for row in times)


def test_rounds_with_a_slow_turn_are_left_out_while_there_are_others():
    quiet = Shared(patience=0.0, best=1.0)
    rounds = itertools.count()

    def work():
        if quiet.timed:
            quiet.probe = 2.0 if next(rounds) == 2 else 1.0

    assert len(in_turn([work, lambda: None], 5, 0.0, quiet)) == 3, "slow at the end of the third, and before the fourth"
    quiet.probe, quiet.best = 2.0, 0.1
    assert len(in_turn([lambda: None], 3, 0.0, quiet)) == 2, "the quieter half, where all are slow"


@pytest.mark.parametrize(
    ("shares", "kept"), [((0.0, 0.5, 0.0), "ac"), ((0.1, 0.2, 0.3), "ab"), ((0.2, 0.2), "ab"), ((0.5,), "a"), ((), "")]
)
def test_of_several_measurements_those_that_were_disturbed_least_are_kept(shares, kept):
    assert least_disturbed(list(zip(shares, "abc", strict=False))) == list(kept)
