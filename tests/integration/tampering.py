"""Tiny quantized checkpoints, and ways to damage a copy of one."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from hf_quant import HfQuantConfig, Scheme, TensorScheme, quantize
from hf_quant.formats import format_of
from hf_quant.formats.packing import padding_is_zero, unpack, words_per_row
from hf_quant.modules.swap import quantized_modules

WEIGHTS, CONFIG = "model.safetensors", "config.json"

_ON_TOKENS = TensorScheme(bits=8, granularity="token", dynamic=True)

SCHEMES: dict[str, HfQuantConfig] = {
    "bert-int8": HfQuantConfig("int8"),
    "bert-fp16": HfQuantConfig("fp16"),
    "gpt2-int4": HfQuantConfig("int4"),
    "llama-int8": HfQuantConfig("int8"),
    "llama-int4": HfQuantConfig("int4"),
    # down_proj is 33 wide in these, so its rows of 99 bits, and 33 zero points of 8 bits, end in padding.
    "llama-3bit": HfQuantConfig(scheme=Scheme(TensorScheme(bits=3))),
    "llama-asym8": HfQuantConfig(scheme=Scheme(TensorScheme(bits=8, symmetric=False), _ON_TOKENS)),
}
"""Checkpoint name (architecture, dash, what it shows) to how it is quantized."""

INNER = {
    "bert": "bert.encoder.layer.0.intermediate.dense",
    "gpt2": "transformer.h.0.mlp.c_fc",
    "llama": "model.layers.0.mlp.down_proj",
}
"""A quantized linear inside each architecture."""


def inner(name: str) -> str:
    """The quantized linear of `INNER` for a checkpoint name."""
    return INNER[name.split("-")[0]]


def float_model(name: str) -> Any:
    """A tiny float model; the seed is fixed."""
    torch.manual_seed(0)
    if name.startswith("bert"):
        sizes = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 128, "max_position_embeddings": 32}
        return BertForMaskedLM(BertConfig(num_hidden_layers=1, num_attention_heads=2, **sizes)).eval()
    if name.startswith("gpt2"):
        sizes = {"vocab_size": 96, "n_embd": 64, "n_layer": 1, "n_head": 2, "n_positions": 32}
        return GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0, **sizes)).eval()
    sizes = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 33 if name.endswith(("3bit", "asym8")) else 128}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(max_position_embeddings=32, **sizes, **heads)).eval()


def save_all(directory: Path) -> Path:
    """Write every checkpoint of `SCHEMES` below `directory`."""
    for name, config in SCHEMES.items():
        model = quantize(float_model(name), config, progress=False)
        model.save_pretrained(directory / name)
    return directory


def load(directory: Path, **options: Any) -> Any:
    """The checkpoint in `directory`, whose name starts with the architecture."""
    auto_class = AutoModelForMaskedLM if directory.name.startswith("bert") else AutoModelForCausalLM
    return auto_class.from_pretrained(directory, **options)


def logits(model: Any) -> torch.Tensor:
    """Of a fixed input."""
    with torch.no_grad():
        return model(input_ids=torch.arange(24).reshape(2, 12)).logits


class Tamper:
    """Copies of intact checkpoints, damaged: each method returns the directory of a fresh copy."""

    def __init__(self, intact: Path, place: Path):
        self.intact, self.place = intact, place

    def copy(self, name: str) -> Path:
        """An undamaged copy."""
        target = self.place / name
        shutil.rmtree(target, ignore_errors=True)
        return Path(shutil.copytree(self.intact / name, target))

    def tensors(self, name: str, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
        """`change` edits the dict of tensors in place."""
        target = self.copy(name)
        tensors = load_file(target / WEIGHTS)
        change(tensors)
        save_file({key: value.contiguous() for key, value in tensors.items()}, target / WEIGHTS, {"format": "pt"})
        return target

    def config(self, name: str, change: Callable[[dict[str, Any]], Any]) -> Path:
        """`change` edits the parsed ``config.json`` in place."""
        target = self.copy(name)
        values = json.loads((target / CONFIG).read_text())
        change(values)
        (target / CONFIG).write_text(json.dumps(values))
        return target

    def plan(self, name: str, change: Callable[[dict[str, Any]], Any]) -> Path:
        """`change` edits the plan in ``config.json`` in place."""
        return self.config(name, lambda values: change(values["quantization_config"]["plan"]))

    def bytes(self, name: str, file: str, change: Callable[[bytes], bytes]) -> Path:
        """`change` maps the bytes of one file to others."""
        target = self.copy(name)
        (target / file).write_bytes(change((target / file).read_bytes()))
        return target


def assert_in_range(model: Any) -> None:
    """Every quantized tensor holds only what a quantizer could have written.

    Written apart from the package's own check, so that the two can disagree.
    """
    found = 0
    for name, module in quantized_modules(model):
        found += 1
        scheme, width = module.spec.scheme.weight, module.spec.in_features
        tensors = module.neutral()
        format, words = format_of(scheme), tensors["codes"]
        codes = unpack(words, scheme.bits, width)
        assert codes.shape == (module.spec.out_features, width), name
        assert format.quant_min <= int(codes.min()) and int(codes.max()) <= format.quant_max, name
        assert padding_is_zero(words, scheme.bits, width), name
        scale, zero_point = tensors["scale"], tensors.get("zero_point")
        assert scale.dtype == module.spec.scale_dtype and scale.shape == module.spec.scale_shape, name
        sizes = scale.abs() if scheme.symmetric and scheme.bits < 8 else scale
        assert scale.isfinite().all() and sizes.min() > 0, name
        assert (zero_point is None) == scheme.symmetric, name
        if zero_point is not None:
            assert zero_point.dtype == torch.int32, name
            assert zero_point.shape == (words_per_row(scale.numel(), scheme.bits),), name
            assert padding_is_zero(zero_point, scheme.bits, scale.numel()), name
    assert found
