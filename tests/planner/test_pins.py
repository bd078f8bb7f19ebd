"""Pins leave what they allow, and say which two contradict each other."""

import pytest

from hf_quant.config.presets import get_preset
from hf_quant.config.scheme import Scheme, TensorScheme
from hf_quant.errors import ConfigError, PlanError, UnknownName
from hf_quant.planner.pins import pinned
from hf_quant.planner.problem import Option, Problem, Unit

INT8 = get_preset("int8").linear
INT4 = Scheme(
    TensorScheme(bits=4, symmetric=False, granularity="group", group_size=64),
    TensorScheme(bits=8, granularity="group", group_size=64, dynamic=True),
)
W8A16 = Scheme(TensorScheme(bits=8))
OPTIONS = (Option(INT4, 4, 0.1), Option(INT8, 8, 0.0), Option(W8A16, 8, 0.0), Option(None, 32, 0.0))
UNITS = (("embed", "lm_head"), ("0.q", "0.k"), ("0.down",), ("1.q", "1.k"), ("1.down",))
PROBLEM = Problem(tuple(Unit(names, 9, OPTIONS) for names in UNITS), fixed_bytes=0, float_bytes=200)


def left(pins=None, forbidden=None):
    return [[option.scheme for option in unit.options] for unit in pinned(PROBLEM, pins, forbidden).units]


ALL = [INT4, INT8, W8A16, None]


def test_without_pins_everything_is_left():
    assert pinned(PROBLEM) == PROBLEM


def test_presets_stand_for_any_group_size_and_rotation():
    assert left({"*.down": "int4", "lm_head": "w8a16"}) == [[W8A16], ALL, [INT4], ALL, [INT4]]


def test_a_preset_is_what_it_does_to_heads_where_there_is_no_other_but_forbids_only_its_own_bits():
    unit = Unit(("lm_head",), 9, OPTIONS[1:])
    problem = Problem((unit,), fixed_bytes=0, float_bytes=200)
    assert pinned(problem, {"lm_head": "int4"}).units[0].options == (OPTIONS[1],)
    assert pinned(problem, forbidden={"lm_head": "int4"}) == problem


def test_lists_allow_and_forbidden_ones_exclude():
    assert left({"*.down": ["int8", None]}, {"*.q": ["int4", "float"]}) == [
        ALL, [INT8, W8A16], [INT8, None], [INT8, W8A16], [INT8, None],
    ]  # fmt: skip


def test_exact_names_win_over_patterns_and_later_patterns_over_earlier_ones():
    assert left({"1.down": "float", "*": "int8", "*.down": "int4"})[2:] == [[INT4], [INT8], [None]]


def test_a_scheme_is_itself_and_nothing_near_it():
    assert left({"0.down": W8A16})[2] == [W8A16]
    with pytest.raises(PlanError, match="leaves none of what it is offered: W4A8 g64 asym, W8A8 rot64, W8A16, float"):
        left({"0.down": Scheme(TensorScheme(bits=8, symmetric=False))})


def test_modules_that_share_a_choice_cannot_be_pinned_apart():
    with pytest.raises(PlanError, match=r"'0\.q': int8 \(0\.q\) against '0\.k': int4 \(0\.k\); 0\.q and 0\.k share"):
        left({"0.q": "int8", "0.k": "int4"})


def test_what_is_pinned_cannot_be_forbidden():
    with pytest.raises(PlanError, match=r"'1\.down': int4 \(1\.down\) against '\*\.down': not int4 \(1\.down\)"):
        left({"1.down": "int4"}, {"*.down": "int4"})


def test_three_pins_that_contradict_each_other_only_together_are_all_named():
    with pytest.raises(PlanError, match=r"'0\.q': int4 or float .* and '0\.q': not float .* against '0\.k': not int4"):
        left({"0.q": ["int4", "float"]}, {"0.q": "float", "0.k": "int4"})


def test_patterns_that_match_nothing_are_refused_with_the_nearest_names():
    with pytest.raises(PlanError, match="matches no module; nearest: lm_head"):
        left({"lm_hed": "int8"})


@pytest.mark.parametrize(("value", "error"), [("int9", UnknownName), ([], ConfigError), (8, ConfigError)])
def test_other_values_are_refused(value, error):
    with pytest.raises(error):
        left({"lm_head": value})
