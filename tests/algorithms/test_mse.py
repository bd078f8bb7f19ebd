"""Clipping: less squared error than rounding, and inputs' mean squares as weights of it."""

from dataclasses import replace

import pytest
import torch

from hf_quant.algorithms import SOLVERS, rtn
from hf_quant.algorithms.mse import ClippedToNearest
from hf_quant.algorithms.rtn import RoundToNearest
from hf_quant.config.scheme import TensorScheme
from hf_quant.errors import ConfigError, WeightError
from hf_quant.formats.rotation import rotate
from hf_quant.kernels.native.weights import can_quantize
from tests.algorithms.problem import make_inputs, make_weight, statistics, weighted_error
from tests.naming import naming

SCHEMES = [
    TensorScheme(bits=bits, symmetric=symmetric, granularity=granularity, group_size=size, rotation=rotation)
    for bits in (2, 4, 8)
    for symmetric in (True, False)
    for granularity, size in [("tensor", None), ("channel", None), ("group", 32)]
    for rotation in (None, 16)
]
every_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=str)


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_clipping_beats_rounding_where_a_row_has_an_outlier(granularity):
    weight, scheme = make_weight(width=256), TensorScheme(bits=3, granularity=granularity)
    weight[:, 5] = 4 * weight.abs().amax(1)
    clipped, rounded = (solver.solve(weight, scheme, "weight") for solver in (ClippedToNearest(), RoundToNearest()))
    assert weighted_error(weight, clipped, scheme) < 0.95 * weighted_error(weight, rounded, scheme)


@every_scheme
def test_importance_lowers_the_error_it_weighs(scheme):
    weight, inputs = make_weight(), statistics(make_inputs())
    hessian = inputs.hessian
    if scheme.rotation:
        hessian = rotate(rotate(hessian, scheme.rotation).t(), scheme.rotation)
    importance = hessian.diagonal()
    found, rounded = (
        solver.solve(weight, scheme, "weight", inputs)
        for solver in (ClippedToNearest(importance=True), RoundToNearest())
    )
    error, other = (weighted_error(weight, solved, scheme, importance) for solved in (found, rounded))
    assert error <= other * (1 + 1e-5) and (scheme.bits > 2 or error < other)


@every_scheme
def test_native_and_python_code_find_grids_that_are_equally_good(scheme, monkeypatch):
    if not can_quantize(make_weight(), scheme):
        pytest.skip("clipped in Python anyway")
    for dtype in (torch.float32, torch.bfloat16):
        with naming(dtype), monkeypatch.context() as without_native:
            weight = make_weight(dtype=dtype)
            assert can_quantize(weight, scheme)
            native = ClippedToNearest().solve(weight, scheme, "weight")
            without_native.setattr(rtn, "can_quantize", lambda weight, scheme: False)
            python = ClippedToNearest().solve(weight, scheme, "weight")
            # Sums in another order may prefer another of two ranges that are as good.
            errors = [weighted_error(weight, solved, scheme) for solved in (native, python)]
            assert errors[0] == pytest.approx(errors[1], rel=1e-5)
            assert float((native["scale"] == python["scale"]).float().mean()) > 0.95


@every_scheme
def test_blocks_do_not_change_the_result(scheme, monkeypatch):
    weight, inputs, solver = make_weight(), statistics(make_inputs()), ClippedToNearest(importance=True)
    whole = solver.solve(weight, scheme, "weight", inputs)
    for numbers in (1, 200):
        monkeypatch.setattr(rtn, "_BLOCK_NUMBERS", numbers)
        with naming(f"{numbers} numbers a block"):
            blocks = solver.solve(weight, scheme, "weight", inputs)
            assert all(torch.equal(whole[name], blocks[name]) for name in whole)


def test_all_inputs_alike_give_what_no_importance_gives():
    weight, scheme = make_weight(), TensorScheme(bits=4, symmetric=False, granularity="group", group_size=16)
    inputs = replace(statistics(make_inputs()), hessian=torch.eye(64))
    errors = [
        weighted_error(weight, ClippedToNearest(importance=importance).solve(weight, scheme, "weight", inputs), scheme)
        for importance in (True, False)
    ]
    assert errors[0] == pytest.approx(errors[1], rel=1e-5)


def test_more_trials_are_no_worse():
    weight, scheme = make_weight(), TensorScheme(bits=3)
    # Each includes the shares of the one before.
    errors = [
        weighted_error(weight, ClippedToNearest(trials=trials, narrowest=0.5).solve(weight, scheme, "weight"), scheme)
        for trials in (2, 3, 5, 9, 17)
    ]
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0]


def test_the_solver_is_in_the_table_and_needs_the_hessian_for_importance_only():
    assert SOLVERS["mse"] is ClippedToNearest
    assert ClippedToNearest().needs == frozenset() and ClippedToNearest(importance=True).needs == {"hessian"}


def test_importance_without_a_hessian_is_a_config_error():
    solver = ClippedToNearest(importance=True)
    for inputs in (None, replace(statistics(make_inputs()), hessian=None)):
        with pytest.raises(ConfigError, match=r"layer\.weight .*give calibration data"):
            solver.solve(make_weight(), TensorScheme(), "layer.weight", inputs)


def test_a_hessian_that_is_not_finite_is_an_error_that_names_the_module():
    inputs = statistics(make_inputs())
    inputs.hessian[3, 4] = torch.nan
    with pytest.raises(WeightError, match=r"Hessian of the inputs of layer\.weight holds NaN or Inf"):
        ClippedToNearest(importance=True).solve(make_weight(), TensorScheme(), "layer.weight", inputs)


@pytest.mark.parametrize("options", [{"importance": 1}, {"trials": 0}, {"narrowest": 1.5}])
def test_an_option_that_is_out_of_range_is_named(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        ClippedToNearest(**options)
