"""Weights in training are, number for number, those that inference decodes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_quant.algorithms import SOLVERS
from hf_quant.algorithms.mse import ClippedToNearest
from hf_quant.config.scheme import Scheme
from hf_quant.errors import ConfigError, UnknownName, WeightError
from hf_quant.formats import format_of
from hf_quant.formats.packing import unpack
from hf_quant.modules.linear import QuantizedLinear
from hf_quant.qat.options import QATOptions
from hf_quant.qat.weight import WeightQuantizer
from tests.qat.schemes import WEIGHTS
from tests.zero_points import zero_points_of

ROWS, WIDTH = 6, 64


def matrix(seed=0, rows=ROWS):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, WIDTH, generator=generator) * torch.rand(rows, 1, generator=generator) * 3


def quantizer(scheme, weight, **options):
    made = WeightQuantizer(scheme, *weight.shape, QATOptions(**options))
    made.initialise(weight, "weight")
    return made


def decoded(solved, scheme, rows=ROWS):
    """What a quantized module makes of the codes, before any rotation back."""
    format, groups = format_of(scheme), solved["scale"].shape[-1]
    codes = unpack(solved["codes"], scheme.bits, WIDTH).unflatten(-1, (groups, -1))
    zero_point = zero_points_of(solved, scheme)
    zero_point = None if zero_point is None else zero_point[..., None]
    return format.decode(codes, solved["scale"][..., None].float(), zero_point).flatten(-2)


@pytest.mark.parametrize("scheme", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("method", ["lsq", "minmax"])
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), moved=st.floats(0, 0.3))
def test_training_rounds_to_the_very_numbers_that_are_stored(scheme, method, seed, moved):
    weight = matrix(seed)
    made = quantizer(scheme, weight, weights=method)
    with torch.no_grad():
        for parameter in made.parameters():  # as learning would
            parameter *= 1 + moved
        assert torch.equal(made(weight), decoded(made.solved(weight, "weight"), scheme))


@pytest.mark.parametrize("scheme", WEIGHTS.values(), ids=WEIGHTS)
def test_min_max_training_ends_as_rounding_to_nearest(scheme):
    weight = matrix()
    made = quantizer(scheme, weight, weights="minmax")
    found, expected = made.solved(weight, "weight"), SOLVERS["rtn"]().solve(weight, scheme, "weight")
    assert all(torch.equal(a, b) for a, b in zip(found.values(), expected.values(), strict=True))
    assert list(made.parameters()) == []


@pytest.mark.parametrize("scheme", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize(("initial", "solver"), [("mse", ClippedToNearest()), ("minmax", SOLVERS["rtn"]())])
def test_learned_grids_start_from_statistics_of_the_weight(scheme, initial, solver):
    weight = matrix()
    made = quantizer(scheme, weight, initial=initial)
    found, expected = made.solved(weight, "weight"), solver.solve(weight, scheme, "weight")
    assert all(torch.equal(a, b) for a, b in zip(found.values(), expected.values(), strict=True))
    assert torch.equal(made.grid.scale, expected["scale"].float())


@pytest.mark.parametrize("scheme", WEIGHTS.values(), ids=WEIGHTS)
def test_what_is_stored_passes_the_checks_of_a_checkpoint(scheme):
    weight = matrix()
    made = quantizer(scheme, weight)
    linear = QuantizedLinear(WIDTH, ROWS, False, Scheme(scheme))
    linear.fill(made.solved(weight, "weight"))
    linear.check_values("linear")


@pytest.mark.parametrize("scheme", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("method", ["lsq", "minmax"])
def test_rows_that_are_looked_up_are_rounded_as_in_the_whole(scheme, method):
    weight, index = matrix(), torch.tensor([4, 0, 4, 2])
    made = quantizer(scheme, weight, weights=method)
    with torch.no_grad():
        assert torch.equal(made(weight[index], index, weight), made(weight)[index])


@pytest.mark.parametrize("scheme", WEIGHTS.values(), ids=WEIGHTS)
def test_learning_lowers_the_error_that_it_is_asked_to(scheme):
    # The scale alone, on the sum of squared errors of the weight, from a start that is half as wide again as it should.
    weight = matrix()
    made = quantizer(scheme, weight)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter *= 1.5

    def squared_error():
        return (made(weight) - made.rotated(weight)).square().sum()

    start = squared_error().item()
    scales = torch.optim.Adam(made.parameters(), lr=made.grid.scale.abs().mean().item() / 50)
    for _ in range(40):
        scales.zero_grad()
        squared_error().backward()
        scales.step()
    assert squared_error().item() < 0.95 * start


def test_fewer_bits_start_afresh_and_other_bits_are_never_stored():
    scheme, weight = WEIGHTS["group asymmetric"], matrix()
    made = quantizer(scheme, weight)
    as_stored = decoded(made.solved(weight, "weight"), scheme)
    made.initialise(weight, "weight", bits=8)
    assert int(made.bits) == 8
    with torch.no_grad():
        eight_bits = made(weight)
    assert (eight_bits - weight).norm() < 0.2 * (as_stored - weight).norm()
    assert torch.equal(decoded(made.solved(weight, "weight"), scheme), as_stored)
    made.initialise(weight, "weight", bits=4)
    with torch.no_grad():
        assert torch.equal(made(weight), as_stored)


def test_a_weight_that_holds_nan_is_refused():
    weight = matrix()
    made = quantizer(WEIGHTS["channel"], weight)
    weight[2, 3] = torch.nan
    for call in (lambda: made.solved(weight, "mlp.weight"), lambda: made.initialise(weight, "mlp.weight")):
        with pytest.raises(WeightError, match=r"mlp\.weight holds NaN"):
            call()


def test_options_that_are_not_there_name_those_that_are():
    with pytest.raises(UnknownName, match="lsq, minmax"):
        QATOptions(weights="lqs")
    with pytest.raises(ConfigError, match="initial takes one of"):
        QATOptions(initial=1.0)
