"""Checkpoints of AWQ, and what AutoAWQ decodes of those that others wrote: ``python autoawq_.py FLOAT OUT``."""

import sys
from pathlib import Path

from awq import AutoAWQForCausalLM
from awq.utils.packing_utils import dequantize_gemm
from base import float_model, keep, texts
from safetensors.torch import load_file
from transformers import AutoTokenizer

WRITTEN_BY_OTHERS = ("autoround-awq", "autoround-asym")


def main(float_folder, out):
    float_folder = float_model(float_folder)
    folder = Path(out) / "awq-gemm"
    model = AutoAWQForCausalLM.from_pretrained(str(float_folder), device_map="cpu")
    config = {"zero_point": True, "q_group_size": 32, "w_bit": 4, "version": "GEMM"}
    model.quantize(
        AutoTokenizer.from_pretrained(float_folder),
        quant_config=config,
        calib_data=texts(),
        max_calib_seq_len=48,
        apply_clip=False,
    )
    model.save_quantized(str(folder))
    for each in (folder, *(Path(out) / name for name in WRITTEN_BY_OTHERS)):
        keep(each, decoded(each))


def decoded(folder):
    """Weights as AutoAWQ decodes them, from scales in float32."""
    tensors = load_file(folder / "model.safetensors")
    found = {}
    for name in (name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")):
        scales = tensors[f"{name}.scales"].float()
        group = tensors[f"{name}.qweight"].shape[0] // scales.shape[0]
        weight = dequantize_gemm(tensors[f"{name}.qweight"], tensors[f"{name}.qzeros"], scales, 4, group)
        found[name] = weight.t()
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
