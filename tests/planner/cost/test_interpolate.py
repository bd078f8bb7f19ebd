"""Times between measured shapes and tokens, against a formula that is known."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_quant.config.presets import PRESETS
from hf_quant.config.scheme import Scheme, TensorScheme
from hf_quant.errors import ConfigError
from hf_quant.planner.cost.interpolate import Interpolation, fitted
from hf_quant.planner.cost.table import Cell
from tests.planner.cost.tables import CALL, INT4, INT8, SLOPES, formula, table

EXACT = Interpolation(table())


@given(
    scheme=st.sampled_from(list(SLOPES)),
    inputs=st.integers(1, 5000),
    outputs=st.integers(1, 50_000),
    tokens=st.integers(1, 2000),
)
def test_what_follows_the_formula_is_predicted_by_it(scheme, inputs, outputs, tokens):
    predicted = EXACT.milliseconds(scheme, inputs, outputs, tokens)
    assert predicted == pytest.approx(formula(scheme, inputs, outputs, tokens), rel=1e-6)


@given(weights=st.lists(st.integers(1, 4000), min_size=1, max_size=6), times=st.data())
def test_a_fit_is_never_below_zero_and_grows_with_the_weights(weights, times):
    cells = []
    for index, width in enumerate(weights):
        taken = times.draw(st.floats(1e-4, 1e3))
        cells.append(Cell(None, width, index + 1, 1, taken, taken, taken, "torch"))
    line = fitted(cells)
    assert line.call >= 0 and line.per_weight >= 0 and line.call + line.per_weight > 0


def test_a_measured_cell_is_given_as_it_is():
    odd = table()
    slow = replace(odd.cells[0], milliseconds=50.0, low=50.0, high=50.0)
    interpolation = Interpolation(replace(odd, cells=(slow, *odd.cells[1:])))
    assert interpolation.milliseconds(slow.scheme, slow.inputs, slow.outputs, slow.tokens) == 50.0


def test_shapes_that_are_left_out_tell_how_far_off_the_fit_is():
    assert EXACT.error().worst < 1e-6
    noisy = table()
    doubled = [
        replace(cell, milliseconds=2 * cell.milliseconds, high=3 * cell.milliseconds) if index % 4 == 1 else cell
        for index, cell in enumerate(noisy.cells)
    ]
    error = Interpolation(replace(noisy, cells=tuple(doubled))).error()
    assert error.count == len(noisy.cells)
    assert 0.05 < error.median <= error.worst


def test_slower_than_float_is_flagged_and_refused_when_asked():
    assert EXACT.is_slower_than_float(INT4, 128, 128, 8)
    assert not EXACT.is_slower_than_float(INT8, 128, 128, 8)
    EXACT.require_faster(INT8, 128, 128, 8)
    with pytest.raises(ConfigError, match=r"W4A8.*float32.*choose another"):
        EXACT.require_faster(INT4, 128, 128, 8)


def test_a_scheme_that_was_not_measured_takes_the_time_of_one_with_its_bits_or_is_refused():
    unrotated = replace(INT8, weight=replace(INT8.weight, rotation=None))
    assert EXACT.relative(unrotated) == INT8
    narrow = Scheme(replace(INT4.weight, group_size=32), replace(INT4.input, group_size=32))
    assert EXACT.relative(narrow) == INT4
    for other in (PRESETS["w8a16"].linear, Scheme(TensorScheme(bits=3))):
        with pytest.raises(ConfigError, match=r"no times like those of.*W8A8"):
            EXACT.milliseconds(other, 64, 64, 1)


def test_fewer_tokens_than_were_measured_take_no_longer_than_the_fewest():
    only = table()
    eight = tuple(cell for cell in only.cells if cell.tokens == 8)
    interpolation = Interpolation(replace(only, cells=eight))
    assert interpolation.milliseconds(None, 64, 64, 1) == interpolation.milliseconds(None, 64, 64, 8) > CALL
