"""Nodes that quantize an input as kernels do: the same operations on the same float32 numbers, so the same codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hf_quant.config.scheme import TensorScheme
from hf_quant.export.onnx.graph import Builder
from hf_quant.export.onnx.site import Site
from hf_quant.formats import even_format
from hf_quant.formats.scales import TINY

if TYPE_CHECKING:
    import onnx_ir


@dataclass(frozen=True)
class QuantizedInput:
    """An input on its grid, ``real = (codes - zero_point) * scale``.

    Args:
        codes: float32 ``[..., in]`` of integers from 0 up.
        scale: float32, a number for each token, group or tensor.
        zero_point: float32 of the shape of `scale`, or a number; also counted from 0.
    """

    codes: onnx_ir.Value
    scale: onnx_ir.Value
    zero_point: Any


def quantized_input(site: Site, scheme: TensorScheme) -> QuantizedInput:
    """The rotated input of a module in codes; siblings that quantize the same input alike share the nodes.

    Args:
        site: The module.
        scheme: Format of its input. In groups, codes have a group more in their shape: ``[..., groups, size]``.
    """
    real = site.rotated_input
    if not scheme.dynamic:
        return _static(site, scheme, real)
    key = (real.name, "quantized", str(scheme.to_dict()))
    return site.build.once(key, lambda: _dynamic(site.build, scheme, real, site.rank, site.width))


def fake_quantized(site: Site, scheme: TensorScheme) -> onnx_ir.Value:
    """float32 ``[..., in]``: what the codes of the rotated input stand for."""
    found, build = quantized_input(site, scheme), site.build
    levels = build.node("Sub", [found.codes, found.zero_point])
    real = build.node("Mul", [levels, found.scale])
    return real if scheme.group_size is None else build.reshaped(real, site.rank - 1, site.width)


def _dynamic(build: Builder, scheme: TensorScheme, real: onnx_ir.Value, rank: int, width: int) -> QuantizedInput:
    format = even_format(scheme)
    low, high = format.quant_min, format.quant_max
    axes: list[Any] = [] if scheme.granularity == "tensor" else [build.indices(-1)]
    if scheme.group_size is not None:
        real = build.reshaped(real, rank - 1, width // scheme.group_size, scheme.group_size)
    if scheme.symmetric:
        largest = build.node("ReduceMax", [build.node("Abs", [real]), *axes], keepdims=1)
        scale = build.node("Max", [build.node("Div", [largest, (high - low) / 2]), TINY])
        zero_point: Any = float(-low)
    else:
        # As `AffineFormat` finds the grid, number for number.
        least = build.node("Min", [build.node("ReduceMin", [real, *axes], keepdims=1), 0.0])
        most = build.node("Max", [build.node("ReduceMax", [real, *axes], keepdims=1), 0.0])
        steps = float(high - low)
        step = build.node("Sub", [build.node("Div", [most, steps]), build.node("Div", [least, steps])])
        scale = build.node("Max", [step, TINY])
        lowest = build.node("Sub", [float(low), build.node("Div", [least, scale])])
        signed = build.node("Clip", [build.node("Round", [lowest]), float(low), float(high)])
        zero_point = build.node("Sub", [signed, float(low)])
    reciprocal = build.node("Reciprocal", [scale])
    return QuantizedInput(_codes(build, real, reciprocal, zero_point, high - low), scale, zero_point)


def _static(site: Site, scheme: TensorScheme, real: onnx_ir.Value) -> QuantizedInput:
    format, build = even_format(scheme), site.build
    module = site.module
    assert module.input_scale is not None
    zero_point = float(-format.quant_min)
    if module.input_zero_point is not None:
        zero_point += float(module.input_zero_point)
    scale = site.tensor("input_scale", module.input_scale.reshape(()))
    reciprocal = site.tensor("input_reciprocal", module.input_scale.reciprocal().reshape(()))
    steps = format.quant_max - format.quant_min
    return QuantizedInput(_codes(build, real, reciprocal, zero_point, steps), scale, zero_point)


def _codes(
    build: Builder, real: onnx_ir.Value, reciprocal: onnx_ir.Value, zero_point: Any, steps: int
) -> onnx_ir.Value:
    rounded = build.node("Round", [build.node("Mul", [real, reciprocal])])
    return build.node("Clip", [build.node("Add", [rounded, zero_point]), 0.0, float(steps)])
