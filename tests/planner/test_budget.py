"""Budgets are read in the forms people write them, and shown in the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_quant.errors import ConfigError
from hf_quant.planner.budget import SIZE_UNITS, Budget


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("350MB", {"bytes": 350_000_000}),
        ("350 mb", {"bytes": 350_000_000}),
        ("350MiB", {"bytes": 350 * 2**20}),
        ("1.2GB", {"bytes": 1_200_000_000}),
        ("123456B", {"bytes": 123456}),
        ("4.5bpw", {"bits_per_weight": 4.5}),
        ("25%", {"share": 0.25}),
        ("20ms/token", {"milliseconds": 20.0}),
        ("20 ms", {"milliseconds": 20.0}),
        ("drop<=1%", {"drop": 0.01}),
        ("drop ≤ 0.5", {"drop": 0.5}),
        ("drop<=0%", {"drop": 0.0}),
        ("350MB, 20ms", {"bytes": 350_000_000, "milliseconds": 20.0}),
        (350e6, {"bytes": 350_000_000}),
        (1234, {"bytes": 1234}),
    ],
)
def test_every_form_is_read(text, limits):
    budget = Budget.of(text)
    given = {name: getattr(budget, name) for name in ("bytes", "bits_per_weight", "share", "milliseconds", "drop")}
    assert {name: value for name, value in given.items() if value is not None} == limits


@pytest.mark.parametrize(
    "text",
    ["", "350", "MB", "-3MB", "350MB;20ms", "drop<1%", "nanMB", "1e3MB", "350MB,", True, 0, -5, float("nan"), None],
)
def test_other_forms_are_refused_with_a_list_of_those_there_are(text):
    with pytest.raises(ConfigError, match=r"350MiB.*4\.5bpw.*drop<=1%"):
        Budget.of(text)


@pytest.mark.parametrize("text", ["350MB,300MiB", "20ms,30ms/token"])
def test_two_limits_of_one_kind_are_refused(text):
    with pytest.raises(ConfigError, match="two limits of one kind"):
        Budget.of(text)


@pytest.mark.parametrize("limits", [{}, {"bytes": 0}, {"bytes": 1.5}, {"share": float("inf")}, {"drop": -0.1}])
def test_budgets_without_a_limit_or_with_impossible_ones_are_refused(limits):
    with pytest.raises(ConfigError):
        Budget(**limits)


@given(
    st.one_of(
        st.builds(Budget, bytes=st.integers(1, 10**12), size_unit=st.sampled_from(list(SIZE_UNITS))),
        st.builds(Budget, share=st.floats(1e-6, 10), drop=st.floats(0, 1, allow_subnormal=False)),
        st.builds(Budget, bits_per_weight=st.floats(0.01, 64), milliseconds=st.floats(1e-3, 1e6)),
    )
)
def test_what_is_shown_reads_back_as_the_same_budget(budget):
    read = Budget.of(str(budget))
    assert read == budget


def test_shortened_numbers_are_rounded_up():
    assert Budget.of("1MB").shown("bytes", 312_345_678, 4) == "312.4MB"
    assert Budget.of("1MiB").shown("bytes", 2**20, 4) == "1MiB"
    assert Budget.of("1%").shown("share", 0.12301, 3) == "12.4%"
