"""Contracts of the native ops: schema and fake implementation. The library implements them for CPUs.

`blocks` is a packed weight (uint8, from `layout.pack`), `spec` the bytes of a `ProgramSpec` that says what it means;
both are checked against each other in C++ before anything is read. An empty tensor stands for a bias that is not there.
`channels` repeats what the spec says of the output's width. Outputs have the dtype of the input: float32, bfloat16 or
float16. All tensors are on one device. None of the ops has a gradient.
"""

from __future__ import annotations

from typing import Any

import torch

_WEIGHTS = "Tensor blocks_a, Tensor blocks_b, Tensor blocks_c"
_BIASES = "Tensor bias_a, Tensor bias_b, Tensor bias_c"

SCHEMAS = {
    # input [..., in] -> [..., channels]
    "native_linear": "(Tensor input, Tensor blocks, Tensor spec, Tensor bias, int channels) -> Tensor",
    # Two or three weights on one input, which is quantized once; the third output is empty where there are two.
    "native_linears": f"(Tensor input, {_WEIGHTS}, Tensor spec, {_BIASES}, int channels_a, int channels_b, "
    "int channels_c) -> (Tensor, Tensor, Tensor)",
    # One product, or two with an activation between them (gate, up and down, or the first, the second and nothing),
    # then the residual is added and rows are normalised; empty tensors and kind 0 stand for what is not wanted.
    "native_block": f"(Tensor input, {_WEIGHTS}, Tensor spec, {_BIASES}, Tensor residual, Tensor norm_weight, "
    "Tensor norm_bias, int norm, float epsilon, int channels) -> Tensor",
    # A block for each expert, on rows [rows, in] that lie expert by expert: blocks [experts, bytes], spec
    # [experts, bytes], biases [experts, out] and offsets int64 [experts + 1] of rows -> [rows, channels], with zeros
    # beyond the last offset.
    "native_experts": f"(Tensor input, {_WEIGHTS}, Tensor spec, {_BIASES}, Tensor offsets, int channels) -> Tensor",
    # One layer of an LSTM or a GRU in one direction: what the input gives to gates [rows, 4 or 3 width], step by step;
    # hidden [batch, out] and cell [batch, width] (empty for a GRU); rows of each step int64 [time], which descend from
    # the batch; the hidden weight and that of a projection (empty tensors where there is none); floats are float32 ->
    # outputs [rows, out] and the last states.
    "native_recurrent": "(Tensor gates, Tensor hidden, Tensor cell, Tensor sizes, Tensor blocks, Tensor spec, "
    "Tensor bias, Tensor blocks_hr, Tensor spec_hr, Tensor bias_hr, bool gru, bool reverse) -> "
    "(Tensor, Tensor, Tensor)",
    # input [batch, in, space...] with one to three spatial dimensions, contiguous or channels last -> [batch, channels,
    # out...], likewise. Each group has a packed weight, blocks [groups, bytes] and spec [groups, bytes] (all the same),
    # of [channels / groups, kernel... x in / groups], channels innermost; bias [channels]. geometry is int64: groups,
    # then kernel, stride, dilation, and zeros before and after, for each spatial dimension. What a linear gives on rows
    # of patches is multiplied with factor [channels] and shift [channels] is added (float32, or both empty), then
    # activated (place in structs.CONVOLUTION_ACTIVATIONS). Sizes of the output repeat what follows, in the order of the
    # dimensions: compiled graphs have to be told them, other callers may leave them out.
    "native_convolution": "(Tensor input, Tensor blocks, Tensor spec, Tensor bias, Tensor geometry, Tensor factor, "
    "Tensor shift, int activation, int channels, int size_a=0, int size_b=0, int size_c=0) -> Tensor",
    # The same with 8-bit inputs, contiguous, for channels in groups, each output of which is made from few channels:
    # taps int8 [channels, words * 4], those of a filter [in / groups, kernel...], its last dimension padded with zeros
    # to whole words of 4, with their sums int32 [channels] and scales float32 [channels]. grid is the static one of
    # inputs, float32: scale, zero point and lowest code; empty: one for each item and group, symmetric or not.
    "native_grouped_convolution": "(Tensor input, Tensor taps, Tensor sums, Tensor scales, Tensor bias, Tensor grid, "
    "Tensor geometry, Tensor factor, Tensor shift, bool symmetric, int activation, int channels, int size_a=0, "
    "int size_b=0, int size_c=0) -> Tensor",
    # indices [...] (int64 or int32) -> rows [..., channels] of a packed weight, in the dtype of `like`
    "native_embedding": "(Tensor indices, Tensor blocks, Tensor spec, Tensor like, int channels) -> Tensor",
    # query [batch, heads, queries, width], key and value [batch, kv_heads, keys, width], mask a boolean that broadcasts
    # to [batch, heads, queries, keys] or a tensor without dimensions for none -> [batch, queries, heads, width]
    "native_attention": "(Tensor query, Tensor key, Tensor value, Tensor mask, float scale, bool causal) -> Tensor",
    # kind 1: x / rms(x) * weight; kind 2: (x - mean) / std * weight + bias; over the last dimension
    "native_norm": "(Tensor input, Tensor weight, Tensor bias, int kind, float epsilon) -> Tensor",
}

for _name, _schema in SCHEMAS.items():
    torch.library.define(f"hf_quant::{_name}", _schema)


def _check_devices(*arguments: Any) -> None:
    # Where one tensor is on the meta device, torch takes the fake for the op: it must not make up numbers of others.
    devices = {str(argument.device) for argument in arguments if isinstance(argument, torch.Tensor)}
    torch._check(
        len(devices) == 1, lambda: f"hf_quant: tensors are on {' and '.join(sorted(devices))}, not on one device"
    )


@torch.library.register_fake("hf_quant::native_linear")
def _linear(
    input: torch.Tensor, blocks: torch.Tensor, spec: torch.Tensor, bias: torch.Tensor, channels: int
) -> torch.Tensor:
    _check_devices(input, blocks, spec, bias)
    return input.new_empty(*input.shape[:-1], channels)


@torch.library.register_fake("hf_quant::native_linears")
def _linears(input: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    _check_devices(input, *rest)
    a, b, c = (input.new_empty(*input.shape[:-1], channels) for channels in rest[-3:])
    return a, b, c


@torch.library.register_fake("hf_quant::native_block")
@torch.library.register_fake("hf_quant::native_experts")
def _block(input: torch.Tensor, *rest: Any) -> torch.Tensor:
    _check_devices(input, *rest)
    return input.new_empty(*input.shape[:-1], rest[-1])


@torch.library.register_fake("hf_quant::native_recurrent")
def _recurrent(
    gates: torch.Tensor, hidden: torch.Tensor, cell: torch.Tensor, *rest: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    _check_devices(gates, hidden, cell, *rest)
    return gates.new_empty(gates.shape[0], hidden.shape[-1]), torch.empty_like(hidden), torch.empty_like(cell)


@torch.library.register_fake("hf_quant::native_convolution")
@torch.library.register_fake("hf_quant::native_grouped_convolution")
def _convolution(input: torch.Tensor, *rest: Any) -> torch.Tensor:
    _check_devices(input, *rest)
    numbers = [number for number in rest if not isinstance(number, torch.Tensor | bool)]
    _, channels, *sizes = (*numbers, 0, 0, 0)[:5]  # the activation comes first
    dims = input.ndim - 2
    torch._check(
        1 <= dims <= 3 and all(size > 0 for size in sizes[:dims]),
        lambda: "hf_quant: a compiled convolution has to be told the sizes of its output",
    )
    if input.is_contiguous():
        return input.new_empty(input.shape[0], channels, *sizes[:dims])
    return input.new_empty(input.shape[0], *sizes[:dims], channels).movedim(-1, 1)


@torch.library.register_fake("hf_quant::native_embedding")
def _embedding(
    indices: torch.Tensor, blocks: torch.Tensor, spec: torch.Tensor, like: torch.Tensor, channels: int
) -> torch.Tensor:
    _check_devices(indices, blocks, spec, like)
    return like.new_empty(*indices.shape, channels)


@torch.library.register_fake("hf_quant::native_attention")
def _attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scale: float, causal: bool
) -> torch.Tensor:
    _check_devices(query, key, value, mask)
    batch, heads, queries, width = query.shape
    return query.new_empty(batch, queries, heads, width)


@torch.library.register_fake("hf_quant::native_norm")
def _norm(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, kind: int, epsilon: float) -> torch.Tensor:
    _check_devices(input, weight, bias)
    return torch.empty_like(input, memory_format=torch.contiguous_format)
