"""One module of a checkpoint of another program: its tensors by name, and how they are read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from hf_quant.config.scheme import Scheme, TensorScheme
from hf_quant.errors import CheckpointError, HfQuantError
from hf_quant.formats import format_of
from hf_quant.importing.headers import Headers
from hf_quant.layouts.even import Imported
from hf_quant.modules.weight import stored_name


@dataclass(frozen=True)
class ForeignModule:
    """A quantized module as another program stores it.

    Args:
        name: Name of the module.
        tensors: Full name in the files of each tensor, by its short name, which `read` knows it by.
        read: Makes a weight of ours of tensors by their short names.
        input: Format of the module's input; None for floats.
    """

    name: str
    tensors: Mapping[str, str]
    read: Callable[[Mapping[str, torch.Tensor]], Imported]
    input: TensorScheme | None = None

    def converted(self, tensors: Mapping[str, torch.Tensor]) -> tuple[Scheme, dict[str, torch.Tensor]]:
        """Scheme and tensors of the module in our checkpoints, by the names of parameters and buffers.

        Args:
            tensors: Tensors of the files by their short names.

        Raises:
            CheckpointError: Tensors are missing, damaged, or do not belong together; the message names the module.
            LayoutError: Our formats cannot hold the weight bit for bit.
        """
        try:
            found = self.read(tensors)
            format_of(found.scheme).check(found.tensors, found.matrix, "weight")
            stored = {stored_name("weight", key): tensor for key, tensor in found.tensors.items()}
            if self.input is not None and not self.input.dynamic:
                stored |= _static_input(tensors)
            return Scheme(found.scheme, self.input), stored
        except HfQuantError as error:
            raise type(error)(f"{self.name}: {error}") from error


def _static_input(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    scale, zero_point = tensors.get("input_scale"), tensors.get("input_zero_point")
    if scale is None or scale.numel() != 1 or not scale.is_floating_point() or not 0 < float(scale) < math.inf:
        raise CheckpointError("input_scale is missing, or not one positive number: download the checkpoint again")
    zero_point = torch.zeros(1, dtype=torch.int8) if zero_point is None else zero_point.reshape(-1)
    if zero_point.numel() != 1 or zero_point.dtype != torch.int8:
        raise CheckpointError("input_zero_point is not one int8: download the checkpoint again")
    return {"input_scale": scale.reshape(1).to(torch.float32), "input_zero_point": zero_point}


def parts(headers: Headers, tells: str, needed: Sequence[str], others: Sequence[str] = ()) -> dict[str, dict[str, str]]:
    """Tensors of every module that has one of a certain short name: full names by short ones.

    Args:
        headers: Tensors of a checkpoint.
        tells: Short name that tells a quantized module.
        needed: Short names that each has as well.
        others: Short names that one may have.

    Raises:
        CheckpointError: One that is needed is missing.
    """
    found = {}
    for full in headers:
        name, _, short = full.rpartition(".")
        if short != tells or not name:
            continue
        if missing := [each for each in needed if f"{name}.{each}" not in headers]:
            raise CheckpointError(f"{name}.{missing[0]} is missing from the checkpoint: download or save it again")
        named = {each: f"{name}.{each}" for each in (tells, *needed, *others)}
        found[name] = {each: full for each, full in named.items() if full in headers}
    return found
