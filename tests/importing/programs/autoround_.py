"""Checkpoints of AutoRound: ``python autoround_.py FLOAT OUT``."""

import sys
from pathlib import Path

import torch
from auto_round import AutoRound
from base import float_model, ids, keep, texts
from transformers import AutoModelForCausalLM, AutoTokenizer

CASES = {
    "autoround-gptq": ("auto_round", {"bits": 4, "group_size": 32, "sym": True}),
    "autoround-asym": ("auto_round", {"bits": 4, "group_size": 32, "sym": False}),
    "autoround-awq": ("auto_awq", {"bits": 4, "group_size": 32, "sym": False}),
    "autoround-mixed": (
        "auto_round",
        {
            "bits": 4,
            "group_size": 32,
            "sym": True,
            "layer_config": {
                f"model.layers.{i}.mlp.down_proj": {"bits": 8, "group_size": 32, "sym": True} for i in range(2)
            },
        },
    ),
}


def main(float_folder, out):
    float_folder = float_model(float_folder)
    for name, (how, options) in CASES.items():
        model = AutoModelForCausalLM.from_pretrained(float_folder, dtype=torch.float16)
        tokenizer = AutoTokenizer.from_pretrained(float_folder)
        data = [tokenizer(text, return_tensors="pt")["input_ids"] for text in texts()]
        rounded = AutoRound(
            model, tokenizer, dataset=data, seqlen=48, nsamples=32, iters=0, device_map="cpu", **options
        )
        folder = Path(out) / name
        rounded.quantize_and_save(str(folder), format=how)
        for path in (folder / "float-w4g32").iterdir():
            path.rename(folder / path.name)
        (folder / "float-w4g32").rmdir()
        if "awq" not in (folder / "config.json").read_text():
            opened = AutoModelForCausalLM.from_pretrained(folder, device_map="cpu")
            torch.nn.Module.float(opened)
            with torch.no_grad():
                keep(folder, decoded(opened), opened(ids()).logits)


def decoded(model):
    """Weights as the program's layers multiply with them: products with the identity, in float32."""
    layers = {name: layer for name, layer in model.named_modules() if hasattr(layer, "qweight")}
    return {name: layer(torch.eye(layer.infeatures)).t() for name, layer in layers.items()}


if __name__ == "__main__":
    main(*sys.argv[1:])
