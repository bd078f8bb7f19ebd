"""The contract of every op: schema, eager implementation, fake implementation, gradient.

``torch.ops.hf_quant.*`` is what ``torch.compile`` and autograd see. Eager inference calls `linear` and `embedding`
below, which skip the dispatcher where nothing needs it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from hf_quant.formats import format_of
from hf_quant.formats.base import Tensors
from hf_quant.formats.rotation import rotate
from hf_quant.kernels.base import LinearOperands, LinearSpec, spec_from_text
from hf_quant.kernels.dispatch import get_kernel
from hf_quant.kernels.reference import embedding as embedding_reference
from hf_quant.kernels.weights import decode_rows

_unsafe_view = torch.ops.aten._unsafe_view.default

_OPERANDS = "Tensor[] weight, Tensor? bias, Tensor? input_scale, Tensor? input_zero_point, Tensor[] packed"

# The name of an argument must not be one that Inductor uses itself, such as `kernel`.
torch.library.define(
    "hf_quant::linear",
    f"(Tensor input, {_OPERANDS}, *, str scheme, int in_features, int out_features, str kernel_name) -> Tensor",
)
torch.library.define(
    "hf_quant::linear_input_gradient",
    f"(Tensor gradient, {_OPERANDS}, *, str scheme, int in_features, int out_features, str kernel_name) -> Tensor",
)
torch.library.define(
    "hf_quant::embedding",
    "(Tensor indices, Tensor[] weight, "
    "*, str scheme, int embedding_dim, int num_embeddings, ScalarType dtype) -> Tensor",
)
torch.library.define(
    "hf_quant::dequantize",
    f"({_OPERANDS}, *, str scheme, int in_features, int out_features, str kernel_name) -> Tensor",
)


def linear(input: torch.Tensor, operands: LinearOperands, spec: LinearSpec, kernel: str) -> torch.Tensor:
    """``input @ weight.T + bias``, quantized as `spec` says; ``[..., in] -> [..., out]`` in the dtype of `input`.

    The gradient with respect to `input` passes straight through its rounding; weights have none.
    """
    trains_bias = operands.bias is not None and operands.bias.requires_grad
    needs_gradient = torch.is_grad_enabled() and (input.requires_grad or trains_bias)
    if not needs_gradient and not torch.compiler.is_compiling():
        return _linear_eager(input, operands, spec, kernel)
    bias, scale, zero_point = operands.bias, operands.input_scale, operands.input_zero_point
    return linear_op(input, tuple(operands.weight.values()), bias, scale, zero_point, operands.packed, spec, kernel)


def linear_op(
    input: torch.Tensor,
    weight: tuple[torch.Tensor, ...],
    bias: torch.Tensor | None,
    input_scale: torch.Tensor | None,
    input_zero_point: torch.Tensor | None,
    packed: tuple[torch.Tensor, ...],
    spec: LinearSpec,
    kernel: str,
) -> torch.Tensor:
    """`linear` as the op that autograd and ``torch.compile`` see; arguments are the fields of `LinearOperands`."""
    return torch.ops.hf_quant.linear(
        input,
        list(weight),
        bias,
        input_scale,
        input_zero_point,
        list(packed),
        scheme=spec.text,
        in_features=spec.in_features,
        out_features=spec.out_features,
        kernel_name=kernel,
    )


def embedding(indices: torch.Tensor, weight: Tensors, spec: LinearSpec, dtype: torch.dtype) -> torch.Tensor:
    """Rows of a quantized table, ``[*indices.shape, in_features]`` in `dtype`; `indices` are int64 or int32."""
    return torch.ops.hf_quant.embedding(
        indices,
        list(weight.values()),
        scheme=spec.text,
        embedding_dim=spec.in_features,
        num_embeddings=spec.out_features,
        dtype=dtype,
    )


def dequantize(operands: LinearOperands, spec: LinearSpec, kernel: str | None) -> torch.Tensor:
    """The float32 weight ``[out, in]`` that the codes stand for, turned back where the scheme rotates it.

    Args:
        operands: Tensors of the weight: neutral codes, or the layout that `kernel` made of them.
        spec: What they mean.
        kernel: Whose layout `operands` may hold; None for neutral codes.
    """
    if torch.compiler.is_compiling() or any(type(each) is not torch.Tensor for each in operands.weight.values()):
        return torch.ops.hf_quant.dequantize(
            list(operands.weight.values()),
            None,
            None,
            None,
            list(operands.packed),
            scheme=spec.text,
            in_features=spec.in_features,
            out_features=spec.out_features,
            kernel_name=kernel or "",
        )
    if kernel is not None and operands.packed and get_kernel(kernel).replaces_weight:
        codes = get_kernel(kernel).unpack(operands.packed, spec)
        operands = replace(operands, weight={**operands.weight, "codes": codes})
    weight = decode_rows(operands, spec, slice(None))
    rotation = spec.scheme.weight.rotation
    return weight if rotation is None else rotate(weight, rotation)


def _linear_eager(input: torch.Tensor, operands: LinearOperands, spec: LinearSpec, kernel: str) -> torch.Tensor:
    tokens = input.reshape(-1, spec.in_features)
    if tokens.shape[0] == 0:
        return input.new_empty(*input.shape[:-1], spec.out_features)
    output = get_kernel(kernel).run(tokens, operands, spec)
    # No view to autograd, which would forbid writing to it in place.
    return _unsafe_view(output, (*input.shape[:-1], spec.out_features))


@torch.library.impl("hf_quant::linear", "default")
def _linear(
    input: torch.Tensor, *operands: Any, scheme: str, in_features: int, out_features: int, kernel_name: str
) -> torch.Tensor:
    spec = spec_from_text(scheme, in_features, out_features)
    return _linear_eager(input, _operands(operands, spec), spec, kernel_name)


@torch.library.register_fake("hf_quant::linear")
def _linear_fake(
    input: torch.Tensor, *operands: Any, scheme: str, in_features: int, out_features: int, kernel_name: str
) -> torch.Tensor:
    torch._check(input.shape[-1] == in_features, lambda: f"input has {input.shape[-1]} features, not {in_features}")
    return input.new_empty(*input.shape[:-1], out_features)


@torch.library.impl("hf_quant::dequantize", "default")
def _dequantize(*operands: Any, scheme: str, in_features: int, out_features: int, kernel_name: str) -> torch.Tensor:
    spec = spec_from_text(scheme, in_features, out_features)
    return dequantize(_operands(operands, spec), spec, kernel_name or None)


@torch.library.register_fake("hf_quant::dequantize")
def _dequantize_fake(
    weight: list[torch.Tensor], *_: Any, in_features: int, out_features: int, **__: Any
) -> torch.Tensor:
    return weight[0].new_empty(out_features, in_features, dtype=torch.float32)


@torch.library.impl("hf_quant::linear_input_gradient", "default")
def _gradient(
    gradient: torch.Tensor, *operands: Any, scheme: str, in_features: int, out_features: int, kernel_name: str
) -> torch.Tensor:
    spec = spec_from_text(scheme, in_features, out_features)
    weight = dequantize(_operands(operands, spec), spec, kernel_name)
    return gradient @ weight.to(gradient.dtype)


@torch.library.register_fake("hf_quant::linear_input_gradient")
def _gradient_fake(gradient: torch.Tensor, *operands: Any, scheme: str, in_features: int, **_: Any) -> torch.Tensor:
    return gradient.new_empty(*gradient.shape[:-1], in_features)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], keyword_only_inputs: dict[str, Any], output: Any) -> None:
    ctx.operands, ctx.facts = inputs[1:], keyword_only_inputs


def _backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
    input_gradient = torch.ops.hf_quant.linear_input_gradient(gradient, *ctx.operands, **ctx.facts)
    weight, bias, *_, packed = ctx.operands
    trains_bias = bias is not None and bias.requires_grad
    bias_gradient = gradient.flatten(0, -2).sum(0).to(bias.dtype) if trains_bias else None
    return input_gradient, [None] * len(weight), bias_gradient, None, None, [None] * len(packed)


torch.library.register_autograd("hf_quant::linear", _backward, setup_context=_setup_context)


@torch.library.impl("hf_quant::embedding", "default")
def _embedding(
    indices: torch.Tensor,
    weight: list[torch.Tensor],
    *,
    scheme: str,
    embedding_dim: int,
    num_embeddings: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    spec = spec_from_text(scheme, embedding_dim, num_embeddings)
    return embedding_reference(indices, _named(weight, spec), spec, dtype)


@torch.library.register_fake("hf_quant::embedding")
def _embedding_fake(
    indices: torch.Tensor, weight: list[torch.Tensor], *, embedding_dim: int, dtype: torch.dtype, **_: Any
) -> torch.Tensor:
    return weight[0].new_empty(*indices.shape, embedding_dim, dtype=dtype)


def _operands(tensors: tuple[Any, ...], spec: LinearSpec) -> LinearOperands:
    weight, bias, input_scale, input_zero_point, packed = tensors
    return LinearOperands(_named(weight, spec), bias, input_scale, input_zero_point, tuple(packed))


def _named(weight: list[torch.Tensor], spec: LinearSpec) -> Tensors:
    return dict(zip(format_of(spec.scheme.weight).tensors(spec.matrix), weight, strict=True))
