"""Tiny models exported whole: to files of ONNX, OpenVINO and TensorRT, and run there."""

import json

import numpy as np
import pytest
import torch
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

import hf_quant
from hf_quant import Calibration, HfQuantConfig
from hf_quant.config.scheme import Scheme, TensorScheme
from hf_quant.errors import ExportError
from hf_quant.export import TARGETS
from hf_quant.modules.swap import quantized_modules
from tests.evaluation.tiny import tiny_tokenizer

onnx = pytest.importorskip("onnx", reason="ONNX is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")
pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

from hf_quant.export.onnx.read_back import codes_that_differ  # noqa: E402
from hf_quant.export.onnx.runtime import TextGraph  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch's exporter, about itself


def bert():
    config = BertConfig(
        vocab_size=64,
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    return BertForSequenceClassification(config).eval()


def gpt2():
    config = GPT2Config(vocab_size=64, n_embd=64, n_layer=1, n_head=2, n_positions=64, initializer_range=0.2)
    return GPT2LMHeadModel(config).eval()


def llama(tied=True):
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config).eval()


def even():
    """A BERT all of whose matrices have rows of an even number of groups of one size."""
    config = BertConfig(
        vocab_size=64,
        hidden_size=256,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=256,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    return BertForSequenceClassification(config).eval()


def t5():
    config = T5Config(
        vocab_size=64,
        d_model=64,
        d_kv=16,
        d_ff=128,
        num_layers=1,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=True,
        decoder_start_token_id=0,
        initializer_factor=0.3,
    )
    return T5ForConditionalGeneration(config).eval()


def bart():
    config = BartConfig(
        vocab_size=64,
        d_model=64,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        max_position_embeddings=64,
        scale_embedding=True,
        init_std=0.2,
    )
    return BartForConditionalGeneration(config).eval()


MODELS = {"t5": t5, "bart": bart, "even": even, "bert": bert, "gpt2": gpt2, "llama": llama}
MIXED = HfQuantConfig(
    "int4", overrides={"*.mlp.*": "int8", "*.o_proj": "w8a16", "*.q_proj": Scheme(TensorScheme(bits=3))}
)


def quantized(kind, config):
    torch.manual_seed(0)
    return hf_quant.quantize(
        MODELS[kind](), HfQuantConfig(config) if isinstance(config, str) else config, progress=False
    )


def calibrated(model, scheme):
    ids = torch.arange(32).view(2, 16)
    data = Calibration([{"input_ids": ids, "attention_mask": torch.ones_like(ids)}])
    return hf_quant.quantize(model, HfQuantConfig(scheme=scheme, calibration=data), progress=False)


@pytest.mark.parametrize(
    ("kind", "preset"), [("bert", "int8"), ("gpt2", "int4"), ("gpt2", "w8a16"), ("llama", "int8"), ("llama", "w4a16")]
)
def test_a_model_is_right_in_onnx_runtime(kind, preset, tmp_path):
    model = quantized(kind, preset)
    TARGETS["onnx"].write(model, tmp_path, None)
    comparison = TARGETS["onnx"].verify(model, tmp_path)
    assert comparison.is_right, comparison
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    if preset.endswith("a16"):
        assert comparison.figures["allowed"] == 1e-5


def test_greedy_tokens_with_the_cache_are_those_of_the_model(tmp_path):
    model, ids = quantized("llama", "int4"), torch.tensor([[5, 9, 13, 2], [1, 2, 3, 4]])
    TARGETS["onnx"].write(model, tmp_path, None)
    expected = model.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert np.array_equal(TextGraph(tmp_path).greedy(ids.numpy(), 12), expected.numpy())


@pytest.mark.parametrize(("kind", "preset"), [("t5", "int8"), ("bart", "w4a16")])
def test_greedy_tokens_of_an_encoder_and_decoder_are_those_of_the_model(kind, preset, tmp_path):
    model, ids = quantized(kind, preset), torch.tensor([[5, 9, 13, 2]])
    TARGETS["onnx"].write(model, tmp_path, None)
    comparison = TARGETS["onnx"].verify(model, tmp_path)
    assert comparison.is_right, comparison
    graph, found = TextGraph(tmp_path), np.array([[model.config.decoder_start_token_id]])
    for _ in range(6):
        logits = graph.run({"input_ids": ids.numpy(), "decoder_input_ids": found})["logits"]
        found = np.concatenate([found, logits[:, -1:].argmax(-1)], 1)
    expected = model.generate(ids, max_new_tokens=6, do_sample=False, eos_token_id=None, forced_eos_token_id=None)
    assert np.array_equal(found, expected.numpy())
    names = [tensor.name for tensor in onnx.load(tmp_path / "model.onnx").graph.initializer]
    assert sum(name.endswith(("shared.codes", "embed_tokens.codes", "lm_head.codes")) for name in names) == 1


def test_layers_that_are_called_again_are_stored_once(tmp_path):
    config = AlbertConfig(
        vocab_size=64,
        embedding_size=32,
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=64,
    )
    model = hf_quant.quantize(AlbertForSequenceClassification(config).eval(), HfQuantConfig("int8"), progress=False)
    TARGETS["onnx"].write(model, tmp_path, None)
    assert TARGETS["onnx"].verify(model, tmp_path).is_right
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert sum(node.op_type == "MatMulInteger" for node in graph.node) > sum(
        tensor.name.endswith(".codes") for tensor in graph.initializer
    )


def test_a_folder_has_all_that_is_needed_and_says_how_it_was_compared(tmp_path):
    done = hf_quant.export(quantized("llama", "w4a16"), "onnx", tmp_path / "there", tokenizer=tiny_tokenizer())
    names = {path.name for path in (tmp_path / "there").iterdir()}
    assert {"model.onnx", "config.json", "generation_config.json", "tokenizer.json", "hf_quant_export.json"} <= names
    assert done.comparison.is_right and done.manifest["verified"]["figures"]["modules with other codes"] == 0


def test_padded_rows_give_what_they_give_alone(tmp_path):
    model = quantized("bert", "w8a16")
    TARGETS["onnx"].write(model, tmp_path, None)
    graph, ids = TextGraph(tmp_path), np.array([[5, 9, 13, 2], [1, 2, 0, 0]])
    mask = np.array([[1, 1, 1, 1], [1, 1, 0, 0]])
    together = graph.run({"input_ids": ids, "attention_mask": mask})["logits"]
    alone = graph.run({"input_ids": ids[1:, :2]})["logits"]
    np.testing.assert_allclose(together[1:], alone, rtol=1e-5, atol=1e-6)


def test_a_changed_code_and_a_changed_scale_are_found(tmp_path):
    model = quantized("llama", "w4a16")
    TARGETS["onnx"].write(model, tmp_path, None)
    program = onnx.load(tmp_path / "model.onnx")
    layer = "model.layers.0.mlp."
    for tensor in program.graph.initializer:
        if tensor.name in (f"{layer}up_proj.codes", f"{layer}down_proj.scale"):
            values = onnx.numpy_helper.to_array(tensor).copy()
            values.flat[3] += 1
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(program, tmp_path / "model.onnx")
    assert codes_that_differ(model, tmp_path / "model.onnx") == [f"{layer}up_proj", f"{layer}down_proj"]
    comparison = TARGETS["onnx"].verify(model, tmp_path)
    assert not comparison.is_right and comparison.figures["linears beyond rounding"] == 2


@pytest.mark.parametrize("factor", [1.001, np.nan])
def test_what_is_wrong_between_linears_is_found_where_chance_hides_it_in_the_outputs(factor, tmp_path):
    model = quantized("llama", "int8")
    TARGETS["onnx"].write(model, tmp_path, None)
    program = onnx.load(tmp_path / "model.onnx")
    norm = next(each for each in program.graph.initializer if each.name == "model.layers.0.input_layernorm.weight")
    norm.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(norm) * np.float32(factor), norm.name))
    onnx.save(program, tmp_path / "model.onnx")
    comparison = TARGETS["onnx"].verify(model, tmp_path)
    assert comparison.figures["modules with other codes"] == 0
    assert not comparison.figures["between linears"] < 1e-4 and not comparison.is_right


def test_tensors_in_a_file_of_their_own_are_the_same(tmp_path):
    model = quantized("gpt2", "int8")
    TARGETS["onnx"].write(model, tmp_path, None, external_data=True)
    assert (tmp_path / "model.onnx.data").stat().st_size > 50_000
    assert TARGETS["onnx"].verify(model, tmp_path).is_right


def test_floats_of_16_bits_and_modules_left_float_are_taken_along(tmp_path):
    config = HfQuantConfig("int8", overrides={"*.mlp.*": "fp16", "*.o_proj": "bf16"}, modules_to_not_convert=["v_proj"])
    model = quantized("llama", config)
    TARGETS["onnx"].write(model, tmp_path, None)
    assert TARGETS["onnx"].verify(model, tmp_path).is_right
    names = {tensor.name: tensor.data_type for tensor in onnx.load(tmp_path / "model.onnx").graph.initializer}
    assert names["model.layers.0.mlp.up_proj.weight"] == onnx.TensorProto.FLOAT16
    assert names["model.layers.0.self_attn.o_proj.weight"] == onnx.TensorProto.BFLOAT16


def test_exporting_leaves_the_model_as_it_was(tmp_path):
    model, ids = quantized("llama", "int8"), torch.tensor([[5, 9, 13]])
    before = model(ids).logits
    TARGETS["onnx"].write(model, tmp_path, None)
    assert torch.equal(model(ids).logits, before)
    assert model.config._attn_implementation == "sdpa" and model.is_quantized


def test_experts_and_codebooks_are_refused_before_anything_is_written(tmp_path):
    config = MixtralConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=2,
    )
    experts = hf_quant.quantize(MixtralForCausalLM(config).eval(), HfQuantConfig("int8"), progress=False)
    with pytest.raises(ExportError, match=r"experts .*modules_to_not_convert"):
        TARGETS["onnx"].write(experts, tmp_path, None)
    nf4 = Scheme(TensorScheme("nf4", 4, granularity="group", group_size=32))
    with pytest.raises(ExportError, match="w4a16"):
        TARGETS["onnx"].write(quantized("llama", HfQuantConfig(scheme=nf4)), tmp_path, None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("kind", "preset"), [("bert", "int8"), ("even", "int4"), ("gpt2", "int4"), ("llama", "w4a16")])
def test_a_model_is_right_in_openvino(kind, preset, tmp_path):
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")
    model = quantized(kind, preset)
    TARGETS["openvino"].write(model, tmp_path, None)
    comparison = TARGETS["openvino"].verify(model, tmp_path)
    assert comparison.is_right, comparison
    size = "128" if kind == "even" else "0"
    assert json.loads((tmp_path / "openvino_properties.json").read_text())["DYNAMIC_QUANTIZATION_GROUP_SIZE"] == size
    program = openvino.Core().read_model(tmp_path / "openvino_model.xml")
    assert program.get_rt_info(["runtime_options", "DYNAMIC_QUANTIZATION_GROUP_SIZE"]).value == size


def test_where_modules_want_unlike_groups_nodes_round_inputs_for_openvino(tmp_path):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    TARGETS["openvino"].write(model := quantized("llama", MIXED), tmp_path, None)
    assert TARGETS["openvino"].verify(model, tmp_path).is_right
    assert json.loads((tmp_path / "openvino_properties.json").read_text())["DYNAMIC_QUANTIZATION_GROUP_SIZE"] == "0"


def test_a_mixed_plan_is_right_in_onnx_runtime(tmp_path):
    model = quantized("llama", MIXED)
    assert len({str(module.spec.scheme) for _, module in quantized_modules(model)}) >= 4
    TARGETS["onnx"].write(model, tmp_path, None)
    assert TARGETS["onnx"].verify(model, tmp_path).is_right


def test_static_symmetric_inputs_are_right_and_standard_for_tensorrt(tmp_path):
    torch.manual_seed(0)
    model = calibrated(bert(), Scheme(TensorScheme(), TensorScheme(granularity="tensor")))
    TARGETS["tensorrt"].write(model, tmp_path, None)
    comparison = TARGETS["tensorrt"].verify(model, tmp_path)
    assert comparison.is_right and comparison.figures["operators that are not standard"] == 0
    zeros = [t for t in onnx.load(tmp_path / "model.onnx").graph.initializer if t.name.endswith("zero_point")]
    assert zeros and all(not onnx.numpy_helper.to_array(each).any() for each in zeros)


@pytest.mark.parametrize("preset", ["int8", "w4a16"])
def test_tensorrt_refuses_dynamic_inputs_and_asymmetric_weights(preset, tmp_path):
    with pytest.raises(ExportError, match="TensorScheme"):
        TARGETS["tensorrt"].write(quantized("llama", preset), tmp_path, None)
