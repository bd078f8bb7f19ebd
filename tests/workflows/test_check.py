import copy
import json

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    ViTConfig,
    ViTModel,
)

import hf_quant
from hf_quant.errors import EvaluationError, UnsupportedModel
from hf_quant.fusion.mixin import Fused
from hf_quant.integration.attention import uses_native
from tests.integration.derived_families import MODELS, inputs, make
from tests.integration.tiny import FAMILIES, outputs, tiny_model, token_ids

SIZES = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 128}


def quantized(name="llama", preset="int8"):
    return hf_quant.quantize(tiny_model(name), preset, progress=False)


@pytest.mark.parametrize("preset", ["int8", "int4", "w4a16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_that_is_right_is_found_right(family, preset):
    report = hf_quant.check(quantized(family, preset))
    assert report.is_right, report
    assert not report.never_called
    assert not report.read
    assert max(module.error for module in report.modules) < 1e-4
    assert "all right" in str(report)


def test_half_precision_is_not_taken_for_an_error():
    model = hf_quant.quantize(tiny_model("llama").to(torch.bfloat16), "int8", progress=False)
    assert hf_quant.check(model).is_right


def test_a_byte_of_packed_weights_that_was_changed_is_found():
    model = quantized()
    module = model.model.layers[1].mlp.down_proj
    module.prepare()
    tampered = module.packed[0].clone()
    tampered.view(torch.uint8)[-1] ^= 0x80
    module.__dict__["packed"] = (tampered, *module.packed[1:])
    report = hf_quant.check(model)
    assert [each.module for each in report.wrong] == ["model.layers.1.mlp.down_proj"]
    assert not report.is_right
    assert "WRONG model.layers.1.mlp.down_proj" in str(report)


def test_attention_that_computes_something_else_is_found_in_the_outputs(monkeypatch):
    model = quantized(preset="w4a16")
    model.model.layers[0].self_attn.scaling *= 2  # read in both runs, so that it changes nothing
    assert hf_quant.check(model).is_right
    if not uses_native(model):
        pytest.skip("no native kernels here")
    from hf_quant.integration import attention

    real = attention.attend

    def attend(module, *args, **kwargs):
        output = real(module, *args, **kwargs)
        return None if output is None else output * 1.01

    monkeypatch.setattr(attention, "attend", attend)
    report = hf_quant.check(model)
    assert not report.wrong
    assert not report.is_right


class Skipping(LlamaForCausalLM):
    """A model that goes around a linear."""

    def __init__(self, config):
        super().__init__(config)
        self.spare = torch.nn.Linear(64, 64)


class Reading(LlamaForCausalLM):
    """A model whose forward reads numbers of a weight."""

    def forward(self, *args, **kwargs):
        result = super().forward(*args, **kwargs)
        result.logits = result.logits * (1 + self.model.layers[0].self_attn.o_proj.weight.abs().mean())
        return result


def of_class(model_class):
    torch.manual_seed(0)
    return hf_quant.quantize(model_class(LlamaConfig(**SIZES, vocab_size=64)).eval(), "int8", progress=False)


def test_a_module_that_is_never_called_is_listed_and_checked_alone():
    model = of_class(Skipping)
    report = hf_quant.check(model)
    assert report.never_called == ("spare",)
    assert report.is_right
    model.spare.prepare()
    model.spare.__dict__["packed"] = model.model.layers[0].self_attn.q_proj.packed
    assert [each.module for each in hf_quant.check(model).wrong] == ["spare"]


def test_a_weight_that_forward_reads_is_listed():
    report = hf_quant.check(of_class(Reading))
    assert report.read == {"model.layers.0.self_attn.o_proj": "abs"}
    assert report.is_right
    assert "decoded for each call of abs: model.layers.0.self_attn.o_proj" in str(report)


def test_the_model_is_as_it_was_afterwards():
    model = quantized().train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    kinds = [type(module) for module in model.modules()]
    reference = copy.deepcopy(model).eval()
    hf_quant.check(model)
    assert [module.training for module in model.modules()] == modes
    assert [type(module) for module in model.modules()] == kinds
    assert any(isinstance(module, Fused) for module in model.modules()) == uses_native(model)
    assert torch.equal(outputs(model.eval()), outputs(reference))


def test_experts_that_no_token_went_to_are_checked_alone():
    torch.manual_seed(0)
    experts = {"num_experts": 32, "num_experts_per_tok": 1, "moe_intermediate_size": 32, "head_dim": 16}
    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**SIZES, **experts, vocab_size=64)).eval()
    report = hf_quant.check(hf_quant.quantize(model, "int8", progress=False))
    assert report.is_right, report
    assert report.never_called
    assert all(".experts." in name for name in report.never_called)


def test_images_are_made_as_the_config_says():
    torch.manual_seed(0)
    model = ViTModel(ViTConfig(**SIZES, image_size=32, patch_size=8, num_channels=1)).eval()
    report = hf_quant.check(hf_quant.quantize(model, "int8", progress=False))
    assert report.inputs == {"pixel_values": (1, 1, 32, 32)}
    assert report.is_right, report


def test_inputs_can_be_given_and_are_asked_for_where_they_are_not_known():
    class Unknown(LlamaForCausalLM):
        def forward(self, something):
            return super().forward(something)

    model = of_class(Unknown)
    with pytest.raises(EvaluationError, match="inputs="):
        hf_quant.check(model)
    assert hf_quant.check(model, {"something": torch.arange(8)[None]}).is_right


@pytest.mark.parametrize("name", MODELS)
def test_what_a_class_of_a_models_own_computes_around_a_weight_is_no_error(name):
    model = hf_quant.quantize(make(name), "int8", progress=False)
    decoder = {"decoder_input_ids": token_ids(seed=1)} if model.config.is_encoder_decoder else {}
    report = hf_quant.check(model, {**inputs(model), **decoder})
    assert report.is_right, report


@pytest.mark.parametrize("preset", ["int8", "w4a16"])
@pytest.mark.parametrize(
    ("name", "table"), [("gemma2", "model.embed_tokens"), ("opt", "model.decoder.embed_positions")]
)
def test_wrong_rows_are_found_whatever_is_computed_around_it(name, table, preset):
    model = hf_quant.quantize(make(name), preset, progress=False)
    module = model.get_submodule(table)
    module.prepare()
    tampered = module.packed[0].clone()
    tampered[: len(tampered) // 2] ^= 1
    module.__dict__["packed"] = (tampered, *module.packed[1:])
    report = hf_quant.check(model, {"input_ids": torch.arange(4, 16)[None]})
    assert table in [each.module for each in report.wrong]


def test_a_float_model_is_refused():
    with pytest.raises(UnsupportedModel, match="no quantized modules"):
        hf_quant.check(tiny_model("bert"))


def test_the_report_is_json_ready():
    values = json.loads(json.dumps(hf_quant.check(quantized()).to_dict()))
    assert values["is_right"]
    assert values["modules"][0]["calls"] == 1


def test_inputs_that_are_no_tensors_are_passed_on():
    model = quantized("bert")
    inputs = {"input_ids": torch.randint(5, 60, (1, 8)), "output_hidden_states": True}
    report = hf_quant.check(model, inputs)
    assert report.is_right and report.inputs == {"input_ids": (1, 8)}
