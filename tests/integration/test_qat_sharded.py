"""`QATCallback` under FSDP2 in two processes: what is promised of several processes, on parameters that are cut."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from hf_quant.modules.state import stored_state
from hf_quant.workflows.qat import convert, prepare
from tests.integration import test_qat_distributed as distributed
from tests.integration.qat_training import trainer
from tests.integration.sharding import fsdp, sharding
from tests.integration.test_distributed_runs import WORLD, in_all_ranks
from tests.integration.tiny import saved_tensors, tiny_model

pytestmark = pytest.mark.slow

RESUMED = [
    ("FULL_STATE_DICT", "sharded-int4"),
    ("FULL_STATE_DICT", "sharded-static"),
    ("SHARDED_STATE_DICT", "sharded-static"),
]
"""Kind of checkpoint, and the case that goes on from one: before bits change, and while inputs are observed."""

IN_RANKS_ONLY = """
    import sys
    from tests.integration.test_qat_distributed import MIXED, trained
    from tests.integration.test_qat_sharded import RESUMED, resumed
    for case in MIXED:
        trained(case, sys.argv[1])
    for kind, case in RESUMED:
        resumed(kind, case, sys.argv[1])
"""


@pytest.fixture(scope="module")
def sharded_folder(tmp_path_factory):
    return distributed.in_one_and_in_two(tmp_path_factory.mktemp("sharded"), distributed.SHARDED)


@pytest.mark.parametrize(
    "promise",
    [
        distributed.test_the_loss_curve_is_that_of_one_process,
        distributed.test_all_ranks_end_with_the_same_bits,
        distributed.test_what_is_saved_is_what_each_rank_holds_and_reloads,
        distributed.test_the_model_saves_what_the_trainer_does,
        distributed.test_codes_are_nearly_those_of_one_process,
    ],
)
@pytest.mark.parametrize("case", distributed.SHARDED)
def test_what_holds_of_several_processes_holds_of_cut_parameters(case, promise, sharded_folder):
    promise(case, sharded_folder)


def test_the_best_checkpoint_is_what_is_converted_in_the_end(sharded_folder):
    name, config, _ = distributed.SHARDED["sharded-int4"]
    best = Path(distributed.facts(sharded_folder, "sharded-int4", WORLD)["best_checkpoint"])
    assert best.name == "checkpoint-2"  # before there were fewer bits
    model = prepare(tiny_model(name), config)
    model.load_state_dict(torch.load(best / "pytorch_model_fsdp.bin"))
    converted = convert(model)
    expected, found = stored_state(converted, converted.state_dict()), load_file(best.parent / "0.safetensors")
    assert expected.keys() == found.keys()
    assert all(torch.equal(tensor, found[key]) for key, tensor in expected.items())


def resumed(kind, case, folder):
    """Train to the end, and once more from the first checkpoint; each keeps a last one."""
    name, config, options = distributed.SHARDED[case]
    settings = {
        "max_steps": 6,
        "per_device_train_batch_size": 4 // WORLD,
        "save_strategy": "steps",
        "save_steps": 2,
        "ddp_backend": "gloo",
        **fsdp(state_dict_type=kind),
        **options,
    }
    for run, start in (("whole", None), ("resumed", f"{folder}/{case}-{kind}-whole/checkpoint-2")):
        # With its dropout, which goes on as it would have.
        training = trainer(f"{folder}/{case}-{kind}-{run}", config, name, **settings)
        with sharding(training):
            training.train(resume_from_checkpoint=start)


@pytest.fixture(scope="module")
def ranks_folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("ranks")
    in_all_ranks(IN_RANKS_ONLY, path)
    return path


def test_mixed_precision_rounds_what_is_stored_and_computes_in_bfloat16(ranks_folder):
    assert distributed.facts(ranks_folder, "sharded-mixed", WORLD)["dtypes"] == [["float32", "float32", "bfloat16"]]


def test_mixed_precision_is_that_of_processes_that_hold_all_parameters(ranks_folder):
    whole, cut = (distributed.facts(ranks_folder, case, WORLD) for case in distributed.MIXED)
    assert cut["losses"] == pytest.approx(whole["losses"], rel=1e-5)
    assert cut["best"] == pytest.approx(whole["best"], rel=1e-5)
    whole, cut = (saved_tensors(ranks_folder / f"{case}-{WORLD}" / "saved-0") for case in distributed.MIXED)
    codes = [key for key, tensor in whole.items() if not tensor.is_floating_point()]
    differ = sum(int((whole[key] != cut[key]).sum()) for key in codes)
    assert codes and differ < 1e-3 * sum(whole[key].numel() for key in codes)


@pytest.mark.parametrize("part", ["pytorch_model_fsdp", "optimizer"])
@pytest.mark.parametrize(("kind", "case"), RESUMED)
def test_training_resumes_to_the_same_bits(kind, case, part, ranks_folder):
    runs = [ranks_folder / f"{case}-{kind}-{run}" for run in ("whole", "resumed")]
    whole, again = (_tensors(run / "checkpoint-6", part) for run in runs)
    assert whole.keys() == again.keys() and len(whole) > 10
    assert all(torch.equal(tensor, again[key]) for key, tensor in whole.items())


def _tensors(checkpoint, part):
    """Tensors of a part of a checkpoint by their path in it."""
    if not (file := checkpoint / f"{part}.bin").is_file():
        dcp_to_torch_save(checkpoint / f"{part}_0", file)
    found, left = {}, [("", torch.load(file))]
    while left:
        path, value = left.pop()
        if isinstance(value, torch.Tensor):
            found[path] = value
        elif isinstance(value, dict):
            left += [(f"{path}/{key}", inner) for key, inner in value.items()]
    return found
