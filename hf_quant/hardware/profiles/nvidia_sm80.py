"""NVIDIA GPUs of compute capability 8.0 (Ampere); figures are those of the A100 SXM4 with 40 GB."""

from __future__ import annotations

from hf_quant.hardware.profile import Figure, Profile

_SHEET = "NVIDIA, data sheet of the A100 40GB SXM; dense, without structured sparsity"


def profile() -> Profile:
    """Profile of Ampere: bfloat16, float16 and int8 on tensor cores."""
    return Profile(
        name="nvidia-sm80",
        summary="NVIDIA GPU of compute capability 8.0 (Ampere); figures of an A100 SXM4 40GB",
        device="cuda",
        schemes=("bf16", "fp16", "int8", "int8-static", "w8a16", "w4a16", "fp32"),
        fast=("bf16", "fp16"),
        preferred="bf16",
        # Rows of 16 bytes, which int8 products on tensor cores want (NVIDIA, deep learning performance guide).
        alignment=16,
        bandwidth=Figure(1555e9, "published", _SHEET),
        int8=Figure(624e12, "published", _SHEET),
        fp16=Figure(312e12, "published", _SHEET),
        fp32=Figure(19.5e12, "published", _SHEET),
        memory=Figure(40e9, "published", _SHEET),
    )
