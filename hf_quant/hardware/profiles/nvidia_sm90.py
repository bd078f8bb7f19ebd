"""NVIDIA GPUs of compute capability 9.0 (Hopper); figures are those of the H100 SXM5 with 80 GB."""

from __future__ import annotations

from hf_quant.hardware.profile import Figure, Profile

_SHEET = "NVIDIA, data sheet of the H100 SXM; half of what it gives with structured sparsity"
_SHEET_DENSE = "NVIDIA, data sheet of the H100 SXM"


def profile() -> Profile:
    """Profile of Hopper: bfloat16, float16 and int8 on tensor cores; FP8 is no format of this package."""
    return Profile(
        name="nvidia-sm90",
        summary="NVIDIA GPU of compute capability 9.0 (Hopper); figures of an H100 SXM5 80GB",
        device="cuda",
        schemes=("bf16", "fp16", "int8", "int8-static", "w8a16", "w4a16", "fp32"),
        fast=("bf16", "fp16"),
        preferred="bf16",
        # Rows of 16 bytes, which int8 products on tensor cores want (NVIDIA, deep learning performance guide).
        alignment=16,
        bandwidth=Figure(3.35e12, "published", _SHEET_DENSE),
        int8=Figure(1979e12, "published", _SHEET),
        fp16=Figure(989e12, "published", _SHEET),
        fp32=Figure(67e12, "published", _SHEET_DENSE),
        memory=Figure(80e9, "published", _SHEET_DENSE),
    )
