import pytest
import torch

import hf_quant
from hf_quant.config.scheme import Scheme, TensorScheme
from hf_quant.errors import ExportError
from hf_quant.export.comparing import relative_error
from hf_quant.export.gguf import tensors, verifying
from hf_quant.export.gguf.verifying import computing_with, libraries, read_back, run, to_q8, verify
from hf_quant.export.gguf.writing import FILE, write
from hf_quant.modules.swap import quantized_modules
from hf_quant.quantizing.config import HfQuantConfig
from tests.export.gguf.models import FAMILIES, model_of
from tests.integration.tiny import outputs, token_ids

pytest.importorskip("gguf", reason='needs pip install "hf-quant[gguf]"')
runs = pytest.mark.skipif(
    libraries() is None, reason="no shared libraries of llama.cpp: name their folder by HF_QUANT_LLAMA_CPP"
)


def groups(bits, symmetric=True, size=32):
    scheme = TensorScheme(bits=bits, symmetric=symmetric, granularity="group", group_size=size)
    return HfQuantConfig(scheme=Scheme(scheme), rotation=0)


PLANS = {
    "w8a16": HfQuantConfig("w8a16", rotation=0),
    "int8": HfQuantConfig("int8", rotation=0),
    "w4a16": HfQuantConfig("w4a16", rotation=0),
    "4 bits": groups(4),
    "3 bits with zero points": groups(3, symmetric=False, size=64),
    "5 bits": groups(5),
    "5 bits with zero points": groups(5, symmetric=False),
    "mixed": HfQuantConfig("w4a16", rotation=0, overrides={"*.mlp.*": "w8a16"}),
}


@runs
@pytest.mark.parametrize("family", FAMILIES)
def test_llama_cpp_computes_what_the_float_model_does(family, tmp_path):
    model = model_of(family)
    write(model, tmp_path, None)
    ids = token_ids(2, 48)
    found = run(libraries(), tmp_path / FILE, ids.tolist(), 1)
    # It keeps keys and values as float16.
    assert relative_error(torch.from_numpy(found["logits"]), outputs(model, ids)) <= 2e-3


KEPT = {"llama-gqa": {"*.mlp.*": "bf16"}, "gpt2": {"*.mlp.*": "bf16"}}
FIRST = {("llama-gqa", "w4a16"), ("gpt2", "mixed"), ("llama-untied", "int8"), ("qwen3", "5 bits with zero points")}
CASES = [
    pytest.param(family, plan, marks=[] if (family, plan) in FIRST else pytest.mark.slow)
    for family in ("llama-gqa", "llama-untied", "gpt2", "qwen3")
    for plan in PLANS
]


@runs
@pytest.mark.parametrize(("family", "plan"), CASES)
def test_llama_cpp_computes_what_the_quantized_model_does_up_to_its_rounding_of_inputs(family, plan, tmp_path):
    model = hf_quant.quantize(model_of(family), PLANS[plan])
    write(model, tmp_path, None)
    found = verify(model, tmp_path)
    assert found.is_right and found.runtime == "llama.cpp", found
    assert found.figures["values that differ"] == 0 and found.figures["error of weights"] <= 1e-3
    assert found.figures["allowed"] <= 0.1


@runs
@pytest.mark.parametrize("family", ["llama-gqa", "gpt2"])
@pytest.mark.parametrize("kind", ["stored as float16", "stored as bfloat16", "of bfloat16"])
def test_floats_of_16_bits_are_taken_as_they_are(family, kind, tmp_path):
    model = model_of(family)
    if kind == "of bfloat16":
        model = hf_quant.quantize(model.to(torch.bfloat16), HfQuantConfig("w8a16", rotation=0, overrides=KEPT[family]))
    else:
        model = hf_quant.quantize(model, "fp16" if kind == "stored as float16" else "bf16")
    write(model, tmp_path, None)
    found = verify(model, tmp_path)
    assert found.is_right and found.figures["relative error of logits"] <= 3e-2, found


@runs
def test_rows_in_another_order_are_found_out(tmp_path, monkeypatch):
    model = hf_quant.quantize(model_of("llama-gqa"), PLANS["w8a16"])
    monkeypatch.setattr(tensors, "order_of_rows", lambda *args: None)
    write(model, tmp_path, None)
    found = verify(model, tmp_path)
    assert not found.is_right and found.figures["relative error of logits"] > 2 * found.figures["allowed"]


@runs
def test_a_file_that_llama_cpp_cannot_open_is_an_error(tmp_path):
    (tmp_path / FILE).write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(ExportError, match="cannot run"):
        run(libraries(), tmp_path / FILE, [[1, 2]], 1)


@pytest.mark.parametrize(
    ("family", "plan"),
    [
        *((family, "mixed") for family in FAMILIES),
        *((family, plan) for family in ("llama-gqa", "gpt2") for plan in PLANS),
    ],
)
def test_codes_are_read_back_bit_for_bit(family, plan, tmp_path):
    model = hf_quant.quantize(model_of(family), PLANS[plan])
    write(model, tmp_path, None)
    differing, error = read_back(model, tmp_path / FILE)
    assert differing == 0 and error <= 1e-3


def test_a_code_that_differs_is_found(tmp_path):
    model = hf_quant.quantize(model_of("llama"), PLANS["w8a16"])
    write(model, tmp_path, None)
    with torch.no_grad():
        module = dict(quantized_modules(model))["model.layers.0.mlp.up_proj"]
        codes = module.neutral()["codes"].clone()
        codes[0, 0] ^= 1
        module.fill({**module.neutral(), "codes": codes})
    assert read_back(model, tmp_path / FILE)[0] == 1


def test_without_llama_cpp_only_the_file_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(verifying, "libraries", lambda: None)
    model = hf_quant.quantize(model_of("llama"), PLANS["w8a16"])
    write(model, tmp_path, None)
    found = verify(model, tmp_path)
    assert found.is_right and found.runtime == "gguf" and "HF_QUANT_LLAMA_CPP" in found.note


def test_inputs_are_rounded_in_blocks_of_32():
    inputs = torch.zeros(2, 64)
    inputs[0, 0], inputs[0, 1], inputs[1, 40] = 127.0, 0.4, 0.004
    found = to_q8(inputs)
    assert found[0, 0] == 127 and found[0, 1] == 0
    assert found[1, 40] == pytest.approx(0.004, rel=2e-3) and found[1, :32].eq(0).all()


@pytest.mark.parametrize("preset", ["w8a16", "int8"])
def test_a_model_computes_as_before_once_it_computed_with_other_inputs(preset):
    model = hf_quant.quantize(model_of("llama"), PLANS[preset])
    expected = outputs(model)
    with computing_with(model, to_q8):
        rounded = outputs(model)
    with computing_with(model, lambda inputs: inputs):
        floats = outputs(model)
    assert 1e-3 < relative_error(rounded, floats) < 0.1
    assert (relative_error(expected, floats) <= 1e-5) == (preset == "w8a16")
    assert torch.equal(outputs(model), expected)
