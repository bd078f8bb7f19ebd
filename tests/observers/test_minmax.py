import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_quant.errors import CalibrationError
from hf_quant.formats.affine import AffineFormat
from hf_quant.observers.base import grid
from hf_quant.observers.minmax import MinMax

FORMAT = AffineFormat(8, symmetric=False)


@settings(deadline=None, derandomize=True, max_examples=50)
@given(row=st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=20))
def test_the_range_is_from_the_lowest_to_the_highest(row):
    observer = MinMax(FORMAT)
    observer.update(torch.tensor(row)[:, None])
    assert [float(end) for end in observer.range()] == [min(row), max(row)]


def test_each_channel_has_its_own_range():
    values = torch.tensor([[[1.0, -2.0], [3.0, 5.0]], [[0.5, 0.0], [2.0, 1.0]]])
    observer = MinMax(FORMAT, granularity="channel")
    observer.update(values[0])
    observer.update(values[1])
    low, high = observer.range()
    assert low.tolist() == [0.5, -2.0] and high.tolist() == [3.0, 5.0]
    assert [tensor.shape for tensor in grid(observer)] == [(2,), (2,)]


def test_another_number_of_channels_is_refused():
    observer = MinMax(FORMAT, granularity="channel")
    observer.update(torch.ones(2, 3))
    with pytest.raises(CalibrationError, match="one observer for one module"):
        observer.update(torch.ones(2, 4))
