import pytest

from hf_quant.config.plan import Candidate
from hf_quant.config.presets import PRESETS
from hf_quant.config.scheme import Scheme, TensorScheme
from hf_quant.planner.offered import SCHEMES
from hf_quant.portability import TARGETS
from hf_quant.portability.several import are_fused, is_taken, taken_instead

INT4, INT8 = PRESETS["int4"].linear, PRESETS["int8"].linear


def test_a_scheme_that_all_take_stays_as_it_is():
    assert taken_instead([INT4, INT8], ["onnx"]) == [INT4, INT8]


def test_schemes_are_changed_as_little_as_all_targets_ask_for():
    groups = TensorScheme(bits=4, symmetric=False, granularity="group")
    assert taken_instead([INT4], ["onnx", "vllm"]) == [Scheme(groups)]
    (symmetric,) = taken_instead([INT4], ["compressed-tensors"])
    assert symmetric == Scheme(TensorScheme(bits=4, granularity="group"))
    (plain,) = taken_instead([INT8], ["vllm", "onnx"])
    assert plain.weight == TensorScheme(bits=8) and plain.input == INT8.input


def test_schemes_that_become_one_are_offered_once():
    found = taken_instead(list(SCHEMES.values()), ["vllm"])
    assert len(found) == len(set(found)) < len(SCHEMES)
    assert {scheme.weight.bits for scheme in found} == {4, 8, 16}


@pytest.mark.parametrize("target", list(TARGETS))
def test_every_target_takes_some_of_what_is_offered_by_default(target):
    found = taken_instead(list(SCHEMES.values()), [target])
    assert {scheme.weight.bits for scheme in found} >= {8}
    for scheme in found:
        if scheme.weight.granularity != "group":
            assert is_taken([target], "m", Candidate("linear", 256), scheme, "linear")


def test_targets_that_contradict_each_other_take_nothing():
    assert taken_instead([INT4], ["executorch", "coreml"]) == []


def test_only_servers_compute_siblings_together():
    assert are_fused(["onnx", "vllm"]) and not are_fused(["onnx", "gguf"])
