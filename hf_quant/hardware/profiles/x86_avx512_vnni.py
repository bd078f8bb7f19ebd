"""x86-64 with AVX-512 VNNI, such as Intel's Xeons from Cascade Lake (2019) and AMD's from Zen 4 (2022) on."""

from __future__ import annotations

from hf_quant.hardware.profile import Profile


def profile() -> Profile:
    """Profile of AVX-512 VNNI: 64 products of 8-bit integers in one instruction.

    Rates depend on cores and clock, so none are given. Not all of the class multiply bfloat16 (Cascade and Ice Lake do
    not), so it is not among the schemes.
    """
    fast = ("int8-static", "int8", "int4", "w4a16", "w8a16")
    return Profile(
        name="x86-avx512-vnni",
        summary="x86-64 CPU with AVX-512 and its dot products of 8-bit integers",
        device="cpu",
        schemes=(*fast, "fp16", "fp32"),
        fast=fast,
        preferred="int8",
        alignment=32,
    )
