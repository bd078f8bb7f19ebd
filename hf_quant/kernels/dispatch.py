"""The choice of the kernel of a quantized linear: the first of the table that supports it, unless overridden."""

from __future__ import annotations

import os
from functools import cache

import torch

from hf_quant.errors import KernelError
from hf_quant.kernels.base import LinearKernel, LinearSpec
from hf_quant.registry import Registry

KERNEL_VARIABLE = "HF_QUANT_KERNEL"
"""Environment variable that forces one kernel for every linear, read at each load."""

KERNELS = Registry(
    "kernel",
    {
        "native": "hf_quant.kernels.native.linear:NativeKernel",
        "aten_int8": "hf_quant.kernels.aten_int8:Int8Kernel",
        "aten_int4pack": "hf_quant.kernels.aten_int4pack:Int4PackKernel",
        "aten_int8pack": "hf_quant.kernels.aten_int8pack:Int8PackKernel",
        "aten_dequantize": "hf_quant.kernels.aten_dequantize:DequantizeKernel",
        "reference": "hf_quant.kernels.reference:ReferenceKernel",
    },
)
"""Kernels by preference. `aten_dequantize` supports everything, so `reference` only runs when asked for."""


@cache
def get_kernel(name: str) -> LinearKernel:
    """The kernel called `name`.

    Raises:
        UnknownName: With the known names.
    """
    return KERNELS[name]()


def select_kernel(spec: LinearSpec, device: torch.device, neutral_only: bool = False) -> LinearKernel:
    """The first kernel of the table that can run a linear, or the one that is forced.

    Args:
        spec: Scheme and sizes of the linear.
        device: Device that the linear runs on.
        neutral_only: Whether to leave out kernels that replace the neutral codes by a layout of their own.

    Raises:
        UnknownName: The environment variable names no kernel.
        KernelError: The forced kernel does not support `spec`.
    """
    forced = os.environ.get(KERNEL_VARIABLE)
    if forced and not (neutral_only and get_kernel(forced).replaces_weight):
        kernel = get_kernel(forced)
        if (reason := kernel.unsupported(spec, device)) is not None:
            raise KernelError(f"{KERNEL_VARIABLE}={forced} cannot run {spec.scheme}: it {reason}; unset the variable")
        return kernel
    fitting = (kernel for kernel in map(get_kernel, KERNELS) if kernel.unsupported(spec, device) is None)
    return next(kernel for kernel in fitting if not (neutral_only and kernel.replaces_weight))


def explain(spec: LinearSpec, device: torch.device) -> list[tuple[str, str | None]]:
    """Every kernel of the table with the reason why it cannot run `spec`; None where it can."""
    return [(name, get_kernel(name).unsupported(spec, device)) for name in KERNELS]
