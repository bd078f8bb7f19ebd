"""Presets: every name gives schemes that fit every kind of module, and tied modules can share codes."""

import json

import pytest

from hf_quant.config.plan import Candidate, Plan, preset_plan
from hf_quant.config.presets import PRESETS, get_preset
from hf_quant.errors import UnknownName

MODEL = {
    "embed": Candidate("embedding", 576),
    "layer.0": Candidate("linear", 576),
    "layer.1": Candidate("linear", 1536),
    "layer.2": Candidate("linear", 50),
    "head": Candidate("head", 576),
}


@pytest.mark.parametrize("name", PRESETS)
def test_embedding_and_head_of_a_preset_can_share_one_set_of_codes(name):
    assert get_preset(name).embedding.weight == get_preset(name).head.weight


@pytest.mark.parametrize("name", PRESETS)
def test_embeddings_look_up_rows_and_have_no_input_format(name):
    assert get_preset(name).embedding.input is None


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_covers_every_module_and_survives_json(name):
    plan = preset_plan(name, MODEL)
    assert list(plan) == list(MODEL) and None not in plan.modules.values()
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


@pytest.mark.parametrize("name", PRESETS)
def test_presets_say_what_they_do(name):
    assert get_preset(name).summary


def test_int8_is_w8a8_per_channel_and_token():
    scheme = get_preset("int8").linear
    assert (scheme.weight.bits, scheme.weight.symmetric, scheme.weight.granularity) == (8, True, "channel")
    assert scheme.input is not None
    assert (scheme.input.bits, scheme.input.granularity, scheme.input.dynamic) == (8, "token", True)


def test_int4_is_w4a8_asymmetric_in_the_largest_group_that_fits():
    plan = preset_plan("int4", MODEL)
    sizes = [plan.modules[f"layer.{index}"].weight.group_size for index in range(3)]
    assert sizes == [64, 128, None]
    assert plan.modules["layer.2"].weight.granularity == "channel"
    assert all(not plan.modules[f"layer.{index}"].weight.symmetric for index in range(3))
    assert plan.modules["head"].weight.bits == plan.modules["embed"].weight.bits == 8


@pytest.mark.parametrize("name", ["w8a16", "w4a16"])
def test_weight_only_presets_leave_activations_float(name):
    assert all(scheme.input is None for scheme in preset_plan(name, MODEL).modules.values())


@pytest.mark.parametrize(("wrong", "near"), [("int44", "int4"), ("w4a1", "w4a16"), ("bf61", "bf16")])
def test_an_unknown_preset_names_the_nearest_and_all_others(wrong, near):
    with pytest.raises(UnknownName, match=f"did you mean '{near}'") as raised:
        get_preset(wrong)
    assert all(name in str(raised.value) for name in PRESETS)
