"""A problem refuses what cannot be solved, and adds up what an assignment costs."""

import math

import pytest

from hf_quant.config.presets import get_preset
from hf_quant.errors import PlanError
from hf_quant.planner.problem import Option, Problem, Totals, Unit

INT4, INT8 = get_preset("w4a16").linear, get_preset("w8a16").linear


def unit(*modules, weights=100, options=None):
    return Unit(modules, weights, options or (Option(INT4, 50, 0.3, 1.0), Option(INT8, 100, 0.1, 2.0)))


def test_totals_are_sums_with_what_is_fixed():
    problem = Problem((unit("a"), unit("b")), fixed_bytes=7, float_bytes=900, fixed_milliseconds=0.5)
    assert problem.totals((0, 1)) == Totals(157, 0.4, 3.5)


def test_one_unknown_time_makes_the_total_unknown():
    known, unknown = unit("a"), unit("b", options=(Option(None, 400, 0.0),))
    assert Problem((known, unknown), fixed_bytes=0, float_bytes=800).totals((0, 0)).milliseconds is None


def test_bits_per_weight_leave_out_what_is_fixed():
    problem = Problem((unit("a"), unit("b")), fixed_bytes=10**6, float_bytes=10**7)
    assert problem.bits_per_weight((0, 1)) == 8 * 150 / 200


def test_modules_of_a_unit_get_the_same_scheme():
    problem = Problem((unit("q", "k"), unit("b")), fixed_bytes=0, float_bytes=900)
    assert dict(problem.plan((1, 0)).modules) == {"q": INT8, "k": INT8, "b": INT4}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Option(INT4, 5, math.nan), "loss of W4A16 gauto asym is nan"),
        (lambda: Option(None, -1, 0.0), "bytes of float must be"),
        (lambda: Option(None, 1.5, 0.0), "bytes of float must be"),
        (lambda: Option(None, 1, 0.0, math.inf), "milliseconds of float"),
        (lambda: Unit((), 1, (Option(None, 1, 0.0),)), "at least one module"),
        (lambda: Unit(("a",), 1, ()), "a: a unit needs at least one option"),
        (lambda: unit("a", weights=0), "a: weights must be"),
        (lambda: unit("a", "a"), r"a \(\+1\): a module is named twice"),
        (lambda: unit("a", options=(Option(None, 1, 0.0), Option(None, 2, 0.0))), "float is offered twice"),
        (lambda: Problem((), fixed_bytes=0, float_bytes=1), "nothing to choose"),
        (lambda: Problem((unit("a"), unit("b", "a")), fixed_bytes=0, float_bytes=1), "a is in two units"),
        (lambda: Problem((unit("a"),), fixed_bytes=-1, float_bytes=1), "fixed_bytes"),
        (lambda: Problem((unit("a"),), fixed_bytes=0, float_bytes=0), "float_bytes"),
        (lambda: Problem((unit("a"),), fixed_bytes=0, float_bytes=1, fixed_milliseconds=-1.0), "fixed_millisec"),
    ],
)
def test_what_cannot_be_solved_is_refused(make, message):
    with pytest.raises(PlanError, match=message):
        make()


@pytest.mark.parametrize("assignment", [(0,), (0, 2), (-1, 0)])
def test_assignments_of_other_problems_are_refused(assignment):
    with pytest.raises(PlanError):
        Problem((unit("a"), unit("b")), fixed_bytes=0, float_bytes=900).totals(assignment)
