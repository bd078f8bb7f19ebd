"""Raspberry Pi 5: four Cortex-A76 cores with NEON dot products of 8-bit integers."""

from __future__ import annotations

from hf_quant.hardware.profile import Figure, Profile

_CORES = "4 Cortex-A76 at 2.4 GHz (Raspberry Pi Ltd), two 128-bit pipes each (Arm, Cortex-A76 optimization guide): "


def profile() -> Profile:
    """Profile of a Raspberry Pi 5; its memory is 1 to 16 GB, so none is given."""
    fast = ("int8-static", "int8", "int4", "w4a16", "w8a16")
    return Profile(
        name="raspberry-pi-5",
        summary="Raspberry Pi 5: 4 Cortex-A76 at 2.4 GHz, NEON with dot products",
        device="cpu",
        schemes=(*fast, "fp16", "fp32"),
        fast=fast,
        preferred="int8",
        alignment=32,
        bandwidth=Figure(17.1e9, "published", "Raspberry Pi Ltd: LPDDR4X-4267 on 32 bits, 4267e6 transfers of 4 bytes"),
        int8=Figure(614e9, "published", _CORES + "2 SDOT of 16 products a cycle"),
        fp16=Figure(307e9, "published", _CORES + "2 FMLA of 8 lanes a cycle"),
        fp32=Figure(153.6e9, "published", _CORES + "2 FMLA of 4 lanes a cycle"),
    )
