"""NVIDIA GPUs of compute capability 7.5 (Turing); figures are those of the Tesla T4."""

from __future__ import annotations

from hf_quant.hardware.profile import Figure, Profile

_SHEET = "NVIDIA, data sheet of the T4"


def profile() -> Profile:
    """Profile of Turing: float16 and int8 on tensor cores; no bfloat16."""
    return Profile(
        name="nvidia-sm75",
        summary="NVIDIA GPU of compute capability 7.5 (Turing); figures of a T4",
        device="cuda",
        schemes=("fp16", "int8", "int8-static", "w8a16", "w4a16", "fp32"),
        fast=("fp16",),
        preferred="fp16",
        # Rows of 16 bytes, which int8 products on tensor cores want (NVIDIA, deep learning performance guide).
        alignment=16,
        # Data sheets say 300 and 320: the lower of a clock that cooling decides.
        bandwidth=Figure(300e9, "published", _SHEET),
        int8=Figure(130e12, "published", _SHEET),
        fp16=Figure(65e12, "published", _SHEET),
        fp32=Figure(8.1e12, "published", _SHEET),
        memory=Figure(16e9, "published", _SHEET),
    )
