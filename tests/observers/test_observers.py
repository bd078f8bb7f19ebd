"""Claims that hold for every observer."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_quant.errors import CalibrationError, ConfigError, UnknownName
from hf_quant.formats.affine import AffineFormat
from hf_quant.observers import OBSERVERS
from hf_quant.observers.base import grid
from tests.naming import naming

FORMATS = [AffineFormat(bits, symmetric) for bits in (4, 8) for symmetric in (True, False)]
LIMIT = float(torch.finfo(torch.float32).max)
every_observer = pytest.mark.parametrize("name", list(OBSERVERS))
every_format = pytest.mark.parametrize("format", FORMATS, ids=str)
numeric = settings(deadline=None, derandomize=True, max_examples=40)
rows = st.lists(st.floats(-LIMIT, LIMIT, width=32), min_size=1, max_size=12)
batches = st.lists(rows, min_size=1, max_size=5)
order_independent = pytest.mark.parametrize("name", [name for name in OBSERVERS if name != "moving_average"])


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def column(row):
    return torch.tensor(row, dtype=torch.float32)[:, None]


def seen(name, *batches, format=FORMATS[3], **options):
    observer = OBSERVERS[name](format, **options)
    for batch in batches:
        observer.update(batch)
    return observer


def same_state(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@order_independent
@numeric
@given(parts=batches)
def test_merging_equals_observing_all_at_once_whatever_the_batches_and_their_order(name, parts):
    at_once = seen(name, torch.cat([*map(column, parts)]))
    one_by_one = seen(name, *map(column, parts))
    merged = seen(name)
    for part in reversed(parts):
        merged.merge(seen(name, column(part)))
    assert same_state(at_once.state(), one_by_one.state())
    assert same_state(at_once.state(), merged.state())


@every_observer
def test_merging_makes_no_difference_between_the_two(name):
    first, second = normal(50, 8), 3 * normal(30, 8, seed=1)
    there, back = seen(name, first), seen(name, second)
    there.merge(seen(name, second))
    back.merge(seen(name, first))
    torch.testing.assert_close(there.range(), back.range())


@every_observer
def test_merging_changes_only_the_observer_that_is_merged_into(name):
    first, second = seen(name, normal(9, 4)), seen(name, 5 * normal(9, 4))
    before = {key: tensor.clone() for key, tensor in second.state().items()}
    first.merge(second)
    first.update(normal(9, 4))
    assert same_state(second.state(), before)


@every_observer
def test_an_observer_that_saw_nothing_adds_nothing(name):
    observer, empty = seen(name, normal(9, 4)), seen(name)
    before = observer.state()
    observer.merge(empty)
    assert same_state(observer.state(), before)
    empty.merge(observer)
    assert same_state(empty.state(), before)


@every_observer
def test_only_observers_with_the_same_options_merge(name):
    observer = seen(name, normal(9, 4))
    with pytest.raises(CalibrationError, match="same options"):
        observer.merge(seen(name, normal(9, 4), format=FORMATS[0]))
    other = "minmax" if name != "minmax" else "mse"
    with pytest.raises(CalibrationError, match="same options"):
        observer.merge(seen(other, normal(9, 4)))


@every_observer
@every_format
def test_tokens_that_are_kept_out_make_no_difference(name, format):
    values, keep = normal(3, 5, 8), torch.ones(3, 5, dtype=torch.bool)
    keep[1, 2:] = keep[2, 0] = False
    alone = seen(name, values[keep], format=format)
    for spoiled in (1e6, math.nan, math.inf):
        with naming(spoiled):
            values[~keep] = spoiled
            observer = OBSERVERS[name](format)
            observer.update(values, keep)
            observer.update(values, torch.zeros_like(keep))
            assert same_state(observer.state(), alone.state())


@every_observer
def test_a_keep_of_another_shape_is_refused(name):
    with pytest.raises(CalibrationError, match="one bool for each token"):
        seen(name).update(normal(3, 5, 8), torch.ones(5, dtype=torch.bool))


@every_observer
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_refused_and_leave_the_state_as_it_was(name, bad):
    observer = seen(name, normal(4, 8))
    before, values = observer.state(), normal(4, 8)
    values[1, 2] = values[3, 0] = bad
    with pytest.raises(CalibrationError, match=r"2 of 4 tokens hold NaN or infinity.*bfloat16"):
        observer.update(values)
    assert same_state(observer.state(), before)


@every_observer
def test_nothing_observed_is_an_error_that_says_so(name):
    observer = seen(name)
    observer.update(torch.empty(0, 8))
    for ask in (observer.range, lambda: grid(observer)):
        with pytest.raises(CalibrationError, match="no input was observed"):
            ask()


@every_observer
@every_format
def test_a_state_round_trip_continues_where_it_stopped(name, format):
    first, second = normal(20, 8), 2 * normal(20, 8, seed=1)
    resumed = OBSERVERS[name].from_state(format, seen(name, first, format=format).state())
    resumed.update(second)
    assert same_state(resumed.state(), seen(name, first, second, format=format).state())
    assert OBSERVERS[name].from_state(format, {}).state() == {}


@every_observer
def test_a_state_of_another_kind_is_refused(name):
    with pytest.raises(CalibrationError, match="a state of"):
        OBSERVERS[name].from_state(FORMATS[0], {"low": torch.tensor(0.0)})


@every_observer
@every_format
def test_a_constant_is_as_exact_as_with_its_own_range(name, format):
    exact = not format.symmetric or format.bits >= 8
    for value in (3.0, -0.125, 1e-30, 1e30):
        with naming(value):
            constant = torch.full((4, 4), value)
            scale, zero_point = grid(seen(name, constant, format=format))
            decoded = format.decode(format.encode(constant, scale, zero_point), scale, zero_point)
            torch.testing.assert_close(decoded, constant, rtol=1e-5 if exact else 0.51 / 7, atol=0)


@every_observer
@every_format
def test_zeros_have_the_range_zero_and_stay_zero(name, format):
    observer = seen(name, torch.zeros(4, 4), format=format)
    assert [float(end) for end in observer.range()] == [0.0, 0.0]
    scale, zero_point = grid(observer)
    assert not format.decode(format.encode(torch.zeros(3), scale, zero_point), scale, zero_point).any()


@every_observer
@every_format
@numeric
@given(row=rows)
def test_a_grid_has_a_finite_scale_for_any_finite_values_and_lies_within_them(name, format, row):
    observer = seen(name, column(row), format=format)
    (low, high), (scale, zero_point) = observer.range(), grid(observer)
    assert low.dtype == high.dtype == scale.dtype == torch.float32
    assert min([*row, 0.0]) <= low <= high <= max([*row, 0.0])
    assert scale.isfinite() and scale > 0 and (zero_point is None) == format.symmetric


@every_observer
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_float_dtype_gives_the_range_of_its_values(name, dtype):
    values = normal(50, 8).to(dtype)
    assert same_state(seen(name, values).state(), seen(name, values.float()).state())


@every_observer
def test_the_values_are_not_changed_and_keep_no_graph(name):
    values = normal(5, 8).requires_grad_()
    before = values.detach().clone()
    observer = seen(name, values)
    assert torch.equal(values, before) and not any(tensor.requires_grad for tensor in observer.state().values())


@every_observer
def test_memory_does_not_grow_with_what_is_seen(name):
    observer = seen(name, normal(2, 8))
    before = {key: tensor.shape for key, tensor in observer.state().items()}
    for exponent in range(-20, 20):
        observer.update(2.0**exponent * normal(50, 8))
    assert {key: tensor.shape for key, tensor in observer.state().items()} == before


@every_observer
def test_one_token_is_a_batch_too(name):
    assert same_state(seen(name, torch.arange(5.0)).state(), seen(name, torch.arange(5.0)[None]).state())


@order_independent
def test_a_granularity_that_an_observer_does_not_have_is_refused(name):
    with pytest.raises(ConfigError, match="granularity"):
        seen(name, granularity="token")


def test_an_unknown_observer_is_refused_with_the_nearest_name():
    with pytest.raises(UnknownName, match="did you mean 'percentile'"):
        OBSERVERS["percentil"]
