"""Checkpoints of GPTQModel: ``python gptqmodel_.py FLOAT OUT``."""

import sys
from pathlib import Path

import torch
from base import float_model, ids, keep, texts
from gptqmodel import BACKEND, GPTQModel, QuantizeConfig

G = {"group_size": 32, "offload_to_disk": False}
CASES = {
    "gptq-4bit-v1": {"bits": 4, "desc_act": False, "format": "gptq", **G},
    "gptq-4bit-v2-asym": {"bits": 4, "desc_act": False, "sym": False, "format": "gptq_v2", **G},
    "gptq-4bit-v1-asym": {"bits": 4, "desc_act": False, "sym": False, "format": "gptq", **G},
    "gptq-3bit-v1": {"bits": 3, "desc_act": False, "format": "gptq", **G},
    "gptq-2bit-v2-asym": {"bits": 2, "desc_act": False, "sym": False, "format": "gptq_v2", **G},
    "gptq-4bit-act-order": {"bits": 4, "desc_act": True, "act_group_aware": False, "format": "gptq", **G},
    "gptq-4bit-act-order-channel": {
        "bits": 4,
        "desc_act": True,
        "act_group_aware": False,
        "format": "gptq",
        "group_size": -1,
        "offload_to_disk": False,
    },
    "gptq-mixed": {"bits": 4, "desc_act": False, "format": "gptq", "dynamic": {"+:.*down_proj": {"bits": 8}}, **G},
}


def main(float_folder, out, *only):
    float_folder = float_model(float_folder)
    for name, options in CASES.items():
        if only and name not in only:
            continue
        folder = Path(out) / name
        model = GPTQModel.load(str(float_folder), QuantizeConfig(**options), device="cpu")
        model.quantize(texts(), batch_size=1, backend=BACKEND.GPTQ_TORCH)
        model.save(str(folder))
        opened = GPTQModel.load(str(folder), device="cpu", backend=BACKEND.GPTQ_TORCH, dtype=torch.float16)
        opened.model.float()  # the kernel is chosen for half precision, and runs in float32 as well
        weights = {n: m.dequantize_weight().t() for n, m in opened.model.named_modules() if hasattr(m, "qweight")}
        with torch.no_grad():
            keep(folder, weights, opened.model(ids()).logits)


if __name__ == "__main__":
    main(*sys.argv[1:])
