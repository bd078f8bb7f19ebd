"""A ``config.json`` that was edited, or belongs to other weights: an error that says so, whatever the edit."""

import json
import re
import time

import pytest
from transformers import AutoModel, AutoModelForSequenceClassification

from hf_quant import HfQuantConfig
from hf_quant.errors import CheckpointError, ConfigError, HfQuantError
from tests.integration.tampering import CONFIG, Tamper, assert_in_range, inner, load, save_all

CHECKPOINT = "llama-int4"
MODULE = inner(CHECKPOINT)
JUNK = [None, [], {}, "x", 3, -1, 10**30, 1.5, True, [[]], {"a": {}}]


@pytest.fixture(scope="module")
def tamper(tmp_path_factory):
    root = tmp_path_factory.mktemp("hostile")
    return Tamper(save_all(root / "intact"), root / "damaged")


def scheme_label(plan):
    return plan["modules"][MODULE]


def edit_scheme(tamper, part, name=CHECKPOINT, **changes):
    """`changes` to the weight or input format of the scheme that `MODULE` has."""
    return tamper.plan(name, lambda plan: plan["schemes"][scheme_label(plan)][part].update(changes))


def edit_groups(tamper, size):
    """Another group size for weight and input alike."""

    def change(plan):
        scheme = plan["schemes"][scheme_label(plan)]
        scheme["weight"]["group_size"] = scheme["input"]["group_size"] = size

    return tamper.plan(CHECKPOINT, change)


def refused(directory, match=".", error=HfQuantError):
    with pytest.raises(error, match=match) as raised:
        load(directory)
    assert isinstance(raised.value, HfQuantError)
    assert len(str(raised.value)) > 20


@pytest.mark.parametrize("bits", [2, 3, 5, 6, 7, 8, 16])
def test_other_bits_are_refused(tamper, bits):
    refused(edit_scheme(tamper, "weight", bits=bits), "belong together", CheckpointError)


@pytest.mark.parametrize("bits", [0, 1, -4, 9, 32, 64, 10**30, 4.0, "4", None, True, [4], {"bits": 4}])
def test_bits_that_do_not_exist_are_refused_with_those_that_do(tamper, bits):
    refused(edit_scheme(tamper, "weight", bits=bits), "use one of|must be int", ConfigError)


@pytest.mark.parametrize("size", [1, 2, 32, 64])
def test_another_group_size_is_refused(tamper, size):
    refused(edit_groups(tamper, size), "belong together", CheckpointError)


@pytest.mark.parametrize("part", ["weight", "input"])
def test_groups_of_inputs_that_are_not_those_of_the_weight_are_refused(tamper, part):
    refused(edit_scheme(tamper, part, group_size=16), "need weights in the same groups", ConfigError)


@pytest.mark.parametrize("size", [3, 7, 100, 256, 10**30])
def test_a_group_size_that_does_not_divide_is_refused_with_those_that_do(tamper, size):
    refused(edit_groups(tamper, size), "these do: 8, 16, 32, 64, 128", ConfigError)


@pytest.mark.parametrize("size", [0, -1, "64", 64.0, True, [64]])
def test_a_group_size_that_is_no_number_is_refused(tamper, size):
    refused(edit_scheme(tamper, "weight", group_size=size), "positive integer", ConfigError)


def test_a_group_size_left_open_is_refused_in_a_saved_plan(tamper):
    refused(edit_groups(tamper, None), "save it again", CheckpointError)


@pytest.mark.parametrize("name", ["llama-int4", "gpt2-int4", "llama-asym8"])
def test_calling_asymmetric_codes_symmetric_is_refused(tamper, name):
    edited = tamper.plan(name, lambda plan: [s["weight"].pop("symmetric", None) for s in plan["schemes"].values()])
    refused(edited, "weight_zero_point", CheckpointError)


@pytest.mark.parametrize("name", ["llama-int8", "bert-int8", "llama-3bit"])
def test_calling_symmetric_codes_asymmetric_is_refused(tamper, name):
    edited = tamper.plan(name, lambda plan: [s["weight"].update(symmetric=False) for s in plan["schemes"].values()])
    refused(edited, "weight_zero_point is missing", CheckpointError)


def test_calling_dynamic_inputs_static_is_refused(tamper):
    refused(
        edit_scheme(tamper, "input", dynamic=False, granularity="tensor", group_size=None),
        "input_scale is missing",
        CheckpointError,
    )


@pytest.mark.parametrize("key", ["granularity", "format", "symmetric", "dynamic", "group_size"])
@pytest.mark.parametrize("value", JUNK, ids=repr)
def test_junk_in_a_scheme_is_refused(tamper, key, value):
    refused(edit_scheme(tamper, "weight", **{key: value}))


@pytest.mark.parametrize("part", ["weight", "input"])
def test_unknown_keys_of_a_scheme_are_refused_with_the_known_ones(tamper, part):
    refused(edit_scheme(tamper, part, zero_points=1), "Known: format, bits", ConfigError)


@pytest.mark.parametrize("value", JUNK, ids=repr)
def test_junk_in_place_of_any_part_is_refused(tamper, value):
    def section(change):
        return tamper.config(CHECKPOINT, lambda values: change(values["quantization_config"]))

    edits = [
        lambda q: q.update(plan=value),
        lambda q: q["plan"].update(schemes=value),
        lambda q: q["plan"].update(modules=value),
        lambda q: q["plan"]["schemes"].update({scheme_label(q["plan"]): value}),
        lambda q: q["plan"]["modules"].update({MODULE: value}),
        lambda q: q["plan"]["schemes"][scheme_label(q["plan"])].update(weight=value),
        lambda q: q["plan"].update(surplus=value),
        lambda q: q.update(surplus=value),
        lambda q: q.update(scheme=value if value is not None else {}),
    ]
    for edit in edits:
        refused(section(edit))


@pytest.mark.parametrize("key", ["overrides", "kept_float", "modules_to_not_convert", "preset"])
@pytest.mark.parametrize("value", JUNK, ids=repr)
def test_junk_in_the_other_keys_is_refused_or_means_nothing(tamper, key, value):
    directory = tamper.config(CHECKPOINT, lambda values: values["quantization_config"].update({key: value}))
    try:
        model = load(directory)
    except HfQuantError:
        return
    assert_in_range(model)
    assert all(isinstance(text, str) for item in model.config.quantization_config.kept_float.items() for text in item)


@pytest.mark.parametrize("place", [("quantization_config",), ("quantization_config", "plan")])
@pytest.mark.parametrize("version", [2, 99, 10**40])
def test_a_newer_format_version_says_to_upgrade(tamper, place, version):
    def change(values):
        for key in place:
            values = values[key]
        values["format_version"] = version

    refused(tamper.config(CHECKPOINT, change), "pip install -U hf-quant", ConfigError)


@pytest.mark.parametrize("version", [0, -1, 1.0, "1", True, None, [1]])
def test_a_format_version_that_is_no_version_is_refused(tamper, version):
    edited = tamper.config(CHECKPOINT, lambda values: values["quantization_config"].update(format_version=version))
    refused(edited, "format_version must be an integer", ConfigError)


def test_a_checkpoint_without_a_plan_is_refused(tamper):
    refused(tamper.config(CHECKPOINT, lambda values: values["quantization_config"].pop("plan")), '"plan"')


PATTERNS = ["*", "model.*", "lm_hea?", "[l]m_head", "re:.*", "re:(a+)+$", "re:(", "re:a{99999999999999999999}"]
PATTERNS += ["re:(.*a){25}model", "re:" + "(" * 3000 + ")" * 3000]


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern[:20])
@pytest.mark.parametrize("name", ["llama-int4", "bert-int8", "gpt2-int4"])
def test_a_pattern_in_a_saved_plan_is_refused_not_evaluated(tamper, name, pattern):
    for replaces in (False, True):

        def change(plan, replaces=replaces):
            label = plan["modules"].pop(inner(name)) if replaces else plan["modules"][inner(name)]
            plan["modules"][pattern] = label

        began = time.process_time()
        refused(tamper.plan(name, change), "pattern")
        assert time.process_time() - began < 5


NAMES = [
    "nonsense",
    "model",
    "model.norm",
    "model.layers.0",
    "model.layers.0.input_layernorm",
    "model.layers.1.mlp.up_proj",
]
NAMES += [
    "transformer.h.0.attn.c_attn",
    f"{MODULE} ",
    f" {MODULE}",
    f"{MODULE}.weight",
    "__class__",
    "lm_head.lm_head",
    ".",
]


@pytest.mark.parametrize("other", NAMES)
def test_a_name_that_the_model_cannot_quantize_is_refused(tamper, other):
    label = {}
    added = tamper.plan(CHECKPOINT, lambda plan: plan["modules"].update({other: scheme_label(plan)}))
    refused(added, re.escape(repr(other)), CheckpointError)
    moved = tamper.plan(CHECKPOINT, lambda plan: plan["modules"].update({other: plan["modules"].pop(MODULE, label)}))
    refused(moved, re.escape(repr(other)), CheckpointError)


@pytest.mark.parametrize("name", ["bert-int8", "gpt2-int4", "llama-int8", "llama-3bit"])
def test_a_plan_with_any_one_module_left_out_is_refused(tamper, name):
    modules = json.loads((tamper.intact / name / CONFIG).read_text())["quantization_config"]["plan"]["modules"]
    for module in modules:
        refused(tamper.plan(name, lambda plan, module=module: plan["modules"].pop(module)), re.escape(module))
        floated = tamper.plan(name, lambda plan, module=module: plan["modules"].update({module: "float"}))
        refused(floated, re.escape(module))


def test_an_empty_plan_over_codes_is_refused(tamper):
    refused(tamper.plan("gpt2-int4", lambda plan: plan["modules"].clear()), "keeps .* float", CheckpointError)


@pytest.mark.parametrize(
    "modules", [{f"model.layers.{i}.x": None for i in range(50_000)}, dict.fromkeys(map(str, range(50_000)))]
)
def test_a_plan_of_very_many_modules_is_refused_quickly(tamper, modules):
    def change(plan):
        plan["modules"].update(dict.fromkeys(modules, scheme_label(plan)))

    directory = tamper.plan(CHECKPOINT, change)
    began = time.perf_counter()
    refused(directory, "cannot quantize or does not have", CheckpointError)
    assert time.perf_counter() - began < 20


def test_a_module_both_forms_of_whose_name_are_in_the_plan_is_refused(tamper):
    def change(plan):
        plan["modules"][MODULE.removeprefix("model.")] = scheme_label(plan)

    refused(tamper.plan(CHECKPOINT, change), "two entries", CheckpointError)


SIZES = [("hidden_size", 128), ("hidden_size", 32), ("hidden_size", 2**30), ("vocab_size", 95), ("vocab_size", 97)]
SIZES += [("vocab_size", 2**40), ("intermediate_size", 64), ("num_hidden_layers", 2), ("num_hidden_layers", 0)]


@pytest.mark.parametrize(("key", "value"), SIZES)
@pytest.mark.parametrize("name", ["llama-int4", "llama-int8", "bert-int8"])
def test_a_config_of_other_sizes_is_refused(tamper, name, key, value):
    edited = tamper.config(name, lambda values: values.update({key: value}))
    refused(edited, "belong together|does not divide|does not fit|cannot quantize")


def test_weights_of_another_architecture_are_refused(tamper):
    directory = tamper.config("llama-int8", lambda values: values.update(model_type="gpt2"))
    refused(directory, "model_type", CheckpointError)


@pytest.mark.parametrize("dtype", ["int32", "float8_e4m3fn", "bool", "float64"])
def test_a_dtype_that_no_kernel_computes_in_is_refused(tamper, dtype):
    refused(tamper.config(CHECKPOINT, lambda values: values.update(dtype=dtype)), "torch.float32", ConfigError)


@pytest.mark.parametrize("auto_class", [AutoModel, AutoModelForSequenceClassification])
@pytest.mark.parametrize("name", ["bert-int8", "gpt2-int4", "llama-int8"])
@pytest.mark.filterwarnings("ignore:.*newly initialized.*")
def test_the_checks_leave_other_heads_loadable(tamper, name, auto_class):
    """Guards against checks that are too strict: a head more or less is no damage."""
    assert_in_range(auto_class.from_pretrained(tamper.copy(name)))


@pytest.mark.parametrize("method", ["HF_QUANT", "hf-quant", "Hf_Quant", "hf_quant ", "none"])
def test_a_method_by_another_name_raises_in_transformers(tamper, method):
    """Transformers skips a method it does not know; the packed shapes then stop it."""
    edited = tamper.config(CHECKPOINT, lambda values: values["quantization_config"].update(quant_method=method))
    with pytest.raises(RuntimeError, match="mismatch"):
        load(edited)


def test_overrides_beside_a_plan_are_refused(tamper):
    plan = json.loads((tamper.intact / CHECKPOINT / CONFIG).read_text())["quantization_config"]["plan"]
    with pytest.raises(ConfigError, match="overrides"):
        HfQuantConfig(plan=plan, overrides={"lm_head": None})
