"""Checkpoints of bitsandbytes: NF4; others are refused, with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_quant.errors import CheckpointError, LayoutError
from hf_quant.importing.headers import Headers
from hf_quant.importing.module import ForeignModule
from hf_quant.layouts import bitsandbytes as layout

_NEEDED = ("weight", "weight.absmax", "weight.quant_map")


def modules(config: Mapping[str, Any], headers: Headers) -> dict[str, ForeignModule]:
    """Quantized modules of a checkpoint of ``quant_method`` ``"bitsandbytes"``.

    Raises:
        LayoutError: Weights are INT8 or FP4.
        CheckpointError: Tensors are missing.
    """
    found = {}
    for full in headers:
        if full.endswith(".SCB"):
            raise LayoutError(
                f"{full.removesuffix('.SCB')}: INT8 of bitsandbytes decodes to code * SCB * (1 / 127), rounded twice, "
                "which no code times one float32 scale is to the last bit: quantize the float checkpoint to int8"
            )
        if full.endswith("quant_state.bitsandbytes__fp4"):
            raise LayoutError(f"{full}: no format here has the levels of FP4; take a checkpoint of NF4")
        if not full.endswith(f".{layout.STATE}"):
            continue
        name = full.removesuffix(f".{layout.STATE}")
        if missing := [each for each in _NEEDED if f"{name}.{each}" not in headers]:
            raise CheckpointError(f"{name}.{missing[0]} is missing from the checkpoint: download or save it again")
        shorts = (*_NEEDED, layout.STATE, *layout.NESTED)
        tensors = {each: f"{name}.{each}" for each in shorts if f"{name}.{each}" in headers}
        found[name] = ForeignModule(name, tensors, layout.read)
    return found
