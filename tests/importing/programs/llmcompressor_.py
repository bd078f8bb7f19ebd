"""Checkpoints of llm-compressor: ``python llmcompressor_.py FLOAT OUT``."""

import sys
from pathlib import Path

import torch
from base import float_model, ids, keep, texts
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

G = {"strategy": "group", "group_size": 32}
TOKEN = QuantizationArgs(num_bits=8, strategy="token", dynamic=True)
LINEAR = ["Linear"]


def scheme(targets=LINEAR, input=None, **weights):
    return QuantizationScheme(targets=targets, weights=QuantizationArgs(**weights), input_activations=input)


CASES = {
    "ct-w4a16-sym": (QuantizationModifier, {"g": scheme(num_bits=4, **G)}),
    "ct-w4a16-asym": (GPTQModifier, {"g": scheme(num_bits=4, symmetric=False, **G)}),
    "ct-w3-channel-asym": (QuantizationModifier, {"g": scheme(num_bits=3, symmetric=False, strategy="channel")}),
    "ct-w8a8": (QuantizationModifier, {"g": scheme(input=TOKEN, num_bits=8, strategy="channel")}),
    "ct-w8a8-static": (
        QuantizationModifier,
        {"g": scheme(input=QuantizationArgs(num_bits=8, symmetric=False), num_bits=8, strategy="tensor")},
    ),
    "ct-mixed": (
        QuantizationModifier,
        {
            "a": scheme(["re:.*self_attn.*"], num_bits=4, **G),
            "b": scheme(["re:.*mlp.*"], TOKEN, num_bits=8, strategy="channel"),
        },
    ),
}


def main(float_folder, out):
    float_folder = float_model(float_folder)
    tokenizer = AutoTokenizer.from_pretrained(float_folder)
    data = Dataset.from_list([dict(tokenizer(text)) for text in texts()])
    for name, (modifier, groups) in CASES.items():
        model = AutoModelForCausalLM.from_pretrained(
            float_folder, dtype=torch.bfloat16 if "asym" in name else torch.float16
        )
        recipe = modifier(config_groups=groups, ignore=["lm_head"])
        oneshot(model=model, dataset=data, recipe=recipe, num_calibration_samples=32, max_seq_length=48)
        folder = Path(out) / name
        model.save_pretrained(folder, save_compressed=True)
        keep(folder, decompressed(folder), logits_of(folder))


def decompressed(folder):
    """Weights as the program's own compressors decode them, in float32."""
    import json

    from compressed_tensors.quantization import QuantizationConfig

    config = QuantizationConfig.model_validate(json.loads((folder / "config.json").read_text())["quantization_config"])
    found = {}
    with safe_open(folder / "model.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    for key in tensors:
        owner, _, short = key.rpartition(".")
        if short != "weight_scale":
            continue
        groups = config.config_groups.values()
        args = next(
            g for g in groups if len(config.config_groups) == 1 or ("self_attn" in owner) == ("attn" in g.targets[0])
        )
        state = {k.rpartition(".")[2]: t for k, t in tensors.items() if k.rpartition(".")[0] == owner}
        state["weight_scale"] = state["weight_scale"].to(torch.float32)
        how = "pack-quantized" if "weight_packed" in state else "int-quantized"
        found[owner] = BaseCompressor.get_value_from_registry(how).decompress(state, args)["weight"]
    return found


def logits_of(folder):
    """Logits of plain Transformers with compressed-tensors, where that opens the checkpoint."""
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        with torch.no_grad():
            return model(ids()).logits
    except Exception as error:
        print(folder.name, "is not opened by Transformers:", str(error)[:200])
        return None


if __name__ == "__main__":
    main(*sys.argv[1:])
