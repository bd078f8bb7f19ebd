"""Casts of the model, and the modes and contexts it may run in."""

import pytest
import torch
from torch import nn

from hf_quant.modules.base import QuantizedModule
from hf_quant.modules.stored import StoredModule
from tests.integration.tiny import FAMILIES, auto_class, error, outputs, saved_tensors, token_ids, wrong_in_threads

CASTS = {torch.bfloat16: 4e-2, torch.float16: 3e-2, torch.float32: 0.0}
"""Dtype to the error it may add: rounding an activation may flip its code, which costs what quantizing it did."""


def is_quantized(module):
    return isinstance(module, QuantizedModule | StoredModule)


@pytest.mark.parametrize("dtype", CASTS, ids=str)
@pytest.mark.parametrize("preset", ["int8", "int4", "fp16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_cast_changes_activations_but_no_code_and_no_scale(name, preset, dtype, load, tmp_path):
    model = load(name, preset)
    expected = outputs(model)
    model.save_pretrained(tmp_path / "before")
    assert model.to(dtype) is model
    logits = outputs(model)
    assert logits.dtype == dtype
    assert error(logits, expected) <= CASTS[dtype]

    model.save_pretrained(tmp_path / "after")
    before, after = saved_tensors(tmp_path / "before"), saved_tensors(tmp_path / "after")
    kept = [f"{n}.{key}" for n, m in model.named_modules() if is_quantized(m) for key in ("weight", "weight_scale")]
    assert all(
        torch.equal(before[key], after[key]) and before[key].dtype == after[key].dtype for key in kept if key in before
    )
    if name != "llama":  # whose rotary frequencies a cast rounds, quantized or not, and loading computes anew
        assert torch.equal(outputs(auto_class(name).from_pretrained(tmp_path / "after").eval()), logits)


def test_casts_by_name_are_refused_by_transformers_or_do_the_same(load):
    model = load("llama", "int8")
    expected = outputs(model)
    for cast in (model.half, model.float):
        with pytest.raises(ValueError, match="not supported for quantized model"):
            cast()
    assert torch.equal(outputs(model), expected)
    assert torch.equal(outputs(model.bfloat16()), outputs(load("llama", "int8").to(torch.bfloat16)))


def test_casting_down_and_up_again_loses_only_what_was_float(load):
    model = load("llama", "int4")
    expected = outputs(model)
    assert error(outputs(model.to(torch.bfloat16).to(torch.float32)), expected) < 4e-2


@pytest.mark.parametrize("preset", ["int8", "int4", "w8a16", "bf16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_autocast_stays_near_what_float32_gives(name, preset, load):
    model = load(name, preset)
    expected = outputs(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = outputs(model)
    assert torch.isfinite(logits).all()
    assert error(logits, expected) < 4e-2


@pytest.mark.parametrize("preset", ["int8", "int4"])
@pytest.mark.parametrize("name", FAMILIES)
def test_inference_mode_gives_the_same_logits(name, preset, load):
    model = load(name, preset)
    with torch.inference_mode():
        inside = model(input_ids=token_ids()).logits.clone()
    assert torch.equal(inside, outputs(model))


@pytest.mark.parametrize("name", FAMILIES)
def test_train_mode_without_dropout_gives_the_logits_of_eval_mode(name, load):
    model = load(name, "int8")
    expected = outputs(model)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    if hasattr(model.config, "attention_probs_dropout_prob"):
        for module in model.modules():
            if isinstance(getattr(module, "dropout_prob", None), float):
                module.dropout_prob = 0.0
    model.config._attn_implementation = "eager"
    eager = outputs(model)
    assert error(eager, expected) < 1e-5
    # Blocks are fused in evaluation only: in the last bits, which may round an input to the next code.
    assert error(outputs(model.train()), eager) < 5e-3
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("preset", ["int8", "int4"])
def test_two_threads_get_the_logits_of_one(preset, load):
    model = load("llama", preset)
    ids = [token_ids(rows=rows, length=20, seed=rows) for rows in (1, 2, 3, 4)]
    expected = [outputs(model, batch) for batch in ids]
    assert not wrong_in_threads(lambda index: outputs(model, ids[index]), expected, threads=2, steps=20)
