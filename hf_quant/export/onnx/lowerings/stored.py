"""Weights that are stored as floats of 16 or 32 bits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from hf_quant.export.onnx.graph import Builder
from hf_quant.modules.stored import StoredModule

if TYPE_CHECKING:
    import onnx_ir

_NAMES = {torch.float16: "FLOAT16", torch.bfloat16: "BFLOAT16"}


def stored_floats(build: Builder, name: str, owner: str, module: StoredModule, input: onnx_ir.Value) -> onnx_ir.Value:
    """The module on its input: what is rounded to 16 bits is, and sums are float32, as few runtimes have others.

    Args:
        build: Adds nodes.
        name: Full name of the module.
        owner: Name of the module that the weight is stored under.
        module: It.
        input: float32 ``[..., in]``, or ids ``[...]``.
    """
    weight = module.weight.detach()
    table = build.tensor(f"{owner}.weight", weight)
    if isinstance(module, nn.Embedding):
        return _wide(build, build.node("Gather", [table, input], axis=0), weight.dtype)
    matrix = _wide(build, table, weight.dtype)
    if not isinstance(module, Conv1D):
        matrix = build.node("Transpose", [matrix], perm=[1, 0])
    product = build.node("MatMul", [_rounded(build, input, weight.dtype), matrix])
    if module.bias is not None:
        bias = module.bias.detach().to(weight.dtype).to(torch.float32)
        product = build.node("Add", [product, build.tensor(f"{name}.bias", bias)])
    return _rounded(build, product, weight.dtype)


def _wide(build: Builder, value: onnx_ir.Value, dtype: torch.dtype) -> onnx_ir.Value:
    return value if dtype is torch.float32 else build.cast(value, "FLOAT")


def _rounded(build: Builder, value: onnx_ir.Value, dtype: torch.dtype) -> onnx_ir.Value:
    return value if dtype is torch.float32 else build.cast(build.cast(value, _NAMES[dtype]), "FLOAT")
