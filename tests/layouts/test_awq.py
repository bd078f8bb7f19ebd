"""AWQ's order of GEMM kernels, written down nibble by nibble here, is read as it is meant."""

import pytest
import torch

from hf_quant.errors import CheckpointError
from hf_quant.formats import format_of
from hf_quant.layouts import awq

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Output of each nibble of a word, from the low end."""


def words(codes):
    packed = torch.zeros(len(codes), codes.shape[1] // 8, dtype=torch.int64)
    for place, output in enumerate(ORDER):
        packed |= codes[:, output::8] << (4 * place)
    return torch.where(packed >= 2**31, packed - 2**32, packed).to(torch.int32)


def weight():
    generator = torch.Generator().manual_seed(0)
    codes, zeros = (torch.randint(16, (rows, 24), generator=generator) for rows in (64, 2))
    scales = torch.rand(2, 24, generator=generator).half() + 0.01
    groups = torch.arange(64) // 32
    expected = ((codes - zeros[groups]).float() * scales[groups].float()).t()
    return {"qweight": words(codes), "qzeros": words(zeros), "scales": scales}, expected


def test_a_weight_is_read_bit_for_bit():
    tensors, expected = weight()
    found = awq.read(tensors)
    assert torch.equal(format_of(found.scheme).decode_rows(found.tensors, found.matrix, slice(None)), expected)


@pytest.mark.parametrize("name", ["qweight", "qzeros", "scales"])
def test_tensors_that_do_not_belong_together_are_refused(name):
    tensors, _ = weight()
    for wrong in (tensors[name][:, :-1], tensors[name].double(), tensors[name][0], tensors[name][:0]):
        with pytest.raises(CheckpointError):
            awq.read({**tensors, name: wrong})
    with pytest.raises(CheckpointError, match=f"no {name}"):
        awq.read({key: tensor for key, tensor in tensors.items() if key != name})
    with pytest.raises(CheckpointError, match="do not divide 64"):
        awq.read(
            {**tensors, "scales": tensors["scales"].repeat(2, 1)[:3], "qzeros": tensors["qzeros"].repeat(2, 1)[:3]}
        )
