"""Ranks of torch.distributed agree on what all of them saw."""

import pytest
import torch
from torch import multiprocessing
from torch.distributed import destroy_process_group, init_process_group

from hf_quant.formats.affine import AffineFormat
from hf_quant.observers import OBSERVERS

FORMAT = AffineFormat(8, symmetric=False)
WORLD = 3


def part(rank):
    """What a rank sees; the last sees nothing."""
    return (rank + 1) * torch.randn(20, 4, generator=torch.Generator().manual_seed(rank))


def run_rank(rank, folder):
    init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD)
    states = {}
    for name in OBSERVERS:
        observer = OBSERVERS[name](FORMAT)
        if rank < WORLD - 1:
            observer.update(part(rank))
        observer.reduce()
        states[name] = observer.state()
    torch.save(states, f"{folder}/{rank}.pt")
    destroy_process_group()


@pytest.fixture(scope="module")
def reduced(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.start_processes(run_rank, (str(folder),), nprocs=WORLD, start_method="spawn")
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


@pytest.mark.parametrize("name", list(OBSERVERS))
def test_all_ranks_end_with_what_one_observer_would_have_merged(name, reduced):
    expected = OBSERVERS[name](FORMAT)
    expected.update(part(0))
    other = OBSERVERS[name](FORMAT)
    other.update(part(1))
    expected.merge(other)
    for states in reduced:
        assert states[name].keys() == expected.state().keys()
        assert all(torch.equal(states[name][key], tensor) for key, tensor in expected.state().items())


def test_without_torch_distributed_reducing_changes_nothing():
    observer = OBSERVERS["minmax"](FORMAT)
    observer.update(part(0))
    before = observer.state()
    observer.reduce()
    assert observer.state() == before
