"""Raspberry Pi 4: four Cortex-A72 cores with NEON, and no dot products of 8-bit integers."""

from __future__ import annotations

from hf_quant.hardware.profile import Figure, Profile


def profile() -> Profile:
    """Profile of a Raspberry Pi 4: no arithmetic in 16-bit floats (ARMv8.0), portable kernels of this package only."""
    return Profile(
        name="raspberry-pi-4",
        summary="Raspberry Pi 4: 4 Cortex-A72 at 1.5 GHz, NEON without dot products",
        device="cpu",
        schemes=("int8", "int8-static", "int4", "w8a16", "w4a16", "fp32"),
        # The portable kernels read a quarter or an eighth of the bytes, which is what a token waits for.
        fast=("int8-static", "int8", "int4"),
        preferred="int8",
        alignment=32,
        # On the bus; programs reach well below half of it. Peaks depend on the revision's clock (1.5 or 1.8 GHz).
        bandwidth=Figure(12.8e9, "published", "LPDDR4-3200 on 32 bits: 3200e6 transfers of 4 bytes (Raspberry Pi Ltd)"),
    )
