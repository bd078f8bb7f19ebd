"""What a limit lets through, and what it says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_quant.errors import EvaluationError
from hf_quant.evaluation.gate import LEAST_EXAMPLES, Limit
from hf_quant.evaluation.report import Agreement, DataDescription, DropReport, MetricDrop


def report(reference, quantized, fraction=True, spread=0.01, name="accuracy", examples=100):
    """Of a metric that is better when higher if it is a fraction."""
    drop = reference - quantized if fraction else quantized - reference
    relative = drop / reference if reference else None
    ends = (None, None) if relative is None else (relative - spread, relative + spread)
    metric = MetricDrop(
        *(name, reference, quantized, drop, drop - spread, drop + spread, relative, *ends),
        higher_is_better=fraction,
        is_fraction=fraction,
    )
    return DropReport("t", "a", "b", (metric,), Agreement("examples", 1), DataDescription("d", None, "f", 1), examples)


@pytest.mark.parametrize(
    ("text", "amount", "is_relative"),
    [("1%", 1, True), ("0.5pt", 0.5, False), (" .5 PT ", 0.5, False), ("2 points", 2, False), ("0%", 0, True)],
)
def test_limits_are_read(text, amount, is_relative):
    assert Limit.parse(text) == Limit(amount, is_relative)


@pytest.mark.parametrize("text", ["1", "", "-1%", "one%", "1e3%", "1%%", "nan%"])
def test_what_is_no_limit_is_refused_with_what_one_looks_like(text):
    with pytest.raises(EvaluationError, match=r"write 1% for a part .* or 0.5pt"):
        Limit.parse(text)


@pytest.mark.parametrize("amount", [-1.0, float("nan"), float("inf")])
def test_amounts_are_at_least_zero(amount):
    with pytest.raises(EvaluationError, match="a limit is at least 0"):
        Limit(amount, True)


@pytest.mark.parametrize(
    ("limit", "reference", "quantized", "fraction", "passed", "message"),
    [
        ("1%", 0.8, 0.796, True, True, "the drop of accuracy is 0.5 %, 0.5 below the limit of 1 % (0.8 to 0.796)"),
        ("0.5pt", 0.8, 0.79, True, False, "is 1 points, 0.5 above the limit of 0.5 points"),
        ("1.5pt", 0.8, 0.79, True, True, "is 1 points, 0.5 below the limit of 1.5 points"),
        ("1%", 20.0, 20.5, False, False, "is 2.5 %, 1.5 above the limit of 1 %"),
        ("1pt", 20.0, 20.5, False, True, "is 0.5 points, 0.5 below the limit of 1 points"),
        ("0%", 0.8, 0.8, True, True, "is 0 %, 0 below the limit of 0 %"),
        ("0pt", 0.8, 0.9, True, True, "is -10 points, 10 below"),
    ],
)
def test_drops_are_held_against_the_limit(limit, reference, quantized, fraction, passed, message):
    verdict = Limit.parse(limit).check(report(reference, quantized, fraction))
    assert verdict.passed is passed and message in verdict.message


def test_the_upper_end_is_held_against_it_on_request():
    found = report(0.8, 0.79)
    assert Limit.parse("1.5pt").check(found).passed
    verdict = Limit.parse("1.5pt").check(found, confident=True)
    assert not verdict.passed
    assert "with 95% confidence, is at most 2 points, 0.5 above the limit" in verdict.message


@given(st.floats(0.01, 1), st.floats(0, 1), st.floats(0, 100), st.booleans())
def test_a_higher_limit_never_lets_less_through(reference, quantized, amount, is_relative):
    found = report(reference, quantized)
    if Limit(amount, is_relative).check(found).passed:
        assert Limit(amount + 1, is_relative).check(found).passed


def test_a_part_of_nothing_is_refused():
    with pytest.raises(EvaluationError, match="give a limit in pt"):
        Limit.parse("1%").check(report(0.0, 0.0))


def test_metrics_are_named():
    assert Limit.parse("1%").check(report(0.8, 0.8), "accuracy").passed
    with pytest.raises(EvaluationError, match="did you mean 'accuracy'"):
        Limit.parse("1%").check(report(0.8, 0.8), "acuracy")


def test_few_examples_tell_nothing_with_confidence():
    few = report(0.8, 0.8, examples=LEAST_EXAMPLES - 1)
    assert Limit.parse("50%").check(few).passed
    verdict = Limit.parse("50%").check(few, confident=True)
    assert not verdict.passed and "too few" in verdict.message


def test_an_interval_without_width_tells_nothing_with_confidence():
    verdict = Limit.parse("1%").check(report(0.8, 0.8, spread=0.0), confident=True)
    assert not verdict.passed and "no width" in verdict.message
