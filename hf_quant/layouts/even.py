"""Weights of other programs on an even grid, as our format holds them bit for bit.

What ours does not have is written as what stands for the same numbers: a negative scale turns codes and zero points
around, groups whose scale is 0 get codes that stand for 0, and the lowest code of symmetric 8 bits makes the weight
asymmetric with zero points 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from hf_quant.config.scheme import TensorScheme
from hf_quant.errors import CheckpointError, LayoutError
from hf_quant.formats import format_of
from hf_quant.formats.base import Matrix
from hf_quant.formats.packing import pack, unpack

_SCALES = {torch.float16: "float16", torch.bfloat16: None, torch.float32: "float32"}
"""Dtype of scales in groups to what a scheme says of it."""
_LEAST_GROUP = 8
"""Smallest group that groups in disorder are split into: scales of smaller ones weigh more than the codes."""


@dataclass(frozen=True)
class Imported:
    """One weight, read from tensors of another program.

    Args:
        scheme: What it is in our formats, group size settled.
        rows: Output channels.
        width: Inputs.
        tensors: Tensors by the names of the format.
    """

    scheme: TensorScheme
    rows: int
    width: int
    tensors: Mapping[str, torch.Tensor]

    @property
    def matrix(self) -> Matrix:
        """Scheme and sizes."""
        return Matrix(self.scheme, self.rows, self.width)


def top_bits(words: torch.Tensor, bits: int, length: int) -> torch.Tensor:
    """Words in which the highest bit of each code is the other one: unsigned codes to two's complements, and back.

    Args:
        words: int32 ``[..., ceil(length * bits / 32)]``, a dense stream of codes.
        bits: Bits of a code.
        length: Codes in a row.
    """
    return words ^ pack(torch.full((length,), -(2 ** (bits - 1)), dtype=torch.int8), bits)


def even_weight(
    words: torch.Tensor,
    zeros: torch.Tensor | None,
    scale: torch.Tensor,
    bits: int,
    width: int,
    per_tensor: bool = False,
) -> Imported:
    """A weight ``(code - zero) * scale`` in our format.

    Args:
        words: Signed codes packed as ours are, int32 ``[rows, words]``.
        zeros: Zero points in the range of the codes, integers of the shape of `scale`; None where all are 0.
        scale: float16, bfloat16 or float32 ``[rows, groups]``, or ``[1, 1]`` where it is one for all.
        bits: 2 to 8.
        width: Codes in a row, a multiple of the groups.
        per_tensor: Whether there is one scale for all.

    Raises:
        CheckpointError: A scale is NaN or infinite.
        LayoutError: Scales are of a dtype that our formats have not.
    """
    if scale.dtype not in _SCALES:
        raise LayoutError(f"scales are {scale.dtype}: only float16, bfloat16 and float32 are kept bit for bit")
    if not bool(scale.isfinite().all()):
        raise CheckpointError("a scale is NaN or infinite: download the checkpoint again")
    rows, groups = len(words), scale.shape[1]
    zeros = torch.zeros(scale.shape, dtype=torch.int8) if zeros is None else zeros.to(torch.int8)
    has_zeros = bool(zeros.any())
    negative = (scale < 0) & (has_zeros or bits == 8)
    if bool(negative.any()) or bool((scale == 0).any()):
        codes = unpack(words, bits, width).unflatten(-1, (groups, -1))
        codes = torch.where(negative[..., None], -1 - codes, codes)
        zeros = torch.where(negative, -1 - zeros, zeros)
        has_zeros = has_zeros or bool(negative.any())
        codes = torch.where((scale == 0)[..., None], zeros[..., None], codes)
        scale = torch.where(scale == 0, torch.ones_like(scale), torch.where(negative, -scale, scale))
        words = pack(codes.flatten(-2).to(torch.int8), bits)
    if bits == 8 and not has_zeros:
        has_zeros = bool((unpack(words, bits, width) == -128).any())
    granularity = "tensor" if per_tensor else "channel" if groups == 1 else "group"
    in_groups = granularity == "group"
    scheme = TensorScheme(
        bits=bits,
        symmetric=not has_zeros,
        granularity=granularity,
        group_size=width // groups if in_groups else None,
        scale_dtype=_SCALES[scale.dtype] if in_groups else None,
    )
    grid = (scale.to(torch.float32), zeros if has_zeros else None)
    stored = format_of(scheme).stored(words.contiguous(), grid, "a weight")
    return Imported(scheme, rows, width, {name: tensor.contiguous() for name, tensor in stored.items()})


def in_order(
    scale: torch.Tensor, zeros: torch.Tensor | None, order: torch.Tensor | None, width: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Scales and zero points of equal groups of neighbours, whatever groups the inputs were put in.

    Args:
        scale: ``[rows, groups]``.
        zeros: Of the same shape, or None.
        order: Group of each input, integers ``[width]``; None where they follow each other.
        width: Number of inputs.

    Raises:
        CheckpointError: `order` is no list of groups.
        LayoutError: Inputs of one group do not lie beside each other.
    """
    groups = scale.shape[1]
    if order is None:
        if width % groups:
            raise CheckpointError(f"{groups} groups do not divide {width} inputs: tensors do not belong together")
        return scale, zeros
    if order.dtype not in (torch.int32, torch.int64) or tuple(order.shape) != (width,):
        raise CheckpointError(f"g_idx is {order.dtype} {list(order.shape)}, not int32 [{width}]: download it again")
    if not 0 <= int(order.min()) <= int(order.max()) < groups:
        raise CheckpointError(f"g_idx names groups that are not among {groups}: download the checkpoint again")
    if width % groups == 0 and torch.equal(order, torch.arange(width).to(order.dtype) // (width // groups)):
        return scale, zeros
    size = width if bool((order == order[0]).all()) else _largest_block(order)
    if size is None:
        raise LayoutError(
            "its inputs were put in groups by the order of their activations (act-order, desc_act=True), so that those "
            "of a group do not lie beside each other: take a checkpoint made with desc_act=False, with "
            "static_groups=True or with one group (group_size=-1)"
        )
    first = order[::size].to(torch.int64)
    return scale[:, first].contiguous(), None if zeros is None else zeros[:, first].contiguous()


def _largest_block(order: torch.Tensor) -> int | None:
    size = 1 << 12
    while size >= _LEAST_GROUP:
        if len(order) % size == 0:
            blocks = order.view(-1, size)
            if bool((blocks == blocks[:, :1]).all()):
                return size
        size //= 2
    return None


def take(tensors: Mapping[str, torch.Tensor], name: str, *dtypes: torch.dtype, ndim: int = 2) -> torch.Tensor:
    """The tensor of a name.

    Raises:
        CheckpointError: It is missing, empty, of another dtype or of another number of dimensions.
    """
    found = tensors.get(name)
    if found is None:
        raise CheckpointError(f"there is no {name} beside {', '.join(sorted(tensors))}: the checkpoint is not complete")
    if found.dtype not in dtypes or found.ndim != ndim or not found.numel():
        raise CheckpointError(
            f"{name} is {found.dtype} {list(found.shape)}, not {' or '.join(map(str, dtypes))} of {ndim} dimensions"
        )
    return found


def expect(name: str, tensor: torch.Tensor, shape: tuple[int, ...]) -> None:
    """Raise CheckpointError unless a tensor has this shape."""
    if tuple(tensor.shape) != shape:
        raise CheckpointError(f"{name} is {list(tensor.shape)}, not {list(shape)}: tensors do not belong together")
