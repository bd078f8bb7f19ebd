import torch

from hf_quant.evaluation.float_outputs import float_outputs, relative_error

ONES = torch.ones(4)


def test_floats_are_found_in_whatever_holds_them():
    given = {"a": ONES, "ids": torch.ones(4, dtype=torch.int64), "b": [(2 * ONES,), None]}
    assert [tensor.sum() for tensor in float_outputs(given)] == [4, 8]


def test_the_largest_error_counts():
    assert relative_error([ONES, 3 * ONES], [ONES, 2 * ONES]) == 0.5
    assert relative_error([], []) == 0.0


def test_what_is_not_finite_has_to_be_so_in_both():
    masked = torch.tensor([1.0, float("-inf")])
    assert relative_error([masked], [masked]) == 0.0
    assert relative_error([torch.tensor([1.0, 0.0])], [masked]) == float("inf")
    assert relative_error([ONES * float("nan")], [ONES * float("nan")]) == float("inf")
    assert relative_error([torch.ones(3)], [ONES]) == float("inf")
