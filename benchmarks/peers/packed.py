"""Checkpoints of 4-bit weights as GPTQ and compressed-tensors pack them, back to floats."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

_BITS = 4
_WORD = 32
_ONES = 0x11111111
"""1 in each of the eight codes of a word."""


@dataclass(frozen=True)
class Decoded:
    """A linear of a packed checkpoint.

    Args:
        weight: float32 ``[out, in]``.
        stored: Bytes of its codes, scales and zero points.
        levels: Most distinct numbers in a group.
    """

    weight: Tensor
    stored: int
    levels: int


def read(folder: Path) -> tuple[dict[str, Decoded], dict[str, Tensor]]:
    """Linears by name, and what else the checkpoint of `folder` holds, as it is.

    Raises:
        ValueError: The packing is neither GPTQ's nor that of compressed-tensors, or not of 4 bits.
    """
    tensors: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))["quantization_config"]
    if "compressed-tensors" in config["quant_method"]:
        mark, decode = "weight_packed", _decode_compressed
    elif "gptq" in config["quant_method"] + config.get("packing_format", ""):
        mark, decode = "qweight", _decode_gptq2 if config.get("checkpoint_format") == "gptq_v2" else _decode_gptq
    else:
        raise ValueError(f"{folder} is packed by {config['quant_method']!r}, which is not known here")
    names = [name.removesuffix(f".{mark}") for name in tensors if name.endswith(f".{mark}")]
    linears = {}
    for name in names:
        fields = {key.removeprefix(f"{name}."): tensors.pop(key) for key in list(tensors) if key.startswith(f"{name}.")}
        linears[name] = decode(fields)
        if linears[name].levels > 2**_BITS:
            raise ValueError(f"{name} of {folder} has groups of {linears[name].levels} distinct numbers")
    return linears, tensors


def _decode_gptq(fields: Mapping[str, Tensor]) -> Decoded:
    """``qweight [in / 8, out]``, ``qzeros [groups, out / 8]`` less 1, ``scales [groups, out]``, ``g_idx [in]``."""
    if bool((unpacked(fields["qzeros"]) == 2**_BITS - 1).any()):
        raise ValueError("a zero point of 0 is stored less 1, which programs write and read in more ways than one")
    return _decode_gptq2({**fields, "qzeros": fields["qzeros"] + _ONES})


def _decode_gptq2(fields: Mapping[str, Tensor]) -> Decoded:
    """The same with zero points as they are."""
    codes = unpacked(fields["qweight"].T).T
    zeros, scales = unpacked(fields["qzeros"]), fields["scales"].to(torch.float32)
    per_group = len(codes) // len(scales)
    groups = fields.get("g_idx", torch.arange(len(codes)) // per_group).long()
    weight = (codes - zeros[groups]).to(torch.float32) * scales[groups]
    by_group = weight[torch.argsort(groups, stable=True)].T
    stored = [fields[name] for name in ("qweight", "qzeros", "scales")]
    return Decoded(weight.T.contiguous(), _bytes(stored), most_levels(by_group, per_group))


def _decode_compressed(fields: Mapping[str, Tensor]) -> Decoded:
    """``weight_packed [out, in / 8]``, ``weight_scale [out, groups]``, ``weight_zero_point [out / 8, groups]``."""
    if "weight_g_idx" in fields:
        raise ValueError("groups in an order of their own are not read")
    codes, scales = unpacked(fields["weight_packed"]), fields["weight_scale"].to(torch.float32)
    zeros = torch.full(scales.shape, 2 ** (_BITS - 1))
    if "weight_zero_point" in fields:
        zeros = unpacked(fields["weight_zero_point"].T).T
    grouped = codes.unflatten(-1, (scales.shape[1], -1))
    weight = ((grouped - zeros[..., None]).to(torch.float32) * scales[..., None]).flatten(-2)
    stored = [fields[name] for name in ("weight_packed", "weight_scale", "weight_zero_point") if name in fields]
    return Decoded(weight, _bytes(stored), most_levels(weight, grouped.shape[-1]))


def unpacked(words: Tensor) -> Tensor:
    """int64 codes ``[rows, 8 * words]`` of int32 ``[rows, words]``, whose lowest bits come first."""
    shifts = torch.arange(0, _WORD, _BITS)
    return ((words.long()[..., None] >> shifts) & (2**_BITS - 1)).flatten(-2)


def most_levels(weight: Tensor, group_size: int) -> int:
    """The number of distinct numbers of the group that has the most; groups follow each other in rows."""
    ordered = weight.unflatten(-1, (-1, group_size)).sort(-1).values
    return int((ordered.diff(dim=-1) != 0).sum(-1).max()) + 1


def _bytes(tensors: list[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
