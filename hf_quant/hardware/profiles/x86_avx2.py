"""x86-64 with AVX2 and FMA, such as Intel's from Haswell (2013) and AMD's from Excavator (2015) on."""

from __future__ import annotations

from hf_quant.hardware.profile import Profile


def profile() -> Profile:
    """Profile of AVX2: 8-bit products in two steps, through 16 bits; rates depend on cores and clock: none is given."""
    fast = ("int8-static", "int8", "int4", "w4a16", "w8a16")
    return Profile(
        name="x86-avx2",
        summary="x86-64 CPU with AVX2 and FMA, without dot products of 8-bit integers",
        device="cpu",
        schemes=(*fast, "fp16", "fp32"),
        fast=fast,
        preferred="int8",
        alignment=32,
    )
