import pytest
import torch
from transformers import BertForMaskedLM, MistralConfig, MistralForCausalLM

import hf_quant
from hf_quant.config.scheme import Scheme, TensorScheme
from hf_quant.errors import ExportError
from hf_quant.export.gguf.writing import FILE, write
from hf_quant.quantizing.config import HfQuantConfig
from tests.export.gguf.models import model_of
from tests.integration.tiny import tiny_model

gguf = pytest.importorskip("gguf", reason='needs pip install "hf-quant[gguf]"')


def exported(model, directory, **options):
    return hf_quant.export(model, "gguf", directory, verify=False, **options)


def tensors_of(directory):
    """Name of a tensor to its type."""
    return {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(directory / FILE).tensors}


def test_every_weight_is_in_the_blocks_of_its_scheme(tmp_path):
    plan = HfQuantConfig(
        "w4a16", rotation=0, overrides={"*.down_proj": "w8a16", "*.layers.1.*": Scheme(TensorScheme(bits=4))}
    )
    done = exported(hf_quant.quantize(model_of("llama-untied"), plan), tmp_path / "there")
    kinds = tensors_of(tmp_path / "there")
    assert kinds["blk.0.attn_q.weight"] == "Q4_1" and kinds["blk.0.ffn_down.weight"] == "Q8_0"
    assert kinds["blk.1.attn_q.weight"] == "Q4_0" and kinds["blk.0.attn_norm.weight"] == "F32"
    assert len(kinds) == 2 * 9 + 3
    assert sorted(done.manifest["files"]) == ["Modelfile", "generation_config.json", FILE]
    assert "llama-cli -m" in str(done)


def test_a_tied_table_is_written_once(tmp_path):
    exported(hf_quant.quantize(model_of("llama"), HfQuantConfig("w8a16", rotation=0)), tmp_path / "there")
    kinds = tensors_of(tmp_path / "there")
    assert kinds["token_embd.weight"] == "Q8_0" and "output.weight" not in kinds


def test_what_stays_float_keeps_its_dtype_and_norms_are_float32(tmp_path):
    plan = HfQuantConfig("w8a16", rotation=0, modules_to_not_convert=["lm_head", r"model\.layers\.0\..*"])
    exported(hf_quant.quantize(model_of("llama-untied").to(torch.bfloat16), plan), tmp_path / "there")
    kinds = tensors_of(tmp_path / "there")
    assert kinds["output.weight"] == kinds["blk.0.attn_q.weight"] == "BF16"
    assert kinds["output_norm.weight"] == kinds["blk.0.attn_norm.weight"] == "F32"
    assert kinds["blk.1.attn_q.weight"] == "Q8_0"


def test_the_largest_part_names_the_file_type(tmp_path):
    exported(hf_quant.quantize(model_of("gpt2"), HfQuantConfig("w4a16", rotation=0)), tmp_path / "there")
    facts = gguf.GGUFReader(tmp_path / "there" / FILE).fields
    assert facts["general.file_type"].contents() == gguf.LlamaFileType.MOSTLY_Q4_1
    assert facts["general.architecture"].contents() == "gpt2"


@pytest.mark.parametrize(
    ("plan", "fix"),
    [
        (HfQuantConfig("int8"), "rotation=0"),
        (
            HfQuantConfig(
                scheme=Scheme(TensorScheme(format="nf4", bits=4, granularity="group", group_size=32)), rotation=0
            ),
            "4 bits in groups, on an even grid",
        ),
        (HfQuantConfig(scheme=Scheme(TensorScheme(symmetric=False)), rotation=0), "symmetric weights"),
        (HfQuantConfig(scheme=Scheme(TensorScheme(bits=16)), rotation=0), "8 bits"),
    ],
    ids=str,
)
def test_schemes_that_no_block_holds_are_refused_with_what_to_take(plan, fix, tmp_path):
    model = hf_quant.quantize(model_of("llama"), plan)
    with pytest.raises(ExportError, match=f"ask for {fix}"):
        exported(model, tmp_path / "there")
    assert not any(tmp_path.iterdir())


def test_other_architectures_are_refused_by_name(tmp_path):
    model = hf_quant.quantize(tiny_model("bert", BertForMaskedLM), HfQuantConfig("w8a16", rotation=0))
    with pytest.raises(ExportError, match="BertForMaskedLM is not written as GGUF"):
        exported(model, tmp_path / "there")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("family", "changes", "why"),
    [
        ("llama", {"hidden_act": "gelu"}, "gelu"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "'dynamic'"),
        ("gpt2", {"activation_function": "relu"}, "relu"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scaled by layers"),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_refused(family, changes, why, tmp_path):
    with pytest.raises(ExportError, match=f"llama.cpp does not compute (.*){why}"):
        write(tiny_model(family, **changes), tmp_path, None)
    assert not any(tmp_path.iterdir())


def test_attention_within_a_window_is_refused(tmp_path):
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64}
    with pytest.raises(ExportError, match="sliding_window = None"):
        write(MistralForCausalLM(MistralConfig(**sizes, **heads, sliding_window=16)), tmp_path, None)


def test_a_bias_that_llama_cpp_has_no_place_for_is_refused(tmp_path):
    model = model_of("qwen3")
    model.model.layers[0].mlp.down_proj.bias = torch.nn.Parameter(torch.ones(64))
    with pytest.raises(ExportError, match=r"no place for model.layers.0.mlp.down_proj.bias in qwen3"):
        write(model, tmp_path, None)


def test_a_warning_says_that_there_is_no_tokenizer(tmp_path, caplog):
    write(model_of("llama"), tmp_path, None)
    assert "no tokenizer is known" in caplog.text
