"""GPTQ: the paper's codes, better outputs than rounding, and inputs that factorisations do not like."""

import logging
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_quant.algorithms import SOLVERS, gptq
from hf_quant.algorithms.gptq import GPTQ
from hf_quant.algorithms.rtn import RoundToNearest
from hf_quant.config.scheme import TensorScheme
from hf_quant.errors import ConfigError, WeightError
from hf_quant.formats import format_of
from hf_quant.formats.packing import unpack
from tests.algorithms.problem import make_inputs, make_weight, output_error, statistics
from tests.zero_points import zero_points_of

GROUPS = TensorScheme(bits=4, symmetric=False, granularity="group", group_size=16)
SCHEMES = [
    TensorScheme(bits=3),
    TensorScheme(bits=4, symmetric=False),
    GROUPS,
    TensorScheme(bits=2, granularity="group", group_size=32),
    TensorScheme(bits=4, granularity="tensor"),
]
every_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: f"{scheme.bits}-{scheme.granularity}")


def with_hessian(hessian):
    return replace(statistics(make_inputs(len(hessian))), hessian=hessian)


def errors_of(weight, scheme, inputs, *solvers):
    return [output_error(weight, each.solve(weight, scheme, "w", inputs), scheme, inputs.hessian) for each in solvers]


def papers_codes(weight, scheme, hessian, damping=0.01):
    """Algorithm 1 of the paper as it is written, without blocks, on the grids of rounding to nearest; float64."""
    width, format = weight.shape[1], format_of(scheme)
    rounded = RoundToNearest().solve(weight, scheme, "weight")
    size = scheme.group_size or width
    scale = rounded["scale"].double().expand(len(weight), -1).repeat_interleave(size, 1)
    zero = torch.zeros(1, 1) if scheme.symmetric else zero_points_of(rounded, scheme)
    zero = zero.double().expand(len(weight), width // size).repeat_interleave(size, 1)
    hessian = hessian.double() + damping * hessian.double().diagonal().mean() * torch.eye(width)
    upper = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
    weight, codes = weight.double().clone(), torch.empty(weight.shape, dtype=format.dtype)
    for at in range(width):
        code = ((weight[:, at] / scale[:, at]).round() + zero[:, at]).clamp(format.quant_min, format.quant_max)
        error = (weight[:, at] - (code - zero[:, at]) * scale[:, at]) / upper[at, at]
        weight[:, at:] -= error[:, None] * upper[at, at:]
        codes[:, at] = code.to(format.dtype)
    return codes


@every_scheme
@pytest.mark.parametrize("seed", [0, 1])
def test_codes_are_those_of_the_papers_algorithm(scheme, seed):
    weight, inputs = make_weight(40, seed=seed), statistics(make_inputs(seed=seed))
    solved = GPTQ(activation_order=False).solve(weight, scheme, "weight", inputs)
    codes, expected = unpack(solved["codes"], scheme.bits, 64), papers_codes(weight, scheme, inputs.hessian)
    same = (codes == expected).all(1)
    # A tie that float32 decides otherwise changes the rest of its row; rows that rounding serves better are rounded.
    rounded = unpack(RoundToNearest().solve(weight, scheme, "weight")["codes"], scheme.bits, 64)
    assert float((same | (codes == rounded).all(1)).float().mean()) >= 0.95 and float(same.float().mean()) >= 0.8


@every_scheme
@pytest.mark.parametrize("activation_order", [False, True])
@pytest.mark.parametrize("grid", ["minmax", "mse"])
def test_gptq_beats_rtn_on_correlated_inputs(scheme, activation_order, grid):
    weight, inputs = make_weight(), statistics(make_inputs())
    solver = GPTQ(activation_order=activation_order, grid=grid)
    error, rounded = errors_of(weight, scheme, inputs, solver, RoundToNearest())
    assert error < 0.7 * rounded


@pytest.mark.parametrize("rotation", [16, 64])
def test_gptq_beats_rtn_on_rotated_rows_as_well(rotation):
    weight, inputs, scheme = make_weight(), statistics(make_inputs()), replace(GROUPS, rotation=rotation)
    error, rounded = errors_of(weight, scheme, inputs, GPTQ(), RoundToNearest())
    assert error < 0.7 * rounded


def test_the_order_of_activations_helps_where_inputs_differ_in_size():
    weight, inputs = make_weight(width=128), statistics(make_inputs(128, tokens=512))
    ordered, straight = errors_of(weight, TensorScheme(bits=3), inputs, GPTQ(), GPTQ(activation_order=False))
    assert ordered < straight


@every_scheme
def test_the_order_of_activations_changes_neither_grids_nor_shapes(scheme):
    weight, inputs = make_weight(), statistics(make_inputs())
    ordered, straight = (
        GPTQ(activation_order=order).solve(weight, scheme, "weight", inputs) for order in (True, False)
    )
    rounded = RoundToNearest().solve(weight, scheme, "weight")
    assert ordered["codes"].shape == straight["codes"].shape
    for solved in (ordered, straight):
        assert torch.equal(solved["scale"], rounded["scale"])
        assert scheme.symmetric or torch.equal(solved.get("zero_point"), rounded.get("zero_point"))


@every_scheme
@pytest.mark.parametrize("block_size", [1, 7, 64, 1000])
def test_blocks_change_no_more_than_ties(scheme, block_size):
    weight, inputs = make_weight(), statistics(make_inputs())
    whole, blocks = errors_of(weight, scheme, inputs, GPTQ(), GPTQ(block_size=block_size))
    assert blocks == pytest.approx(whole, rel=0.02)


@every_scheme
def test_rows_are_solved_alone(scheme, monkeypatch):
    weight, inputs = make_weight(), statistics(make_inputs())
    whole = GPTQ().solve(weight, scheme, "weight", inputs)
    monkeypatch.setattr(gptq, "_ROWS", 5)
    parts = GPTQ().solve(weight, scheme, "weight", inputs)
    assert torch.equal(whole["scale"], parts["scale"])
    assert float((whole["codes"] == parts["codes"]).all(1).float().mean()) >= 0.9


def test_uncorrelated_inputs_are_rounded_to_nearest():
    weight, inputs = make_weight(), with_hessian(torch.diag(torch.rand(64) + 0.5))
    solved, rounded = (solver.solve(weight, GROUPS, "w", inputs) for solver in (GPTQ(), RoundToNearest()))
    assert torch.equal(solved["codes"], rounded["codes"])


def test_dead_inputs_are_rounded_to_nearest_and_do_not_disturb_the_others():
    inputs = make_inputs()
    dead = torch.arange(0, 64, 5)
    inputs[:, dead] = 0
    live = torch.tensor([at for at in range(64) if at % 5])
    weight, scheme = make_weight(), TensorScheme(bits=4, granularity="tensor")
    weight[0, live[0]] = 2 * weight.abs().max()
    solved, rounded = (solver.solve(weight, scheme, "w", statistics(inputs)) for solver in (GPTQ(), RoundToNearest()))
    codes, nearest = (unpack(each["codes"], 4, 64) for each in (solved, rounded))
    assert torch.equal(codes[:, dead], nearest[:, dead]) and not torch.equal(codes, nearest)
    # Other weights of the dead inputs, none of which has the largest magnitude, and so on the same grid.
    weight[:, dead] *= -1
    changed = unpack(GPTQ().solve(weight, scheme, "w", statistics(inputs))["codes"], 4, 64)
    assert torch.equal(changed[:, live], codes[:, live])


@pytest.mark.parametrize("hessian", [torch.zeros(64, 64), -torch.eye(64)], ids=["zero", "negative"])
def test_inputs_that_are_all_dead_leave_rounding_to_nearest(hessian):
    weight = make_weight()
    solved, rounded = (
        solver.solve(weight, GROUPS, "w", with_hessian(hessian)) for solver in (GPTQ(), RoundToNearest())
    )
    assert torch.equal(solved["codes"], rounded["codes"])


def test_fewer_tokens_than_inputs_are_enough():
    weight, inputs = make_weight(), statistics(make_inputs(tokens=3))
    error, rounded = errors_of(weight, GROUPS, inputs, GPTQ(), RoundToNearest())
    assert error < 0.3 * rounded


def test_a_hessian_that_is_not_positive_definite_is_damped_until_it_is(caplog):
    # Smallest eigenvalue: -0.05, past damping of 0.01 but not of 0.1.
    hessian = torch.eye(64)
    hessian[0, 1] = hessian[1, 0] = 1.05
    with caplog.at_level(logging.WARNING, logger="hf_quant"):
        solved = GPTQ().solve(make_weight(), GROUPS, "layer.weight", with_hessian(hessian))
    assert [record.getMessage() for record in caplog.records] == [
        "GPTQ: damping of layer.weight was raised from 0.01 to 0.1; calibrate on more data"
    ]
    enough = GPTQ(damping=0.1).solve(make_weight(), GROUPS, "layer.weight", with_hessian(hessian))
    assert torch.equal(solved["codes"], enough["codes"])


def test_a_hessian_that_no_damping_mends_is_an_error_that_names_the_module():
    hessian = torch.eye(64)
    hessian[0, 1] = hessian[1, 0] = 5.0
    with pytest.raises(WeightError, match=r"inputs of layer\.weight is far from positive definite: calibrate on more"):
        GPTQ().solve(make_weight(), GROUPS, "layer.weight", with_hessian(hessian))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_hessian_that_is_not_finite_is_an_error_that_names_the_module(value):
    inputs = statistics(make_inputs())
    inputs.hessian[5, 9] = value
    with pytest.raises(WeightError, match=r"inputs of layer\.weight holds NaN or Inf: calibrate with the model"):
        GPTQ().solve(make_weight(), GROUPS, "layer.weight", inputs)


def test_a_hessian_of_another_width_is_an_error_that_names_the_module():
    with pytest.raises(WeightError, match=r"layer\.weight has 64 inputs, but their Hessian has shape \(32, 32\)"):
        GPTQ().solve(make_weight(), GROUPS, "layer.weight", with_hessian(torch.eye(32)))


def test_without_calibration_the_error_says_what_to_do():
    for inputs in (None, replace(statistics(make_inputs()), hessian=None)):
        with pytest.raises(ConfigError, match=r'layer\.weight .*"hessian".*give calibration data.*"rtn"'):
            GPTQ().solve(make_weight(), GROUPS, "layer.weight", inputs)


@pytest.mark.parametrize("factor", [1e-30, 1e-10, 1e10, 1e30])
def test_the_size_of_the_inputs_does_not_matter(factor):
    weight, inputs = make_weight(), statistics(make_inputs())
    scaled = replace(inputs, hessian=inputs.hessian / inputs.hessian.abs().max() * factor)
    solved, plain = (GPTQ().solve(weight, GROUPS, "weight", each) for each in (scaled, inputs))
    assert float((solved["codes"] == plain["codes"]).float().mean()) > 0.9


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    scheme=st.sampled_from(SCHEMES),
    rows=st.integers(1, 5),
    tokens=st.integers(0, 40),
    seed=st.integers(0, 2**16),
    spread=st.floats(0, 12),
    size=st.sampled_from([1e-38, 1e-5, 1.0, 1e18, 3e37]),
)
def test_any_inputs_and_weights_give_outputs_no_worse_than_rounding(scheme, rows, tokens, seed, spread, size):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, 32, generator=generator) * size
    sizes = torch.pow(10.0, (torch.rand(32, generator=generator) - 0.5) * spread)
    inputs = torch.randn(max(tokens, 1), 32, generator=generator) * sizes * (tokens > 0)
    error, rounded = errors_of(weight, scheme, statistics(inputs), GPTQ(), RoundToNearest())
    # The squares of the largest weights overflow, and float32 sums decide between codes that are as good.
    assert error <= rounded * (1 + 1e-4)


def test_the_solver_is_in_the_table_and_needs_the_hessian():
    assert SOLVERS["gptq"] is GPTQ and GPTQ().needs == {"hessian"}


@pytest.mark.parametrize(
    "options",
    [
        {"block_size": 0},
        {"block_size": True},
        {"damping": 0.0},
        {"damping": 1.5},
        {"damping": "0.01"},
        {"activation_order": 1},
        {"grid": "min"},
    ],
)
def test_an_option_that_is_out_of_range_is_named(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        GPTQ(**options)
