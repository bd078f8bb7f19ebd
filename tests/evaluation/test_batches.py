"""Every feature is in one batch, beside others of its length."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_quant.evaluation.batches import batches
from hf_quant.evaluation.tasks.base import Feature


def feature(*lengths, first=10):
    sequences = tuple(
        {
            "input_ids": list(range(first, first + length)),
            "attention_mask": [1] * length,
            "token_type_ids": [1] * length,
        }
        for length in lengths
    )
    return Feature(0, sequences)


LENGTHS = st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=3), max_size=20)


@given(LENGTHS, st.integers(1, 6), st.sampled_from([None, 0, 7]))
def test_every_feature_is_in_one_batch_and_none_is_too_large(lengths, size, pad):
    features = [feature(*each) for each in lengths]
    seen = []
    for indices, batch in batches(features, size, pad):
        assert batch.features == tuple(features[index] for index in indices)
        rows = sum(len(each.sequences) for each in batch.features)
        assert rows <= size or len(indices) == 1
        assert len(batch.tensors["input_ids"]) == rows
        if pad is None:
            assert len({each.length for each in batch.features}) == 1
        seen += indices
    assert sorted(seen) == list(range(len(features)))


@given(LENGTHS, st.integers(1, 6))
def test_the_longest_come_first(lengths, size):
    longest = [batch.features[0].length for _, batch in batches([feature(*each) for each in lengths], size, 0)]
    assert longest == sorted(longest, reverse=True)


def test_padding_is_on_the_right_and_masked():
    (_, batch), *others = batches([feature(1), feature(3)], 2, 7)
    assert not others
    assert batch.tensors["input_ids"].tolist() == [[10, 11, 12], [10, 7, 7]]
    assert batch.tensors["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.tensors["token_type_ids"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert {tensor.dtype for tensor in batch.tensors.values()} == {torch.int64}


def test_a_pair_stays_together():
    indices = [each for each, _ in batches([feature(2, 2), feature(2, 2), feature(2, 2)], 4, 0)]
    assert indices == [[0, 1], [2]]
