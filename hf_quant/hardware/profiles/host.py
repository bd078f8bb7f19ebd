"""The machine at hand: detected here; its rates are measured by ``hf-quant hardware --measure``."""

from __future__ import annotations

import psutil

from hf_quant.hardware.detect import cpu_features, cpu_name
from hf_quant.hardware.profile import Figure, Profile


def profile() -> Profile:
    """Profile of this machine: CPU and memory as the system tells them."""
    features = cpu_features()
    sixteen = ("bf16",) if features.multiplies_bfloat16 else ()
    fast = ("int8-static", "int8", "int4", "w4a16", "w8a16")
    return Profile(
        name="host",
        summary=cpu_name(),
        device="cpu",
        schemes=(*fast, *sixteen, "fp16", "fp32"),
        # Without the native library kernels of torch take over; the measured table tells which schemes those slow down.
        fast=(*fast, *sixteen),
        preferred="int8",
        alignment=32,
        memory=Figure(psutil.virtual_memory().total, "measured", "the system's own count"),
    )
