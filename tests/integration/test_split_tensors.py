"""Checkpoints that hold query, key and value, or gate and up, as one tensor, split by Transformers as it reads."""

import copy

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModel

import hf_quant
from hf_quant import HfQuantConfig
from hf_quant.errors import CheckpointError
from hf_quant.modules.base import QuantizedModule
from tests.integration.tiny import error, outputs, tiny_model, token_ids
from tests.naming import naming

SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 128,
    "head_dim": 16,
    "pad_token_id": 1,
    "max_position_embeddings": 64,
}
FUSED = {
    "NomicBert": "attn.Wqkv.weight",
    "JinaEmbeddingsV3": "mixer.Wqkv.bias",
    "HrmText": "attn.gqkv_proj.weight",
}


def made(family):
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}Model")(getattr(transformers, f"{family}Config")(**SIZES)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(mean=float("norm" in name.lower() and parameter.ndim == 1), std=0.1)
    return model


@pytest.mark.parametrize("family", FUSED)
def test_every_part_of_a_split_tensor_is_quantized(family, tmp_path):
    model = made(family)
    model.save_pretrained(tmp_path / "float", max_shard_size="60KB")
    names = {name for path in (tmp_path / "float").glob("*.safetensors") for name in load_file(path)}
    assert any(name.endswith(FUSED[family]) for name in names)
    for preset in ("int8", "w4a16"):
        with naming(preset):
            config = HfQuantConfig(preset)
            loaded = AutoModel.from_pretrained(tmp_path / "float", quantization_config=config)
            in_memory = hf_quant.quantize(copy.deepcopy(model), preset, progress=False)
            assert torch.equal(outputs(loaded), outputs(in_memory))
            assert loaded.config.quantization_config.plan == in_memory.config.quantization_config.plan
            loaded.save_pretrained(tmp_path / preset)
            reloaded = AutoModel.from_pretrained(tmp_path / preset)
            assert torch.equal(outputs(reloaded), outputs(loaded))
            restored = reloaded.dequantize()
            restored.save_pretrained(tmp_path / "restored")
            assert error(outputs(AutoModel.from_pretrained(tmp_path / "restored")), outputs(restored)) < 1e-5


@pytest.mark.parametrize("kept", ["q_proj", "k_proj", "v_proj"])
def test_a_part_of_a_split_tensor_may_stay_float(kept, tmp_path):
    model = made("NomicBert")
    model.save_pretrained(tmp_path)
    config = HfQuantConfig("int8", overrides={f"*.{kept}": None})
    loaded = AutoModel.from_pretrained(tmp_path, quantization_config=config)
    found = {name: isinstance(module, QuantizedModule) for name, module in loaded.named_modules() if "_proj" in name}
    assert all(is_quantized == (kept not in name) for name, is_quantized in found.items()) and found
    assert torch.equal(outputs(loaded), outputs(hf_quant.quantize(model, config, progress=False)))


def test_a_tensor_that_is_split_may_lie_in_half_precision(tmp_path):
    made("NomicBert").half().save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path, quantization_config=HfQuantConfig("int8"), dtype=torch.bfloat16)
    assert loaded.dtype == torch.bfloat16 and loaded(input_ids=token_ids())[0].isfinite().all()


def test_codes_are_written_under_the_names_of_the_parts(tmp_path):
    hf_quant.quantize(made("NomicBert"), "int8", progress=False).save_pretrained(tmp_path)
    names = load_file(tmp_path / "model.safetensors")
    assert not any("Wqkv" in name for name in names)
    # One part lost is a part missed.
    lost = next(name for name in names if name.endswith("k_proj.weight"))
    save_file({n: t for n, t in names.items() if n != lost}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="k_proj"):
        AutoModel.from_pretrained(tmp_path)


def test_layers_under_names_that_nobody_knows_are_refused_not_drawn_at_random(tmp_path):
    model = tiny_model("llama")
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    # As other quantizers write them, when their config is lost.
    name = "model.layers.1.self_attn.k_proj"
    other = {f"{name}.qweight": torch.zeros(8, 64, dtype=torch.int32), f"{name}.scales": torch.ones(1, 64)}
    kept = {n: t for n, t in tensors.items() if n != f"{name}.weight"}
    save_file({**kept, **other}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks \S*k_proj.weight, and holds \S*k_proj.(qweight|scales)"):
        AutoModel.from_pretrained(tmp_path, quantization_config=HfQuantConfig("int8"))
    # More layers than the model has, or a head it lacks, do no harm.
    extra = {f"model.layers.7.{part}": torch.zeros(4, 4) for part in ("a.weight", "b.weight")}
    save_file(
        {**tensors, **extra, "classifier.weight": torch.zeros(3, 64)}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    AutoModel.from_pretrained(tmp_path, quantization_config=HfQuantConfig("int8"))
