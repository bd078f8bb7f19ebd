"""Every kernel of the table, wherever it says it can run, computes what the exact one computes."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from hf_quant.formats.nf4 import NF4
from hf_quant.formats.packing import unpack
from hf_quant.formats.rotation import rotate
from hf_quant.formats.zero_points import unpack_zero_points
from hf_quant.kernels import ops
from hf_quant.kernels.base import spec_from_text
from hf_quant.kernels.dispatch import KERNELS, get_kernel
from tests.naming import naming
from tests.quantized_linear import (
    CPU,
    DTYPES,
    SCHEMES,
    SHAPES,
    arguments,
    make_input,
    make_operands,
    prepacked,
    reference_output,
    relative_error,
    run_python,
    spec_for,
)

TOKENS = (1, 3, 33, 50, 70)
ROUNDS_TO_BFLOAT16 = {"aten_int4pack", "aten_int8pack"}
"""Kernels whose own arithmetic is in bfloat16, whatever the dtype of the input."""
ROUNDING = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 1e-2}
"""Relative error in norm that a kernel may add: float32 sums, then one rounding to the dtype of the output."""


def specs(name):
    return [spec for shape in SHAPES if (spec := spec_for(name, *shape)) is not None]


def supported_specs(kernel, name):
    return [spec for spec in specs(name) if get_kernel(kernel).unsupported(spec, CPU) is None]


CASES = [(kernel, name) for kernel in KERNELS for name in SCHEMES if supported_specs(kernel, name)]
every_case = pytest.mark.parametrize(("kernel", "name"), CASES, ids=[f"{kernel}-{name}" for kernel, name in CASES])
replacing_case = pytest.mark.parametrize(
    ("kernel", "name"), [case for case in CASES if get_kernel(case[0]).replaces_weight], ids=str
)


@every_case
def test_a_kernel_computes_what_the_reference_computes(kernel, name):
    for spec, dtype in product(supported_specs(kernel, name), DTYPES):
        tolerance = 1e-2 if kernel in ROUNDS_TO_BFLOAT16 else ROUNDING[dtype]
        operands = make_operands(spec, bias=spec.out_features % 3 != 0, dtype=dtype)
        packed = prepacked(get_kernel(kernel), operands, spec)
        for tokens in TOKENS:
            with naming(dtype, f"{tokens} tokens", f"{spec.in_features} -> {spec.out_features}"):
                input = make_input(spec, tokens, dtype)
                output = get_kernel(kernel).run(input, packed, spec)
                assert output.dtype == dtype and output.shape == (tokens, spec.out_features)
                assert relative_error(output, reference_output(input, operands, spec)) <= tolerance


@every_case
def test_a_kernel_does_not_change_its_input_or_operands(kernel, name):
    spec = supported_specs(kernel, name)[0]
    operands = prepacked(get_kernel(kernel), make_operands(spec), spec)
    for tokens in (3, 70):
        input = make_input(spec, tokens)
        tensors = [input, *operands.weight.values(), operands.bias, *operands.packed]
        before = [tensor.clone() for tensor in tensors]
        first = get_kernel(kernel).run(input, operands, spec)
        assert all(torch.equal(*pair) for pair in zip(tensors, before, strict=True))
        assert torch.equal(get_kernel(kernel).run(input, operands, spec), first)


@every_case
def test_a_kernel_takes_inputs_that_are_not_contiguous(kernel, name):
    spec = supported_specs(kernel, name)[0]
    operands = make_operands(spec)
    packed = prepacked(get_kernel(kernel), operands, spec)
    tolerance = 1e-2 if kernel in ROUNDS_TO_BFLOAT16 else 1e-5
    for tokens in (3, 70):
        input = make_input(spec, tokens)
        for strided in (input.t().contiguous().t(), torch.cat([input, input], -1)[:, : spec.in_features]):
            output = get_kernel(kernel).run(strided, packed, spec)
            assert relative_error(output, reference_output(input, operands, spec)) <= tolerance


@every_case
def test_a_kernel_does_not_depend_on_the_default_device(kernel, name):
    spec = supported_specs(kernel, name)[0]
    operands = make_operands(spec)
    expected = get_kernel(kernel).run(make_input(spec, 70), prepacked(get_kernel(kernel), operands, spec), spec)
    input = make_input(spec, 70)
    with torch.device("meta"):
        packed = arguments(get_kernel(kernel), operands, spec)
        output = get_kernel(kernel).run(input, replace(operands, packed=packed), spec)
    assert torch.equal(output, expected)


@every_case
def test_a_token_with_nan_or_infinity_never_becomes_a_number_and_spoils_no_other(kernel, name):
    for spec in supported_specs(kernel, name)[:3]:
        packed = prepacked(get_kernel(kernel), make_operands(spec), spec)
        scheme = spec.scheme.input
        # What all tokens share, a dynamic scale of the whole tensor, does depend on each of them.
        apart = scheme is None or scheme.granularity != "tensor" or not scheme.dynamic
        for tokens, bad in product((3, 70), (torch.nan, torch.inf, -torch.inf)):
            with naming(f"{bad} in one of {tokens} tokens", f"{spec.in_features} -> {spec.out_features}"):
                input = make_input(spec, tokens)
                expected = get_kernel(kernel).run(input, packed, spec)
                input[1, spec.in_features // 2] = bad
                output = get_kernel(kernel).run(input, packed, spec)
                if scheme is not None or bad != bad:
                    assert output[1].isnan().all()
                else:
                    assert not torch.isfinite(output[1]).all()
                assert not apart or torch.equal(output[[0, 2]], expected[[0, 2]])


@every_case
def test_a_token_of_zeros_gives_the_bias(kernel, name):
    for spec in supported_specs(kernel, name)[:2]:
        operands = make_operands(spec)
        packed = prepacked(get_kernel(kernel), operands, spec)
        output = get_kernel(kernel).run(torch.zeros(2, spec.in_features), packed, spec)
        assert torch.allclose(output, operands.bias.expand_as(output), atol=1e-6)


@replacing_case
def test_the_neutral_codes_come_back_bit_for_bit(kernel, name):
    for spec in supported_specs(kernel, name):
        operands = make_operands(spec)
        words = get_kernel(kernel).unpack(get_kernel(kernel).lay_out(operands, spec), spec)
        assert words.dtype == torch.int32 and torch.equal(words, operands.weight["codes"])


@every_case
def test_every_kernel_decodes_the_same_float_weight(kernel, name):
    for spec in supported_specs(kernel, name):
        operands = make_operands(spec)
        decoded = ops.dequantize(prepacked(get_kernel(kernel), operands, spec), spec, kernel)
        assert decoded.dtype == torch.float32
        assert torch.equal(decoded, ops.dequantize(operands, spec, None))


def test_some_kernel_runs_every_scheme_and_shape_on_every_device():
    for name in SCHEMES:
        for spec in specs(name):
            for device in (CPU, torch.device("cuda"), torch.device("mps")):
                assert get_kernel("aten_dequantize").unsupported(spec, device) is None


def independent_codes(real, scheme, operands):
    """Codes less zero points, int64, of float32 rows that share a scale, and the scales."""
    top = 2 ** (scheme.bits - 1) - 1
    low, high = (
        (extreme(real, -1, keepdims=True) for extreme in (np.min, np.max))
        if scheme.granularity != "tensor"
        else (extreme(real, keepdims=True) for extreme in (np.min, np.max))
    )
    zero = 0
    if not scheme.dynamic:
        scale = np.full((len(real), 1), operands.input_scale.numpy()[0])
        zero = 0 if operands.input_zero_point is None else int(operands.input_zero_point)
    elif scheme.symmetric:
        scale = np.maximum(np.abs(low), np.abs(high)) / np.float32(top)
    else:
        low, high = np.minimum(low, 0), np.maximum(high, 0)
        levels = np.float32(2 * top + 1)
        scale = high / levels - low / levels
        zero = np.rint(-top - 1 - low / scale).astype(np.int64)
    assert scale.dtype == np.float32
    codes = np.rint(real * (np.float32(1) / scale)).astype(np.int64) + zero
    return np.clip(codes, -top if scheme.symmetric else -top - 1, top) - zero, scale.astype(np.float64)


def independent_output(input, operands, spec):
    """The contract in numpy: int64 codes, sums of integers or of levels, one float64 scale per group."""
    scheme = spec.scheme
    real = (input if scheme.weight.rotation is None else rotate(input, scheme.weight.rotation)).numpy()
    weight = unpack(operands.weight["codes"], scheme.weight.bits, spec.in_features).numpy().astype(np.int64)
    if scheme.weight.format == "nf4":
        weight = np.float32(NF4.levels).astype(np.float64)[weight + 8]
    scale = np.broadcast_to(operands.weight["scale"].double().numpy(), (spec.out_features, spec.groups))
    zeros = np.zeros_like(scale, dtype=np.int64)
    if "zero_point" in operands.weight:
        zeros = unpack_zero_points(operands.weight["zero_point"], scheme.weight.bits, spec.scale_shape)
        zeros = np.broadcast_to(zeros.numpy().astype(np.int64), scale.shape)
    whole = None
    if scheme.input is not None and scheme.input.granularity != "group":
        whole = independent_codes(real, scheme.input, operands)
    output = np.zeros((len(real), spec.out_features))
    for group in range(spec.groups):
        part = slice(group * spec.group_size, (group + 1) * spec.group_size)
        if scheme.input is None:
            left, input_scale = real[:, part].astype(np.float64), 1.0
        elif whole is None:
            left, input_scale = independent_codes(real[:, part], scheme.input, operands)
        else:
            left, input_scale = whole[0][:, part], whole[1]
        sums = left @ (weight[:, part] - zeros[:, group : group + 1]).T
        output += sums * scale[:, group] * input_scale
    return output + operands.bias.double().numpy()


@pytest.mark.parametrize("name", SCHEMES)
def test_the_reference_is_the_contract_computed_in_integers(name):
    for spec in specs(name):
        operands = make_operands(spec)
        for tokens in (1, 5):
            input = make_input(spec, tokens)
            expected = torch.from_numpy(independent_output(input, operands, spec))
            output = reference_output(input, operands, spec)
            assert relative_error(output, expected) <= 2e-7


@pytest.mark.parametrize("bits", [8, 16])
def test_the_reference_is_exact_where_float32_is_not(bits):
    name = {8: "w8a8 symmetric", 16: "int16"}[bits]
    spec = spec_for(name, 320, 192)
    operands = make_operands(spec, bias=False)
    top = 2 ** (bits - 1) - 1
    codes = torch.full((192, 320), top, dtype=torch.int8 if bits == 8 else torch.int16)
    operands = replace(operands, weight={"codes": codes.view(torch.int32), "scale": torch.ones(192, 1)})
    input = torch.full((1, 320), float(top), dtype=torch.float64)
    input[0, 0] = 1.0
    assert reference_output(input, operands, spec).unique().item() == float(319 * top * top + top)


@pytest.mark.parametrize("name", SCHEMES)
def test_a_scheme_survives_its_way_through_an_op(name):
    for spec in specs(name):
        assert spec_from_text(spec.text, spec.in_features, spec.out_features) == spec


UNALIGNED = """
    import torch
    from hf_quant.kernels.dispatch import KERNELS, get_kernel
    from tests.quantized_linear import (
        CPU, DTYPES, SCHEMES, SHAPES, make_input, make_operands, prepacked, relative_error, spec_for
    )
    from dataclasses import replace

    def moved(tensor, by):
        # The same numbers, `by` bytes past an address that suits any load.
        memory = torch.zeros(tensor.nbytes + 64 + by, dtype=torch.uint8)
        start = -memory.data_ptr() % 64 + by
        memory[start : start + tensor.nbytes] = tensor.contiguous().view(-1).view(torch.uint8)
        bytes = memory.numpy()[start : start + tensor.nbytes]
        return torch.frombuffer(bytes, dtype=tensor.dtype).view(tensor.shape)

    runs = 0
    for name in SCHEMES:
        for shape in SHAPES:
            spec = spec_for(name, *shape)
            if spec is None:
                continue
            operands = make_operands(spec)
            for kernel in map(get_kernel, KERNELS):
                if kernel.name == "reference" or kernel.unsupported(spec, CPU) is not None:
                    continue
                usual = prepacked(kernel, operands, spec)
                for by in (4, 12, 1):
                    weight = {**operands.weight, "codes": moved(operands.weight["codes"], by)}
                    shifted = prepacked(kernel, replace(operands, weight=weight), spec)
                    assert by == 1 or shifted.weight["codes"].data_ptr() % 64 == by or kernel.replaces_weight
                    for dtype in DTYPES:
                        for tokens in (1, 5, 70):
                            input = make_input(spec, tokens, dtype)
                            output = kernel.run(moved(input, dtype.itemsize), shifted, spec)
                            expected = kernel.run(input, usual, spec)
                            error = relative_error(output, expected)
                            assert error < 1e-2, (kernel.name, name, shape, by, dtype, tokens, error)
                            runs += 1
    print("finished", runs)
"""


@pytest.mark.parametrize("capability", ["", "avx2", "default"])
def test_no_kernel_crashes_on_unaligned_memory(capability):
    environment = {"ATEN_CPU_CAPABILITY": capability} if capability else {}
    assert run_python(UNALIGNED, **environment).startswith("finished")
