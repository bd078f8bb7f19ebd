"""What every solver of the table keeps to, in every kind of scheme."""

import math
from dataclasses import replace

import pytest
import torch

from hf_quant.algorithms import SOLVERS
from hf_quant.algorithms.rtn import RoundToNearest
from hf_quant.config.formats import FORMATS
from hf_quant.config.scheme import TensorScheme
from hf_quant.errors import WeightError
from hf_quant.formats import format_of, scale_dtype
from hf_quant.formats.packing import padding_is_zero, unpack, words_per_row
from tests.algorithms.problem import (
    decoded,
    make_inputs,
    make_weight,
    output_error,
    statistics,
    weighted_error,
)
from tests.naming import naming

WIDTH = 96
GRAINS = [("tensor", None), ("channel", None), ("group", 8), ("group", 32)]
ROTATIONS = (None, 32)
SCHEMES = [
    TensorScheme(bits=bits, symmetric=symmetric, granularity=granularity, group_size=size)
    for bits in FORMATS["int"].bits
    for symmetric in (True, False)
    for granularity, size in GRAINS
]
SOME = [replace(scheme, rotation=rotation) for scheme in SCHEMES for rotation in ROTATIONS][::5]
"""For what depends on the solver more than on the scheme."""


def name_of(scheme):
    kind = "sym" if scheme.symmetric else "asym"
    return f"{scheme.bits}-{kind}-{scheme.granularity}-{scheme.group_size}-rot{scheme.rotation}"


every_solver = pytest.mark.parametrize("solver", list(SOLVERS))
every_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=name_of)
some_schemes = pytest.mark.parametrize("scheme", SOME, ids=name_of)
INPUTS = statistics(make_inputs(WIDTH))


@every_solver
@every_scheme
def test_tensors_are_those_that_modules_store(solver, scheme):
    for rotation in ROTATIONS:
        with naming(f"rotation={rotation}"):
            assert_stored_as_modules_do(solver, replace(scheme, rotation=rotation))


def assert_stored_as_modules_do(solver, scheme):
    weight = make_weight(7, WIDTH)
    solved = SOLVERS[solver]().solve(weight, scheme, "weight", INPUTS)
    assert isinstance(solved, dict)
    groups = WIDTH // scheme.group_size if scheme.group_size else 1
    shape = (1, 1) if scheme.granularity == "tensor" else (7, groups)
    assert solved["codes"].dtype == torch.int32 and solved["codes"].shape == (7, words_per_row(WIDTH, scheme.bits))
    assert solved["codes"].is_contiguous() and padding_is_zero(solved["codes"], scheme.bits, WIDTH)
    assert solved["scale"].dtype == scale_dtype(scheme) and solved["scale"].shape == shape
    assert bool((solved["scale"].abs() > 0).all()) and bool(solved["scale"].isfinite().all())
    assert (solved.get("zero_point") is None) == scheme.symmetric
    if solved.get("zero_point") is not None:
        numbers = shape[0] * shape[1]
        words = words_per_row(numbers, scheme.bits)
        assert solved.get("zero_point").dtype == torch.int32 and solved.get("zero_point").shape == (words,)
        assert padding_is_zero(solved.get("zero_point"), scheme.bits, numbers)
    assert int(unpack(solved["codes"], scheme.bits, WIDTH).min()) >= format_of(scheme).quant_min


@every_scheme
def test_gptq_is_no_worse_than_rounding_for_the_outputs(scheme):
    weight = make_weight(16, WIDTH)
    for turned in (replace(scheme, rotation=rotation) for rotation in ROTATIONS):
        with naming(f"rotation={turned.rotation}"):
            solved = {name: SOLVERS[name]().solve(weight, turned, "weight", INPUTS) for name in ("gptq", "rtn")}
            gptq, rounded = (output_error(weight, solved[name], turned, INPUTS.hessian) for name in ("gptq", "rtn"))
            assert gptq <= rounded * (1 + 1e-5)


@every_scheme
def test_clipping_is_no_worse_than_the_whole_range_for_the_weights(scheme):
    weight = make_weight(16, WIDTH)
    for turned in (replace(scheme, rotation=rotation) for rotation in ROTATIONS):
        with naming(f"rotation={turned.rotation}"):
            solved = {name: SOLVERS[name]().solve(weight, turned, "weight", INPUTS) for name in ("mse", "rtn")}
            clipped, whole = (weighted_error(weight, solved[name], turned) for name in ("mse", "rtn"))
            assert clipped <= whole * (1 + 1e-5)


@every_solver
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_gives_what_its_float32_values_give(solver, dtype):
    scheme = TensorScheme(bits=4, symmetric=False, granularity="group", group_size=32)
    weight = make_weight(9, WIDTH, dtype=dtype)
    half, single = (SOLVERS[solver]().solve(w, scheme, "weight", INPUTS) for w in (weight, weight.float()))
    assert all(torch.equal(half[name], single[name]) for name in single)


@every_solver
@some_schemes
def test_runs_are_alike_to_the_last_bit_and_leave_what_they_are_given_alone(solver, scheme):
    weight = torch.nn.Parameter(make_weight(20, WIDTH))
    before, hessian = weight.detach().clone(), INPUTS.hessian.clone()
    first, second = (SOLVERS[solver]().solve(weight, scheme, "weight", INPUTS) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) and not first[name].requires_grad for name in first)
    assert torch.equal(weight, before) and torch.equal(INPUTS.hessian, hessian)


@every_solver
@some_schemes
def test_a_transposed_view_gives_what_the_straight_weight_gives(solver, scheme):
    weight = make_weight(20, WIDTH)
    straight, turned = (
        SOLVERS[solver]().solve(source, scheme, "weight", INPUTS) for source in (weight, weight.t().contiguous().t())
    )
    assert all(torch.equal(straight[name], turned[name]) for name in straight)


@every_solver
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_a_weight_that_is_not_finite_is_an_error_that_names_the_module(solver, value, granularity):
    weight = make_weight(9, WIDTH)
    weight[8, 31] = value
    with pytest.raises(WeightError, match=r"layer\.weight holds NaN or Inf"):
        SOLVERS[solver]().solve(weight, TensorScheme(bits=4, granularity=granularity), "layer.weight", INPUTS)


@every_solver
@pytest.mark.parametrize("shape", [(0, 8), (8, 0), (8,), (2, 3, 4), ()])
def test_only_matrices_with_elements_are_taken(solver, shape):
    with pytest.raises(WeightError, match=r"layer\.weight has shape .* only matrices with elements"):
        SOLVERS[solver]().solve(torch.zeros(shape), TensorScheme(), "layer.weight", INPUTS)


@every_solver
def test_a_weight_of_zeros_stays_zero(solver):
    scheme = TensorScheme(bits=4, symmetric=False, granularity="group", group_size=32)
    solved = SOLVERS[solver]().solve(torch.zeros(3, WIDTH), scheme, "weight", INPUTS)
    assert bool((decoded(solved, scheme, (3, WIDTH)) == 0).all())


@every_solver
def test_solvers_need_fields_that_statistics_have(solver):
    assert SOLVERS[solver]().needs <= {"mean", "mean_abs", "max_abs", "hessian"}


def test_rounding_needs_no_statistics():
    assert RoundToNearest().needs == frozenset()
