"""The structures and functions of ``csrc/abi.h`` and ``csrc/pack.h`` as ctypes knows them, field by field."""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int32, c_int64, c_uint32, c_void_p
from typing import Any

import torch

FLOAT_DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}

FLOAT_INPUT, TOKEN_SYMMETRIC, TOKEN_ASYMMETRIC, GROUP_SYMMETRIC, STATIC = range(5)
ACTIVATIONS = {None: 0, "gelu": 1, "gelu_tanh": 2, "silu": 3, "relu": 4}
CONVOLUTION_ACTIVATIONS = (None, "relu", "gelu", "gelu_tanh", "silu")
HAS_ZEROS, HAS_SUMS, WIDE_SCALES = 1, 2, 4
RMS_NORM, LAYER_NORM = 1, 2

MAGIC = 0x51464831
STATUS = {1: "out of memory", 2: "the weights hold NaN or Inf", 3: "an index is out of range"}


class Neutral(ctypes.Structure):
    """A weight as a checkpoint holds it."""

    _fields_ = (
        ("words", c_void_p),
        ("scales", c_void_p),
        ("zeros", c_void_p),
        ("channels", c_int64),
        ("words_per_row", c_int64),
        ("width", c_int32),
        ("bits", c_int32),
        ("group", c_int32),
        ("flags", c_int32),
        ("per_tensor", c_int32),
        ("reserved", c_int32),
    )


class Quantize(ctypes.Structure):
    """A request to quantize a float weight."""

    _fields_ = (
        ("data", c_void_p),
        ("words", c_void_p),
        ("scales", c_void_p),
        ("zeros", c_void_p),
        ("rows", c_int64),
        ("stride", c_int64),
        ("words_per_row", c_int64),
        ("dtype", c_int32),
        ("width", c_int32),
        ("bits", c_int32),
        ("group", c_int32),
        ("rotation", c_int32),
        ("steps", c_int32),
        ("narrowest", c_float),
        ("reserved", c_int32),
    )


class WeightSpec(ctypes.Structure):
    """What a packed weight's bytes mean."""

    _fields_ = (("channels", c_int32), ("bits", c_int32), ("group", c_int32), ("flags", c_int32))


class StepSpec(ctypes.Structure):
    """One product of a program."""

    _fields_ = (
        ("width", c_int32),
        ("mode", c_int32),
        ("group", c_int32),
        ("rotation", c_int32),
        ("static_zero", c_int32),
        ("static_lowest", c_int32),
        ("static_scale", c_float),
        ("activation", c_int32),
        ("gated", c_int32),
        ("weight_count", c_int32),
        ("weights", WeightSpec * 4),
    )


class ProgramSpec(ctypes.Structure):
    """What the ops of torch are told, as the bytes of a tensor."""

    _fields_ = (("magic", c_uint32), ("count", c_int32), ("steps", StepSpec * 2))


def declare(library: ctypes.CDLL) -> None:
    """Give the functions of `library` their argument and result types."""
    functions: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "isa_runs": (c_int32, (c_int32,)),
        "use_isa": (c_int32, (c_int32,)),
        "has_threads": (c_int32, ()),
        "register_ops": (c_int32, (ctypes.c_char_p,)),
        "packed_bytes": (c_int64, (ctypes.POINTER(Neutral),)),
        "pack": (None, (ctypes.POINTER(Neutral), c_void_p, c_int32)),
        "unpack": (None, (ctypes.POINTER(Neutral), c_void_p, c_void_p, c_int32)),
        "quantize": (c_int32, (ctypes.POINTER(Quantize), c_int32)),
        "read": (c_int64, (c_void_p, c_int64, c_int32)),
        "dots": (c_int64, (c_int64, c_int32)),
    }
    for name, (result, arguments) in functions.items():
        function = getattr(library, f"hf_quant_{name}")
        function.restype, function.argtypes = result, arguments
