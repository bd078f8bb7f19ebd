import pytest
import torch

from hf_quant.errors import ConfigError
from hf_quant.formats.affine import AffineFormat
from hf_quant.observers.moving_average import MovingAverage

FORMAT = AffineFormat(8, symmetric=False)


def seen(*highs, averaging_constant=0.25):
    observer = MovingAverage(FORMAT, averaging_constant=averaging_constant)
    for high in highs:
        observer.update(torch.tensor([[-1.0, high]]))
    return observer


def test_the_first_batch_is_taken_as_it_is_and_later_ones_with_the_averaging_constant():
    low, high = seen(2.0, 6.0, 3.0).range()
    assert low == -1 and high == (2 * 0.75 + 6 * 0.25) * 0.75 + 3 * 0.25


def test_with_a_constant_of_one_only_the_last_batch_counts():
    assert seen(9.0, 2.0, averaging_constant=1).range()[1] == 2


def test_merged_observers_count_by_their_batches():
    observer = seen(2.0, 2.0, 2.0)
    observer.merge(seen(10.0))
    assert observer.range()[1] == 4 and observer.state()["batches"] == 4


def test_each_channel_has_its_own_average():
    observer = MovingAverage(FORMAT, "channel", 0.5)
    observer.update(torch.tensor([[0.0, 4.0], [2.0, 8.0]]))
    observer.update(torch.tensor([[4.0, 0.0]]))
    assert [end.tolist() for end in observer.range()] == [[2.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize("constant", [0, -0.1, 1.5])
def test_a_constant_out_of_range_is_refused(constant):
    with pytest.raises(ConfigError, match="averaging_constant"):
        MovingAverage(FORMAT, averaging_constant=constant)
