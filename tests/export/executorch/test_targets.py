"""Whole programs in ExecuTorch's own runtime."""

import pytest
import torch

import hf_quant
from hf_quant.errors import ConfigError, ExportError
from hf_quant.export import TARGETS
from hf_quant.export.executorch.runtime import Program
from hf_quant.export.executorch.verify import codes_that_differ
from hf_quant.export.executorch.write import FILE, write
from hf_quant.modules.swap import quantized_modules
from hf_quant.planner.portable_advice import portable_advice
from tests.integration.tiny import error, tiny_model, token_ids

needs_runtime = pytest.mark.skipif(not TARGETS["executorch"].can_verify, reason='pip install "hf-quant[executorch]"')


def quantized(family, target):
    plan = portable_advice(tiny_model(family), "raspberry-pi-5", target, "executorch").plan
    return hf_quant.quantize(tiny_model(family), hf_quant.HfQuantConfig(plan=plan), progress=False)


@needs_runtime
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("family", "target"), [("llama", "memory"), ("gpt2", "speed"), ("bert", "speed")])
def test_a_program_holds_the_codes_and_computes_what_the_model_does(family, target, tmp_path):
    model = quantized(family, target)
    done = hf_quant.export(model, "executorch", tmp_path / "there", tokens=32, verify=True)
    figures = done.comparison.figures
    assert done.comparison.is_right and figures["modules with other codes"] == 0
    assert max(figures["outputs"], figures["outputs for fewer tokens"]) <= figures["allowed"] < 0.1
    other = quantized(family, target)
    module = next(module for _, module in quantized_modules(other))
    codes = module.neutral()["codes"]
    codes.copy_(codes.roll(1, -1))
    assert len(codes_that_differ(other, tmp_path / "there" / FILE)) >= 1
    program, ids = Program(tmp_path / "there"), token_ids(1, 33)
    fills = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    whole = {name: fills[name] for name in fills if name in program.takes}
    short = {name: value[:, :2] for name, value in whole.items()}
    with torch.no_grad():
        assert error(program(**short).logits, model(**short).logits) <= figures["allowed"]
    with pytest.raises(RuntimeError):
        program(**whole)


def test_weights_alone_are_refused_with_what_to_ask_for(tmp_path):
    model = hf_quant.quantize(tiny_model("bert"), "w4a16", progress=False)
    if TARGETS["executorch"].can_verify:
        with pytest.raises(ExportError, match="inputs per token"):
            hf_quant.export(model, "executorch", tmp_path / "there")
        assert not (tmp_path / "there").exists()
    assert not hf_quant.portability(model, "executorch").is_portable


@pytest.mark.parametrize(
    ("tokens", "words"),
    [("many", "whole number from 4 on"), (3, "whole number from 4 on"), (4096, "positions for 128 tokens")],
)
def test_a_number_of_tokens_that_cannot_be_is_told_before_tracing(tokens, words, tmp_path):
    with pytest.raises(ConfigError, match=words):
        write(tiny_model("bert"), tmp_path, tokens=tokens)
