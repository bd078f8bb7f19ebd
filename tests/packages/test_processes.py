"""Adapters on quantized models in several processes, and models handed from one process to another."""

import socket

import pytest
import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import hf_quant  # noqa: F401 - registers the method in the processes that are started
from tests.integration.adapters import codes, same
from tests.integration.tiny import error, outputs, token_ids
from tests.packages.models import PRESETS, quantized, saved_float, slow

pytestmark = slow

WORLD, STEPS = 2, 3


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return saved_float(tmp_path_factory.mktemp("processes") / "llama")


def adapted(path, preset):
    torch.manual_seed(0)
    return get_peft_model(quantized(path, preset), LoraConfig(r=2, target_modules="all-linear"))


def stepped(model, parameters, ids):
    """Losses of a few steps of SGD."""
    optimizer = torch.optim.SGD(parameters, 0.5)
    losses = []
    for _ in range(STEPS):
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def train_shard(rank, path, preset, kind, port, directory):
    """One of the processes: trains on its half of the rows, and saves what it has learned."""
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=WORLD)
    try:
        model = adapted(path, preset)
        before = codes(model)
        wrapped = model
        if kind == "ddp":
            wrapped = DistributedDataParallel(model)
        else:
            mesh = init_device_mesh("cpu", (WORLD,))
            for layer in model.base_model.model.model.layers:
                fully_shard(layer, mesh=mesh)
            fully_shard(model, mesh=mesh)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        rows = WORLD * 2
        stepped(wrapped, trained, token_ids(rows=rows)[rank::WORLD])
        learned = {
            name: (p.full_tensor() if isinstance(p, DTensor) else p).detach()
            for name, p in model.named_parameters()
            if p.requires_grad
        }
        kept = kind == "fsdp2" or same(before, codes(model))
        torch.save((learned, kept), f"{directory}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
@pytest.mark.parametrize("preset", PRESETS)
def test_two_processes_learn_what_one_does_from_all_rows(preset, kind, path, tmp_path):
    torch.multiprocessing.spawn(train_shard, (path, preset, kind, free_port(), str(tmp_path)), nprocs=WORLD)
    (first, kept), (second, other_kept) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(WORLD))
    assert kept and other_kept
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    alone = adapted(path, preset)
    stepped(alone, [p for p in alone.parameters() if p.requires_grad], token_ids(rows=WORLD * 2))
    expected = {name: p.detach() for name, p in alone.named_parameters() if p.requires_grad}
    found, wanted = (torch.cat([part[name].flatten() for name in expected]) for part in (first, expected))
    # Decoded floats that are sharded leave no codes to round inputs for: close, not the same.
    assert error(found, wanted) < 0.05


def compute(rank, model, directory):
    """What a process that was handed a model computes with it."""
    torch.save(outputs(model), f"{directory}/{rank}.pt")


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_model_that_is_handed_to_other_processes_computes_the_same(preset, shared, path, tmp_path):
    model = quantized(path, preset)
    if shared:
        assert model.share_memory() is model and all(parameter.is_shared() for parameter in model.parameters())
    expected = outputs(model)
    torch.multiprocessing.spawn(compute, (model, str(tmp_path)), nprocs=WORLD)
    for rank in range(WORLD):
        assert torch.equal(torch.load(tmp_path / f"{rank}.pt"), expected)
    assert torch.equal(outputs(model), expected)
