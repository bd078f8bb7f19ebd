"""Plans: which pattern wins, which group size is taken, what JSON keeps, and what errors say."""

import copy
import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_quant.config.plan import FORMAT_VERSION, Candidate, Plan, check_format_version, fit, preset_plan
from hf_quant.config.presets import PRESETS
from hf_quant.config.scheme import AUTO_GROUP_SIZES, Scheme, TensorScheme
from hf_quant.errors import ConfigError, PlanError

W8 = Scheme(TensorScheme())
W4 = Scheme(TensorScheme(bits=4))
W3 = Scheme(TensorScheme(bits=3))
W8A8 = Scheme(TensorScheme(), TensorScheme(granularity="token", dynamic=True))
W8A8_TENSOR = Scheme(TensorScheme(), TensorScheme(granularity="tensor", dynamic=True))
W8A8_STATIC = Scheme(TensorScheme(), TensorScheme(granularity="tensor"))
MODEL = {
    "embed": Candidate("embedding", 96),
    "layers.0.attn": Candidate("linear", 96),
    "layers.0.mlp": Candidate("linear", 96),
    "layers.1.attn": Candidate("linear", 96),
    "layers.1.mlp": Candidate("linear", 96),
    "head": Candidate("head", 96),
}


def grouped(size=None):
    return Scheme(TensorScheme(bits=4, granularity="group", group_size=size))


def chosen(modules):
    return dict(Plan(modules).resolve(MODEL).modules)


def test_a_name_means_itself_and_other_modules_are_absent():
    assert chosen({"layers.0.mlp": W4}) == {"layers.0.mlp": W4}


def test_a_glob_matches_any_part_of_a_name():
    assert list(chosen({"*.mlp": W4})) == ["layers.0.mlp", "layers.1.mlp"]
    assert list(chosen({"layers.?.attn": W4})) == ["layers.0.attn", "layers.1.attn"]


def test_a_regular_expression_matches_the_whole_name():
    assert list(chosen({r"re:layers\.\d\.(attn|mlp)": W4})) == list(MODEL)[1:5]
    assert list(chosen({r"re:.*0.*": W4})) == ["layers.0.attn", "layers.0.mlp"]
    with pytest.raises(PlanError):
        chosen({r"re:layers\.\d": W4})


@pytest.mark.parametrize("order", [1, -1])
def test_an_exact_name_beats_patterns_in_either_order(order):
    rules = [("layers.0.mlp", W8), ("*", W4), (r"re:.*mlp", W3)][::order]
    assert chosen(dict(rules))["layers.0.mlp"] == W8


def test_the_last_pattern_that_matches_wins():
    assert chosen({"*": W4, "*.mlp": W8})["layers.1.mlp"] == W8
    assert chosen({"*.mlp": W8, "*": W4})["layers.1.mlp"] == W4


def test_none_keeps_a_module_float_and_says_so():
    assert chosen({"*": W4, "head": None})["head"] is None


def test_resolved_plans_follow_the_order_of_the_model():
    assert list(chosen({"head": W4, "*.mlp": W8, "embed": W8})) == ["embed", "layers.0.mlp", "layers.1.mlp", "head"]


def test_resolving_a_resolved_plan_changes_nothing():
    plan = Plan({"*": grouped(), "*.attn": W8A8, "head": None}).resolve(MODEL)
    assert plan.resolve(MODEL) == plan


def test_a_pattern_that_matches_nothing_names_the_nearest_modules():
    with pytest.raises(PlanError, match=r"'layers\.2\.mlp' matches no module; nearest: layers\.[01]\.mlp"):
        Plan({"layers.2.mlp": W4}).resolve(MODEL)
    with pytest.raises(PlanError, match="nearest: embed"):
        Plan({"zzzz": W4}).resolve(MODEL)
    with pytest.raises(PlanError, match=r"'\*\.mpl' matches no module"):
        Plan({"*.mpl": W4}).resolve(MODEL)


@pytest.mark.parametrize("width", [1, 31, 32, 96, 100, 128, 192, 576, 640, 768, 4096, 11008])
def test_an_automatic_group_size_is_the_largest_of_three_that_divides(width):
    fitting = [size for size in (128, 64, 32) if width % size == 0]
    weight = fit(grouped(), Candidate("linear", width), "m").weight
    assert weight.group_size == (max(fitting) if fitting else None)
    assert weight.granularity == ("group" if fitting else "channel")
    assert AUTO_GROUP_SIZES == (128, 64, 32)


def test_an_explicit_group_size_that_does_not_divide_lists_those_that_do():
    with pytest.raises(PlanError) as raised:
        Plan({"*.mlp": grouped(64)}).resolve(MODEL)
    message = str(raised.value)
    assert "layers.0.mlp: group_size=64 does not divide its width 96" in message
    assert "these do: 8, 12, 16, 24, 32, 48, 96." in message


def test_the_sizes_an_error_offers_are_accepted():
    for size in (8, 12, 16, 24, 32, 48, 96):
        assert fit(grouped(size), Candidate("linear", 96), "m").weight.group_size == size


def test_embeddings_lose_the_input_format_that_a_wide_pattern_gives_them():
    plan = Plan({"*": W8A8}).resolve(MODEL)
    assert plan.modules["embed"].input is None
    assert plan.modules["head"].input == W8A8.input


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ({"": W8}, "'' is not a name"),
        ({3: W8}, "3 is not a name"),
        ({"head": "int8"}, "plan entry 'head' must be a Scheme or None, not 'int8'"),
        ({"head": W8.to_dict()}, "must be a Scheme or None"),
        ({"re:(": W8}, r"plan pattern 're:\(' is not a regular expression"),
    ],
)
def test_plans_check_what_they_are_given(modules, message):
    with pytest.raises(ConfigError, match=message):
        Plan(modules)


def test_a_plan_keeps_its_own_copy_and_cannot_be_changed():
    modules = {"head": W8}
    plan = Plan(modules)
    modules["embed"] = W4
    assert list(plan) == ["head"]
    with pytest.raises(TypeError):
        plan.modules["embed"] = W4


plans = st.dictionaries(
    st.text("abc.*", min_size=1, max_size=8),
    st.sampled_from([W8, W4, W3, W8A8, W8A8_TENSOR, W8A8_STATIC, grouped(), grouped(32), None]),
    max_size=8,
).map(Plan)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(plans)
def test_plans_survive_json_copy_and_pickle_in_order(plan):
    for again in (
        Plan.from_dict(json.loads(json.dumps(plan.to_dict()))),
        copy.deepcopy(plan),
        copy.copy(plan),
        pickle.loads(pickle.dumps(plan)),
    ):
        assert again == plan and list(again) == list(plan)


def test_schemes_that_read_alike_get_labels_of_their_own():
    assert str(W8A8) == str(W8A8_TENSOR) == str(W8A8_STATIC)
    plan = Plan({"a": W8A8, "b": W8A8_TENSOR, "c": W8A8, "d": W8A8_STATIC, "e": None})
    written = plan.to_dict()
    assert written["modules"] == {"a": "W8A8", "b": "W8A8 #2", "c": "W8A8", "d": "W8A8 #3", "e": "float"}
    assert Plan.from_dict(written) == plan


def test_each_scheme_is_written_once():
    written = preset_plan("int4", MODEL).to_dict()
    assert len(written["schemes"]) == len({json.dumps(scheme) for scheme in written["schemes"].values()}) == 3


def test_written_plans_carry_the_format_version():
    assert Plan({}).to_dict()["format_version"] == FORMAT_VERSION


@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, 99])
def test_a_newer_format_version_asks_for_an_upgrade(version):
    with pytest.raises(ConfigError, match=rf"format_version {version} is newer .*pip install -U hf-quant"):
        Plan.from_dict({**Plan({"head": W8}).to_dict(), "format_version": version})


@pytest.mark.parametrize("version", [None, 0, -1, "1", 1.0, True])
def test_a_format_version_is_a_positive_integer(version):
    with pytest.raises(ConfigError, match="format_version must be an integer from 1 to"):
        check_format_version(version)


def edited(**changes):
    return {**Plan({"head": W8}).to_dict(), **changes}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (edited(module={}), "no plan key 'module'; did you mean 'modules'"),
        (edited(schemes=None), 'a plan needs the keys "schemes" and "modules"'),
        (edited(modules=["head"]), 'a plan needs the keys "schemes" and "modules"'),
        (edited(modules={"head": "W8A61"}), "module 'head' of the plan: no scheme 'W8A61'; did you mean 'W8A16'"),
        (edited(modules={"head": ["W8A16"]}), "module 'head' of the plan: no scheme"),
        (edited(schemes={"W8A16": {"weigth": {}}}), "no Scheme key 'weigth'; did you mean 'weight'"),
        (edited(schemes={"float": {"weight": {}}}), "'float' is what a plan calls modules that stay float"),
        (edited(schemes={"W8A16": "int8"}), "Scheme is written as an object with keys"),
        ("int8", "a plan is written as an object with keys, not as 'int8'"),
    ],
)
def test_what_is_not_a_plan_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        Plan.from_dict(values)


@pytest.mark.parametrize("name", PRESETS)
def test_preset_plans_are_resolved(name):
    plan = preset_plan(name, MODEL)
    assert plan.resolve(MODEL) == plan


def test_ranges_choose_numbers():
    plan = Plan({"layers.{0}.*": W4}).resolve(MODEL)
    assert plan.modules == {name: W4 for name in MODEL if name.startswith("layers.0.")}


def test_a_range_that_is_not_well_formed_matches_nothing_and_says_how_they_are_written():
    with pytest.raises(PlanError, match=r"ranges of numbers are written as in layers.\{0-3,7\}.mlp"):
        Plan({"layers.{0..1}.mlp": W8}).resolve(MODEL)


def test_a_module_whose_name_looks_like_ranges_is_that_module():
    candidates = {"a.{0-1}": MODEL["head"], "a.0": MODEL["head"], "a.1": MODEL["head"]}
    assert list(Plan({"a.{0-1}": W8}).resolve(candidates)) == ["a.{0-1}"]


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        (["a"], '"ranges" of a plan maps names with ranges to schemes'),
        ({1: "W8A16"}, '"ranges" of a plan maps names with ranges to schemes'),
        ({"a.{0-1}": "W8A61"}, "no scheme 'W8A61'"),
        ({"a.0": "W8A16"}, "'a.0' is not a name with ranges"),
        ({"a.{0-99999}.{0-99999}": "W8A16"}, "more names than a model has modules"),
    ],
)
def test_ranges_that_no_plan_has_are_refused(ranges, message):
    with pytest.raises(ConfigError, match=message):
        Plan.from_dict(edited(ranges=ranges))
