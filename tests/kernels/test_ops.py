"""The ops as torch sees them: schema, fake implementation, gradient, and the way through ``torch.compile``."""

from itertools import product

import pytest
import torch
from torch.utils._pytree import tree_map_only

from hf_quant.kernels import ops
from hf_quant.kernels.dispatch import KERNELS, get_kernel
from tests.naming import naming
from tests.quantized_linear import (
    CPU,
    DTYPES,
    SCHEMES,
    make_input,
    make_operands,
    prepacked,
    reference_output,
    relative_error,
    spec_for,
)

SHAPE = (64, 64)
CASES = [
    (kernel, name)
    for kernel in KERNELS
    for name in SCHEMES
    if get_kernel(kernel).unsupported(spec_for(name, *SHAPE), CPU) is None
]
CHECKED = {"int8", "int4", "w8a16", "w4a16", "w8a8 static asymmetric", "w3a8 g32"}
"""Schemes for the slow checks: every combination of tensors that a linear may or may not have."""
every_case = pytest.mark.parametrize(("kernel", "name"), CASES, ids=[f"{kernel}-{name}" for kernel, name in CASES])
checked_case = pytest.mark.parametrize(("kernel", "name"), [case for case in CASES if case[1] in CHECKED], ids=str)


def arguments(operands, spec, kernel):
    """Everything after the first tensor, as the ops take it."""
    tensors = (
        list(operands.weight.values()),
        operands.bias,
        operands.input_scale,
        operands.input_zero_point,
        list(operands.packed),
    )
    facts = {
        "scheme": spec.text,
        "in_features": spec.in_features,
        "out_features": spec.out_features,
        "kernel_name": kernel,
    }
    return tensors, facts


@checked_case
@pytest.mark.parametrize("requires_grad", [False, True])
def test_the_linear_op_keeps_its_contract(kernel, name, requires_grad):
    spec = spec_for(name, *SHAPE)
    tensors, facts = arguments(prepacked(get_kernel(kernel), make_operands(spec), spec), spec, kernel)
    input = make_input(spec, 6).view(2, 3, -1).requires_grad_(requires_grad)
    results = torch.library.opcheck(torch.ops.hf_quant.linear.default, (input, *tensors), facts)
    assert set(results.values()) == {"SUCCESS"}


@checked_case
def test_the_gradient_op_keeps_its_contract(kernel, name):
    spec = spec_for(name, *SHAPE)
    tensors, facts = arguments(prepacked(get_kernel(kernel), make_operands(spec), spec), spec, kernel)
    gradient = torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(0))
    results = torch.library.opcheck(torch.ops.hf_quant.linear_input_gradient.default, (gradient, *tensors), facts)
    assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("name", ["w8a16", "w4 per tensor asymmetric", "w3a8 g32", "w2 g64 symmetric"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_embedding_op_keeps_its_contract(name, dtype):
    spec = spec_for(name, 64, 20)
    operands = make_operands(spec)
    indices = torch.tensor([[0, 19, 3], [3, 3, 1]])
    results = torch.library.opcheck(
        torch.ops.hf_quant.embedding.default,
        (indices, list(operands.weight.values())),
        {"scheme": spec.text, "embedding_dim": 64, "num_embeddings": 20, "dtype": dtype},
    )
    assert set(results.values()) == {"SUCCESS"}


@every_case
def test_the_fake_linear_agrees_on_shape_and_dtype(kernel, name):
    spec = spec_for(name, *SHAPE)
    tensors, facts = arguments(prepacked(get_kernel(kernel), make_operands(spec), spec), spec, kernel)
    on_meta = tree_map_only(torch.Tensor, lambda each: each.to("meta"), tensors)
    for dtype, leading in product(DTYPES, [(), (1,), (5,), (2, 3), (0,), (2, 0)]):
        with naming(dtype, leading):
            input = torch.ones(*leading, 64, dtype=dtype)
            real = torch.ops.hf_quant.linear(input, *tensors, **facts)
            fake = torch.ops.hf_quant.linear(input.to("meta"), *on_meta, **facts)
            assert fake.is_meta and (fake.shape, fake.dtype) == (real.shape, real.dtype)
            assert fake.stride() == real.stride()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_fake_embedding_agrees_on_shape_and_dtype(dtype):
    spec = spec_for("w3a8 g32", 64, 20)
    operands = make_operands(spec)
    tensors = list(operands.weight.values())
    facts = {"scheme": spec.text, "embedding_dim": 64, "num_embeddings": 20, "dtype": dtype}
    for shape, index_dtype in product([(), (4,), (2, 3), (0,)], [torch.int64, torch.int32]):
        with naming(shape, index_dtype):
            indices = torch.ones(shape, dtype=index_dtype)
            real = torch.ops.hf_quant.embedding(indices, tensors, **facts)
            fake = torch.ops.hf_quant.embedding(indices.to("meta"), [tensor.to("meta") for tensor in tensors], **facts)
            assert (fake.shape, fake.dtype) == (real.shape, real.dtype) == ((*shape, 64), dtype)


@every_case
def test_the_direct_call_and_the_op_give_the_same_numbers(kernel, name):
    spec = spec_for(name, *SHAPE)
    operands = prepacked(get_kernel(kernel), make_operands(spec), spec)
    tensors, facts = arguments(operands, spec, kernel)
    input = make_input(spec, 6).view(2, 3, -1)
    direct = ops.linear(input, operands, spec, kernel)
    assert torch.equal(direct, torch.ops.hf_quant.linear(input, *tensors, **facts))
    assert torch.equal(direct, ops.linear(input.clone().requires_grad_(), operands, spec, kernel))


@every_case
def test_the_gradient_of_the_input_is_that_of_the_decoded_weight(kernel, name):
    spec = spec_for(name, *SHAPE)
    neutral = make_operands(spec)
    operands = prepacked(get_kernel(kernel), neutral, spec)
    weight = ops.dequantize(neutral, spec, None)
    for dtype in DTYPES:
        with naming(dtype):
            input = make_input(spec, 6, dtype).view(2, 3, -1).requires_grad_()
            gradient = torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(2)).to(dtype)
            ops.linear(input, operands, spec, kernel).backward(gradient)
            assert input.grad.dtype == dtype
            assert torch.equal(input.grad, gradient @ weight.to(dtype))


@every_case
def test_an_output_may_be_added_to_in_place_while_gradients_flow(kernel, name):
    # As adapters and residuals do.
    spec = spec_for(name, *SHAPE)
    tensors, facts = arguments(prepacked(get_kernel(kernel), make_operands(spec), spec), spec, kernel)
    for leading in ((6,), (2, 3), (2, 0)):
        with naming(leading):
            input = make_input(spec, 6)[: torch.Size(leading).numel()].view(*leading, SHAPE[1])
            plain, other = input.clone().requires_grad_(), input.clone().requires_grad_()
            expected = torch.ops.hf_quant.linear(plain, *tensors, **facts) + 2 * plain
            found = torch.ops.hf_quant.linear(other, *tensors, **facts)
            found += 2 * other
            assert torch.equal(found, expected)
            for output in (found, expected):
                output.square().sum().backward()
            assert torch.equal(other.grad, plain.grad)


def test_an_empty_input_has_an_empty_gradient():
    spec = spec_for("int8", *SHAPE)
    input = torch.empty(2, 0, 64, requires_grad=True)
    ops.linear(input, make_operands(spec), spec, "reference").sum().backward()
    assert input.grad.shape == (2, 0, 64)


def test_no_gradient_is_recorded_where_none_is_wanted():
    spec = spec_for("int8", *SHAPE)
    operands = make_operands(spec)
    assert not ops.linear(make_input(spec, 2), operands, spec, "reference").requires_grad
    with torch.no_grad():
        assert not ops.linear(make_input(spec, 2).requires_grad_(), operands, spec, "reference").requires_grad


def test_an_input_of_the_wrong_width_is_refused():
    spec = spec_for("int8", *SHAPE)
    operands = make_operands(spec)
    tensors, facts = arguments(operands, spec, "reference")
    for input in (torch.ones(4, 32), torch.ones(2, 128), torch.ones(3, 65)):
        with pytest.raises(RuntimeError):
            ops.linear(input, operands, spec, "reference")
        with pytest.raises(RuntimeError, match="features, not 64"):
            torch.ops.hf_quant.linear(input.to("meta"), *tensors, **facts)


@checked_case
def test_compiled_in_one_graph_with_any_number_of_tokens(kernel, name):
    spec = spec_for(name, *SHAPE)
    neutral = make_operands(spec)
    operands = prepacked(get_kernel(kernel), neutral, spec)
    torch.compiler.reset()

    @torch.compile(fullgraph=True, dynamic=True, backend="aot_eager")
    def doubled(input):
        return ops.linear(input, operands, spec, kernel) * 2

    for tokens in (2, 5, 70):
        input = make_input(spec, tokens)
        assert relative_error(doubled(input), 2 * reference_output(input, neutral, spec)) <= 1e-2
    input = make_input(spec, 5).requires_grad_()
    doubled(input).sum().backward()
    weight = ops.dequantize(neutral, spec, None)
    assert torch.allclose(input.grad, 2 * torch.ones(5, 64) @ weight, rtol=1e-5, atol=1e-5)


def test_an_index_past_the_table_is_an_error():
    spec = spec_for("w8a16", 64, 20)
    operands = make_operands(spec)
    for index in (20, -1):
        with pytest.raises(IndexError):
            ops.embedding(torch.tensor([index]), operands.weight, spec, torch.float32)


@pytest.mark.parametrize("name", SCHEMES)
def test_looked_up_rows_are_rows_of_the_decoded_table(name):
    for width in (64, 96, 33):
        spec = spec_for(name, width, 20)
        if spec is None:
            continue
        operands = make_operands(spec)
        table = ops.dequantize(operands, spec, None)
        indices = torch.tensor([[0, 19, 3], [3, 3, 1]])
        for dtype in DTYPES:
            rows = ops.embedding(indices, operands.weight, spec, dtype)
            assert torch.equal(rows, table[indices].to(dtype))
