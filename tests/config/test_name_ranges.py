import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_quant.config.name_ranges import (
    FEW,
    MOST_NUMBERS,
    differing,
    expanded,
    folded,
    has_ranges,
    in_short,
    matching,
    unfolded,
    with_ranges,
)
from hf_quant.config.plan import Plan
from hf_quant.config.scheme import Scheme, TensorScheme
from hf_quant.errors import ConfigError, PlanError

W4, W8 = Scheme(TensorScheme(bits=4)), Scheme(TensorScheme(bits=8))
EXPERTS = [
    f"model.layers.{layer}.mlp.experts.{expert}.{part}"
    for layer in range(12)
    for expert in range(16)
    for part in ("gate_proj", "up_proj", "down_proj")
]


def test_experts_of_a_model_are_one_name_for_each_projection():
    assert with_ranges(EXPERTS) == [
        f"model.layers.{{0-11}}.mlp.experts.{{0-15}}.{part}" for part in ("gate_proj", "up_proj", "down_proj")
    ]


@pytest.mark.parametrize(
    ("names", "written"),
    [
        (["a.0.b", "a.1.b", "a.3.b", "a.7.b", "a.8.b"], ["a.{0-1,3,7-8}.b"]),
        (["a.5.b", "head", "a.6.c"], ["a.5.b", "head", "a.6.c"]),
        (["0", "1"], ["{0-1}"]),
        (["a.0.0", "a.0.1", "a.1.0"], ["a.0.{0-1}", "a.1.0"]),
        (["a.01", "a.02", "a.1x", "a.2x", "layer1", "layer2"], ["a.01", "a.02", "a.1x", "a.2x", "layer1", "layer2"]),
        (["a.1234567890", "a.1234567891"], ["a.1234567890", "a.1234567891"]),
        (["a.1", "a.1"], ["a.1"]),
        ([], []),
    ],
)
def test_only_plain_numbers_between_dots_become_ranges(names, written):
    assert with_ranges(names) == written


parts = st.sampled_from(["a", "b", "0", "1", "2", "3", "11", "07"])
plain = st.lists(parts, min_size=1, max_size=5).map(".".join)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.sets(plain, min_size=1, max_size=60))
def test_ranges_stand_for_just_the_names_that_they_were_made_of(names):
    found = []
    for name in with_ranges(names):
        found += expanded([name])[name] if has_ranges(name) else [name]
    assert sorted(found) == sorted(names)


odd = st.sampled_from(["a.{0-3}.b", "a.{0}", "{", "}", "a.{x}.1", "*.1.b", "a[0].1", "re:a.1", "a?.2"])


@settings(deadline=None, derandomize=True, max_examples=100)
@given(
    st.dictionaries(st.one_of(plain, odd), st.sampled_from([W4, W8, None]), max_size=20),
    st.sets(st.integers(0, 60)),
    st.sets(st.integers(0, 60)),
)
def test_every_plan_survives_json(modules, fours, eights):
    plan = Plan({**modules, **{f"a.{i}.x": W4 for i in fours}, **{f"a.{i}.x": W8 for i in eights - fours}})
    again = Plan.from_dict(json.loads(json.dumps(plan.to_dict())))
    assert again == plan
    assert again.to_dict() == plan.to_dict()


def test_few_names_of_a_kind_are_written_one_by_one():
    names = {f"a.{i}": "reason" for i in range(FEW)}
    assert folded(names) == (names, {})
    assert folded({**names, f"a.{FEW}": "reason"}) == ({}, {f"a.{{0-{FEW}}}": "reason"})
    assert folded({**names, f"a.{FEW}": "another"}) == ({**names, f"a.{FEW}": "another"}, {})


def test_the_plan_of_many_experts_is_short():
    plan = Plan({**dict.fromkeys(EXPERTS, W4), "lm_head": W8})
    written = plan.to_dict()
    assert written["modules"] == {"lm_head": str(W8)}
    assert len(written["ranges"]) == 3
    assert len(json.dumps(written)) < len(json.dumps(list(plan))) / 20


def test_names_with_braces_are_never_taken_for_ranges():
    names = {f"a.{i}.{{0-3}}": W4 for i in range(2 * FEW)}
    written = Plan(names).to_dict()
    assert "ranges" not in written and list(written["modules"]) == list(names)
    assert Plan.from_dict(written) == Plan(names)


@pytest.mark.parametrize(
    "pattern",
    [
        "a.b",
        "a.{0-3",
        "a.0-3}",
        "a.{}",
        "a.{0-}",
        "a.{-3}",
        "a.{0,,2}",
        "a.{0-1}.{x}",
        "a.{00-03}",
        "a.{{0-1}}",
        "a.{٣}",
    ],
)
def test_what_has_no_well_formed_ranges_is_refused(pattern):
    with pytest.raises(ConfigError, match="is not a name with ranges, such as"):
        expanded([pattern])


@pytest.mark.parametrize("pattern", ["a.{3-1}", "a.{0-3,2}", "a.{5,5}", "a.{7,2-3}"])
def test_numbers_that_do_not_ascend_are_refused(pattern):
    with pytest.raises(ConfigError, match="numbers of ranges ascend"):
        expanded([pattern])


@pytest.mark.parametrize(
    "patterns",
    [
        ["{0-1048576}"],
        ["{0-999999999}"],
        ["a" * 1000 + ".{0-99999}"],
        [".".join(["{0-9}"] * 20_000)],
        [f"{letter}.{{0-99999}}" for letter in "abcdefghijkl"],
    ],
)
def test_names_that_would_fill_the_memory_are_refused_before_they_are_made(patterns):
    start = time.process_time()
    with pytest.raises(ConfigError, match="stands for more names than a model has modules"):
        expanded(patterns)
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    ("names", "ranges"),
    [({"a.1": 1}, {"a.{0-2}": 1}), ({}, {"a.{0-2}": 1, "a.{2-4}": 1}), ({}, {"{0}.{0-1}": 1, "0.{1}": 1})],
)
def test_two_entries_for_one_name_are_refused(names, ranges):
    with pytest.raises(ConfigError, match="two entries for"):
        unfolded(names, ranges)


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        ("layers.{0-1,3}.mlp", ["layers.0.mlp", "layers.1.mlp", "layers.3.mlp"]),
        ("*.{10-11}.*", ["layers.10.mlp", "layers.11.mlp"]),
        ("*{1}.mlp", ["layers.1.mlp", "layers.11.mlp"]),
        ("layers.{2}.ml[pq]", ["layers.2.mlp"]),
        ("layers.*{0-1}", []),
    ],
)
def test_globs_may_have_ranges(pattern, matched):
    assert matching(pattern, [*(f"layers.{i}.mlp" for i in range(12)), "head"]) == matched


def test_a_number_that_no_module_has_is_refused():
    with pytest.raises(PlanError, match=r"matches modules, but none with \{2,4-6\}"):
        matching("a.{0-6}", ["a.0", "a.1", "a.3"])


def test_a_pattern_with_too_many_numbers_is_refused():
    with pytest.raises(ConfigError, match="a range of more than 10,000 numbers"):
        matching(f"a.{{0-{MOST_NUMBERS}}}", ["a.0"])


def test_people_see_one_name_for_each_kind():
    assert in_short([*EXPERTS[::3], "head"]) == ["model.layers.{0-11}.mlp.experts.{0-15}.gate_proj", "head"]
    assert in_short(["a.0.b.1", "a.0.b.2", "a.4.b.3"]) == ["a.{0,4}.b.*"]
    assert in_short(["a.0.b.7", "a.1.b.7"]) == ["a.{0-1}.b.7"]


def test_kinds_differ_where_not_all_have_one_value():
    values = {"a.0": 4, "a.1": 8, "a.2": 4, "b.0": 4, "b.1": 4, "head": 8}
    assert differing(values) == [{4: ["a.0", "a.2"], 8: ["a.1"]}]
