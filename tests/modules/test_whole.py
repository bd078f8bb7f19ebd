"""Tensors that are made when they are read: facts for nothing, numbers for everything else."""

import copy
import io

import pytest
import torch

from hf_quant.modules.whole import WholeTensor


def whole(dtype=torch.float32):
    numbers = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    made = []

    def make():
        made.append(1)
        return numbers

    return WholeTensor(make, numbers.new_empty(0), tuple(numbers.shape)), numbers, made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_facts_make_no_numbers(dtype):
    tensor, numbers, made = whole(dtype)
    assert tensor.shape == numbers.shape == tensor.size() and len(tensor) == 3
    assert (tensor.dtype, tensor.device, tensor.ndim, tensor.numel()) == (dtype, numbers.device, 3, 60)
    assert tensor.is_floating_point() and not tensor.requires_grad and tensor.element_size() == dtype.itemsize
    assert "3, 4, 5" in repr(tensor)
    assert not made


READERS = [
    lambda tensor: tensor + 1,
    lambda tensor: 2 * tensor[1],
    lambda tensor: torch.cat([tensor, tensor]),
    lambda tensor: tensor.detach(),
    lambda tensor: tensor.data,
    lambda tensor: tensor.to(torch.float64),
    lambda tensor: tensor.transpose(0, 1).contiguous(),
    lambda tensor: torch.nn.functional.conv1d(torch.ones(1, 4, 7), tensor),
    lambda tensor: torch.tensor(tensor.tolist()),
    lambda tensor: torch.from_numpy(tensor.numpy()),
    copy.deepcopy,
]


@pytest.mark.parametrize("read", READERS)
def test_what_reads_gets_the_numbers(read):
    tensor, numbers, made = whole()
    assert torch.equal(read(tensor), read(numbers)) and made
    assert not isinstance(read(tensor), WholeTensor)


def test_it_is_saved_as_the_numbers():
    tensor, numbers, _ = whole()
    torch.save({"weight": tensor}, file := io.BytesIO())
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=True)["weight"], numbers)
