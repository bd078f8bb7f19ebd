"""Schemes of every kind that modules are trained with, for matrices of width 64."""

from hf_quant.config.scheme import Scheme, TensorScheme

WEIGHTS = {
    "channel": TensorScheme(bits=4),
    "channel8 rotated": TensorScheme(bits=8, rotation=32),
    "channel asymmetric": TensorScheme(bits=3, symmetric=False),
    "tensor": TensorScheme(bits=8, granularity="tensor"),
    "tensor asymmetric rotated": TensorScheme(bits=4, symmetric=False, granularity="tensor", rotation=64),
    "group": TensorScheme(bits=2, granularity="group", group_size=16),
    "group asymmetric": TensorScheme(bits=4, symmetric=False, granularity="group", group_size=32),
    "group asymmetric rotated": TensorScheme(bits=4, symmetric=False, granularity="group", group_size=32, rotation=32),
    "channel16": TensorScheme(bits=16),
    "nf4": TensorScheme("nf4", 4, granularity="group", group_size=32),
    "nf4 per tensor rotated": TensorScheme("nf4", 4, granularity="tensor", rotation=32),
    "float16 scales": TensorScheme(bits=3, scale_dtype="float16"),
}

DYNAMIC = {
    "token": TensorScheme(granularity="token", dynamic=True),
    "token asymmetric": TensorScheme(granularity="token", dynamic=True, symmetric=False),
    "token16": TensorScheme(bits=16, granularity="token", dynamic=True),
    "tensor": TensorScheme(granularity="tensor", dynamic=True),
    "tensor asymmetric": TensorScheme(granularity="tensor", dynamic=True, symmetric=False),
    "group": TensorScheme(granularity="group", dynamic=True, group_size=32),
}

STATIC = {
    "static": TensorScheme(granularity="tensor"),
    "static asymmetric": TensorScheme(granularity="tensor", symmetric=False),
}

GROUPS = TensorScheme(bits=4, symmetric=False, granularity="group", group_size=32)


def scheme_with(input_scheme):
    """A scheme with this input, and a weight that goes with it."""
    in_groups = input_scheme.granularity == "group"
    return Scheme(GROUPS if in_groups else TensorScheme(rotation=32), input_scheme)
