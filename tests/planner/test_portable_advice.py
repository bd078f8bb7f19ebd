"""Plans by rules that an export target takes whole."""

import pytest

import hf_quant
from hf_quant.errors import UnknownName
from hf_quant.planner.optimize_for import advise
from hf_quant.planner.portable_advice import portable_advice
from hf_quant.portability import TARGETS
from tests.integration.tiny import FAMILIES, tiny_model
from tests.naming import naming


@pytest.mark.parametrize("portable_to", list(TARGETS))
def test_what_the_plan_makes_is_refused_by_the_target_nowhere(portable_to):
    for family in FAMILIES:
        for target in ("speed", "memory"):
            with naming(family, target):
                advice = portable_advice(tiny_model(family), "raspberry-pi-5", target, portable_to)
                config = hf_quant.HfQuantConfig(plan=advice.plan)
                model = hf_quant.quantize(tiny_model(family), config, progress=False)
                assert any(choice.scheme is not None for choice in advice.choices)
                assert hf_quant.portability(model, portable_to).is_portable


def test_what_the_target_takes_stays_as_advised():
    model = tiny_model("llama-untied")
    assert portable_advice(model, "raspberry-pi-5", "speed", "onnx") == advise(model, "raspberry-pi-5", "speed")


def test_a_change_is_reasoned_and_priced():
    model = tiny_model("llama-untied")
    plain = advise(model, "raspberry-pi-5", "memory")
    changed = portable_advice(model, "raspberry-pi-5", "memory", "executorch")
    name = "model.layers.0.mlp.up_proj"
    reasons = {choice.module: choice.reason for choice in changed.choices}
    assert changed.plan.modules[name] != plain.plan.modules[name]
    assert reasons[name] == "changed for executorch: inputs are quantized per token"
    other = portable_advice(model, "raspberry-pi-5", "memory", "gguf")
    reasons = {choice.module: choice.reason for choice in other.choices}
    assert reasons["lm_head"].startswith(f"in the place of {plain.plan.modules['lm_head']} for gguf: ")
    assert other.fits is None and "MB of weights" in other.memory


def test_an_unknown_target_is_told():
    with pytest.raises(UnknownName, match="did you mean 'onnx'"):
        portable_advice(tiny_model("bert"), "host", "speed", "onxx")
