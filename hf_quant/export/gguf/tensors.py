"""The tensors of a quantized model as a GGUF file has them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from hf_quant.errors import ExportError
from hf_quant.export.gguf.architecture import Architecture, order_of_rows, position_factors
from hf_quant.export.tensors import saved_tensors
from hf_quant.layouts.gguf_blocks import Blocks, to_blocks
from hf_quant.modules.base import QuantizedModule
from hf_quant.modules.swap import quantized_modules

_KINDS = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_SUFFIXES = (".weight", ".bias")


@dataclass(frozen=True)
class Entry:
    """A tensor of a file.

    Args:
        name: Its name there.
        source: The module whose codes it holds, or floats.
        order: The order that rows are written in; None: as they are.
    """

    name: str
    source: QuantizedModule | torch.Tensor
    order: torch.Tensor | None = None

    def blocks(self) -> Blocks:
        """Of a module: its codes as blocks, rows in order.

        Raises:
            ExportError: Blocks cannot hold them.
        """
        assert isinstance(self.source, QuantizedModule)
        return to_blocks(self.source.neutral(), self.source.spec.matrix, self.order)

    def stored(self) -> tuple[str, torch.Tensor]:
        """Name of the type, and bytes: uint8, in the last dimension those of a row."""
        if isinstance(self.source, QuantizedModule):
            found = self.blocks()
            return found.kind, found.rows.cpu()
        floats = self.source.detach().cpu()
        if floats.ndim == 1 or self.name == "position_embd.weight":
            floats = floats.float()  # which llama.cpp adds and multiplies as floats only
        floats = floats if self.order is None else floats[self.order]
        return _KINDS[floats.dtype], floats.contiguous().view(torch.uint8)


def entries(model: Any, architecture: Architecture) -> Iterator[Entry]:
    """Every tensor once, in the order of the model.

    Args:
        model: Quantized, none of whose modules is refused.
        architecture: What it is written as.

    Raises:
        ExportError: llama.cpp has no place for a tensor.
    """
    import gguf

    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture.name)
    names = gguf.get_tensor_name_map(arch, model.config.num_hidden_layers)
    modules = dict(quantized_modules(model))
    transposed = {name for name, module in model.named_modules() if isinstance(module, Conv1D)} - set(modules)
    for key, tensor in saved_tensors(model).items():
        owner, _, part = key.rpartition(".")
        if owner in modules and part != "bias" and part != "weight":
            continue
        name = names.get_name(key, _SUFFIXES)
        is_placed = part != "bias" or architecture.biases is None or owner.endswith(architecture.biases)
        if name is None or not is_placed:
            raise ExportError(
                f"llama.cpp has no place for {key} in {architecture.name}: quantize without what added it"
            )
        if owner in modules and part == "weight":
            order = order_of_rows(owner, modules[owner].spec.out_features, model, architecture)
            yield Entry(name, modules[owner], order)
        else:
            order = order_of_rows(owner, len(tensor), model, architecture)
            yield Entry(name, tensor.t() if owner in transposed and part == "weight" else tensor, order)
    if (factors := position_factors(model, architecture)) is not None:
        yield Entry("rope_freqs.weight", factors)
