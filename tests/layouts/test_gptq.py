"""GPTQ's packing, written down bit by bit here, is read as it is meant; what does not fit is refused."""

import pytest
import torch

from hf_quant.errors import CheckpointError
from hf_quant.formats import format_of
from hf_quant.layouts import gptq

WIDTH, ROWS, GROUPS = 64, 32, 2


def stream(codes, bits):
    """int32 words of unsigned codes ``[n, columns]``, down the columns, lowest bits first."""
    words = torch.zeros(len(codes) * bits // 32, codes.shape[1], dtype=torch.int64)
    for index, row in enumerate(codes.tolist()):
        for column, code in enumerate(row):
            for bit in range(bits):
                word, place = divmod(index * bits + bit, 32)
                words[word, column] |= ((code >> bit) & 1) << place
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def weight(bits, less_one):
    generator = torch.Generator().manual_seed(bits)
    codes = torch.randint(2**bits, (WIDTH, ROWS), generator=generator)
    zeros = torch.randint(2**bits, (GROUPS, ROWS), generator=generator)
    scales = torch.rand(GROUPS, ROWS, generator=generator).half() + 0.01
    stored = (zeros - 1) % 2**bits if less_one else zeros
    tensors = {
        "qweight": stream(codes, bits),
        "qzeros": stream(stored.t(), bits).t().contiguous(),
        "scales": scales,
        "g_idx": torch.arange(WIDTH, dtype=torch.int32) // (WIDTH // GROUPS),
    }
    groups = tensors["g_idx"].long()
    return tensors, ((codes - zeros[groups]).float() * scales[groups].float()).t()


@pytest.mark.parametrize("less_one", [True, False])
@pytest.mark.parametrize("bits", gptq.BITS)
def test_every_width_and_both_conventions_of_zero_points_are_read(bits, less_one):
    tensors, expected = weight(bits, less_one)
    found = gptq.read(tensors, bits, less_one)
    real = format_of(found.scheme).decode_rows(found.tensors, found.matrix, slice(None))
    assert torch.equal(real, expected)
    assert (found.rows, found.width, found.scheme.group_size) == (ROWS, WIDTH, WIDTH // GROUPS)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("qweight", lambda tensor: tensor[:, :-1]),
        ("qweight", lambda tensor: tensor.to(torch.int64)),
        ("qweight", lambda tensor: tensor[:0]),
        ("qzeros", lambda tensor: tensor[:-1]),
        ("qzeros", lambda tensor: None),
        ("scales", lambda tensor: tensor[:, :-1]),
        ("scales", lambda tensor: tensor * torch.inf),
        ("scales", lambda tensor: tensor.to(torch.int32)),
        ("g_idx", lambda tensor: tensor[:-1]),
        ("g_idx", lambda tensor: tensor + 1),
    ],
)
def test_tensors_that_do_not_belong_together_are_refused(name, change):
    tensors, _ = weight(4, False)
    tensors[name] = change(tensors[name])
    if tensors[name] is None:
        del tensors[name]
    with pytest.raises(CheckpointError):
        gptq.read(tensors, 4, False)
