"""Apple's M2, as an exported model runs there; torch runs it on the GPU."""

from __future__ import annotations

from hf_quant.hardware.profile import Figure, Profile


def profile() -> Profile:
    """Profile of the M2: 16-bit floats and 8-bit integers, weights per channel.

    The rate of the Neural Engine that Apple gives is not said to be that of 8-bit integers, so `int8` is None.
    """
    return Profile(
        name="apple-m2",
        summary="Apple M2: GPU and Neural Engine with unified memory",
        device="mps",
        schemes=("fp16", "w8a16", "int8-static", "int8", "fp32"),
        fast=("fp16",),
        preferred="fp16",
        # Rows are padded to 64 bytes on the Neural Engine (Apple, Deploying Transformers on the Apple Neural Engine).
        alignment=64,
        per_channel=True,
        bandwidth=Figure(100e9, "published", "Apple, announcement of the M2 (June 2022)"),
        fp32=Figure(3.6e12, "published", "Apple, announcement of the M2 (June 2022): the GPU of 10 cores"),
    )
