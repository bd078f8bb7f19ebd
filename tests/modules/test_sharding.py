"""Quantized weights under FSDP2: processes keep codes of their rows, and compute what one process computes."""

import pytest
import torch
from torch import distributed, multiprocessing

from hf_quant.modules.sharding import gathered, parts_of, to_gather
from hf_quant.modules.tensor import QuantizedTensor
from tests.naming import naming
from tests.quantized_linear import SCHEMES, spec_for
from tests.quantized_modules import IDS, make_linear, quantized_model

SPECS = {name: spec for name in SCHEMES if (spec := spec_for(name, 64, 96)) is not None}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_parts_are_the_rows_and_together_the_weight_again(spec):
    for count in (1, 2, 3):
        with naming(f"{count} parts"):
            weight = make_linear(spec).weights["weight"]
            parts = parts_of(weight, count)
            decoded = torch.cat([part.dequantize() for part in parts])
            assert torch.equal(decoded, weight.dequantize())
            given = [to_gather(part) for part in parts]
            outputs = tuple(torch.cat(tensors) for tensors in zip(*(tensors for tensors, _ in given), strict=True))
            whole = gathered(parts[0], outputs, given[0][1])
            codes = weight.neutral()
            assert all(torch.equal(tensor, codes[name]) for name, tensor in whole.neutral().items())
            whole.lay_out()
            assert whole.layout is None  # here for a call


def test_rows_that_do_not_divide_evenly_have_no_parts():
    assert parts_of(make_linear(SPECS["int8"]).weights["weight"], 5) is None


def _work(rank, address, queue):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    try:
        found = []
        for preset in ("int8", "int4"):
            model = quantized_model(preset)
            model.down.requires_grad_(False)
            expected = model(IDS)
            mesh = init_device_mesh("cpu", (2,))
            fully_shard(model, mesh=mesh)
            local = model.down.weight._local_tensor
            assert isinstance(local, QuantizedTensor) and local.of.tensors["codes"].shape[0] == 32
            assert model.down.weight.dtype == torch.float32
            for _ in range(2):
                found.append(float((model(IDS) - expected).detach().abs().max()))
        queue.put(max(found))
    except BaseException as error:  # for the parent to show
        queue.put(repr(error))
    finally:
        distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
def test_two_processes_keep_half_of_the_codes_each_and_compute_the_same(tmp_path):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=_work, args=(rank, f"file://{tmp_path}/rendezvous", queue)) for rank in range(2)]
    for worker in workers:
        worker.start()
    found = [queue.get(timeout=200) for _ in workers]
    for worker in workers:
        worker.join()
    assert all(isinstance(each, float) and each < 1e-5 for each in found), found
