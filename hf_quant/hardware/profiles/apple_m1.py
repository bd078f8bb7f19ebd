"""Apple's M1, as an exported model runs there; torch runs it on the GPU."""

from __future__ import annotations

from hf_quant.hardware.profile import Figure, Profile


def profile() -> Profile:
    """Profile of the M1: 16-bit floats and 8-bit integers, weights per channel.

    The rate of the Neural Engine that Apple gives is not said to be that of 8-bit integers, so `int8` is None.
    """
    return Profile(
        name="apple-m1",
        summary="Apple M1: GPU and Neural Engine with unified memory",
        device="mps",
        schemes=("fp16", "w8a16", "int8-static", "int8", "fp32"),
        fast=("fp16",),
        preferred="fp16",
        # Rows are padded to 64 bytes on the Neural Engine (Apple, Deploying Transformers on the Apple Neural Engine).
        alignment=64,
        per_channel=True,
        bandwidth=Figure(68.25e9, "published", "LPDDR4X-4266 on 128 bits: 4266e6 transfers of 16 bytes"),
        fp32=Figure(2.6e12, "published", "Apple, announcement of the M1 (November 2020): the GPU of 8 cores"),
    )
