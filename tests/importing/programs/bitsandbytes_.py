"""Checkpoints of bitsandbytes: ``python bitsandbytes_.py FLOAT OUT``."""

import sys
from pathlib import Path

import bitsandbytes
import torch
from base import float_model, ids, keep
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}
CASES = {
    "bnb-nf4": NF4,
    "bnb-nf4-double": {**NF4, "bnb_4bit_use_double_quant": True},
    "bnb-fp4": {**NF4, "bnb_4bit_quant_type": "fp4"},
    "bnb-int8": {"load_in_8bit": True},
}


def main(float_folder, out):
    for name, options in CASES.items():
        config = BitsAndBytesConfig(**options)
        source = float_model(float_folder)
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype=torch.float32, quantization_config=config, device_map="cpu"
        )
        folder = Path(out) / name
        model.save_pretrained(folder)
        weights = {
            name: bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
            for name, layer in model.named_modules()
            if isinstance(layer, bitsandbytes.nn.Linear4bit)
        }
        with torch.no_grad():
            keep(folder, weights, model(ids()).logits)


if __name__ == "__main__":
    main(*sys.argv[1:])
