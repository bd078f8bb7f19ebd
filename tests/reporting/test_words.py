import pytest

from hf_quant.evaluation.report import MetricDrop
from hf_quant.reporting import words


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "–"), (999, "999 bytes"), (1_500, "1.5 kB"), (135_500_000, "135.5 MB"), (26_953_662_464, "26.95 GB")],
)
def test_bytes_are_in_units_of_a_thousand(count, text):
    assert words.bytes_(count) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(12.345, "12.3 s"), (1.0, "1.00 s"), (0.0265, "26.5 ms"), (0.001, "1.00 ms"), (2.5e-5, "25.0 µs"), (0, "0 µs")],
)
def test_times_are_in_the_unit_that_suits_them(value, text):
    assert words.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(5.0912, "5.09"), (12345.6, "12,346"), (0.01234, "0.0123"), (-2.5, "-2.50")]
)
def test_numbers_have_three_digits(value, text):
    assert words.digits(value) == text


def metric(is_fraction, relative=0.01):
    return MetricDrop("m", 0.8, 0.79, 0.01, -0.005, 0.02, relative, relative, relative, True, is_fraction)


def test_fractions_are_lost_in_points_and_other_metrics_in_their_own_unit():
    assert words.drop(metric(True)) == "+1.00 pt (-0.50 to +2.00)"
    assert words.drop(metric(False)) == "+0.01 (-0.005 to +0.02)"


def test_a_loss_relative_to_nothing_is_left_out():
    assert words.relative_drop(metric(True, None)) == "–"


def test_long_texts_are_cut_in_the_middle_on_one_line():
    assert words.shortened("a\nb  c", 10) == "a b c"
    cut = words.shortened("0123456789" * 10, 21)
    assert len(cut) == 21 and cut.startswith("0123456789") and cut.endswith("0123456789") and "…" in cut


def test_notes_are_sentences():
    assert words.sentence("3 texts were cut") == "3 texts were cut."
    assert words.sentence("other processes were busy") == "Other processes were busy."


def test_what_rounds_to_nothing_is_not_below_zero():
    assert words.signed_percent(-0.00001) == "+0.00 %" and words.signed_percent(-0.0001) == "-0.01 %"
