"""`QATCallback` in two processes that share each batch, beside one process that has all of it."""

import json
import os
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from hf_quant import HfQuantConfig
from hf_quant.modules.state import stored_state
from hf_quant.qat.input import StaticInput
from hf_quant.qat.modules import FakeQuantizedLinear
from tests.integration.qat_training import STATIC, same, state, trainer
from tests.integration.sharding import fsdp, sharding
from tests.integration.test_distributed_runs import WORLD, in_all_ranks
from tests.integration.tiny import auto_class, outputs, saved_tensors, tiny_model

CASES = {
    "int8": ("bert", "int8", {}),
    "int4": ("llama-gqa", "int4", {"activation_checkpointing": True}),
    "static": ("gpt2", HfQuantConfig(scheme=STATIC), {"warmup_steps": 1, "observer_steps": 2}),
    "frozen": ("bert", "int4", {"freeze_scales_at": 3}),
    "bits": ("llama", "int4", {"warmup_steps": 1, "bits": {0: 8, 3: 6, 5: 4}}),
    "taught": ("bert", "int4", {"teacher": "self"}),
    "taught-tokens": ("llama", "int4", {"teacher": "self"}),
}
"""Model, scheme, options. Without a search for unused parameters, a grid that takes no part would end training."""

SHARDED = {
    "sharded-int4": ("llama-gqa", "int4", {"bits": {0: 8, 3: 4}}),
    "sharded-static": ("gpt2", HfQuantConfig(scheme=STATIC), {"warmup_steps": 1, "observer_steps": 2}),
    "sharded-frozen": ("llama", "int4", {"freeze_scales_at": 3}),
}
"""Under FSDP2: tests/integration/test_qat_sharded.py."""

MIXED = dict.fromkeys(("mixed", "sharded-mixed"), ("llama-gqa", "int4", {"bf16": True}))
"""With products in bfloat16, under DDP and under FSDP2."""

IN_EACH_RANK = """
    import sys
    from tests.integration.test_qat_distributed import trained
    for case in sys.argv[2:]:
        trained(case, sys.argv[1])
"""


RESUMED = "bits"
"""The case that is trained once more from a checkpoint; its model has no dropout."""


class Observed(TrainerCallback):
    """Keeps the losses of each step, and where static inputs started."""

    def __init__(self):
        self.losses, self.ranges = [], {}

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            self.losses.append(logs["loss"])

    def on_step_end(self, args, state, control, model=None, **kwargs):
        inputs = [module for module in model.modules() if isinstance(module, StaticInput)]
        self.ranges[state.global_step] = [(float(each.low), float(each.high)) for each in inputs]


class Dtypes(TrainerCallback):
    """Keeps the dtypes of masters, of learned scales and of outputs, in training."""

    def __init__(self):
        self.found = set()

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        for module in model.modules():
            if isinstance(module, FakeQuantizedLinear):
                module.register_forward_hook(self._note)

    def _note(self, module, inputs, output):
        if module.training:
            dtypes = (module.weight.dtype, module.rounding.grid.scale.dtype, output.dtype)
            self.found.add(tuple(str(dtype).removeprefix("torch.") for dtype in dtypes))


def trained(case, folder):
    """Train as every rank does, and write what came of it."""
    name, config, options = (CASES | SHARDED | MIXED)[case]
    rank, ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    shards = case.startswith("sharded") and ranks > 1
    watch, dtypes = Observed(), Dtypes()
    run = f"{folder}/{case}-{ranks}"
    settings = {
        "max_steps": 6,
        "per_device_train_batch_size": 4 // ranks,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": 2,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "load_best_model_at_end": True,
        "ddp_find_unused_parameters": False,
        # BERT takes a mean whatever it is told; the Trainer would multiply it with the number of processes.
        "average_tokens_across_devices": name != "bert",
        **({"ddp_backend": "gloo"} if ranks > 1 else {}),
        **(fsdp() if shards else {}),
    }
    training = trainer(run, config, name, [watch, dtypes], model=without_dropout(name), **settings, **options)
    with sharding(training) if shards else nullcontext():
        training.train()
        training.save_model(f"{run}/saved-{rank}")
    training.model.save_pretrained(f"{run}/pretrained-{rank}")
    stored = stored_state(training.model, training.model.state_dict())
    tensors = {key: tensor.clone() for key, tensor in stored.items()}
    save_file(tensors, f"{run}/{rank}.safetensors")
    facts = {"losses": watch.losses, "ranges": watch.ranges, "dtypes": sorted(dtypes.found)}
    facts |= {"best": training.state.best_metric, "best_checkpoint": training.state.best_model_checkpoint}
    if case == RESUMED:
        facts["resumed"] = resumed(f"{run}-on", name, config, {**settings, **options})
    Path(f"{run}/{rank}.json").write_text(json.dumps(facts), encoding="utf-8")


def resumed(folder, name, config, options):
    """Whether a run that goes on from step 4, without loading the best model, ends with the bits of a whole one."""
    options = {**options, "load_best_model_at_end": False}
    ends = []
    for run, seed, checkpoint in (("whole", 0, None), ("again", 5, f"{folder}/whole/checkpoint-4")):
        training = trainer(f"{folder}/{run}", config, name, model=tiny_model(name, seed=seed), **options)
        training.train(resume_from_checkpoint=checkpoint)
        ends.append(state(training.model))
    return same(*ends)


def without_dropout(name):
    """A tiny model; ranks would drop other numbers than one process does."""
    model = tiny_model(name)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two ranks wrote, and what one process did."""
    return in_one_and_in_two(tmp_path_factory.mktemp("trained"), CASES)


def in_one_and_in_two(path, cases):
    """Train all cases in two ranks and in this process; gives `path`, where they wrote."""
    in_all_ranks(IN_EACH_RANK, path, *cases)
    for case in cases:
        trained(case, path)
    return path


def facts(folder, case, ranks, rank=0):
    return json.loads((folder / f"{case}-{ranks}" / f"{rank}.json").read_text(encoding="utf-8"))


by_case = pytest.mark.parametrize("case", CASES)


@by_case
def test_the_loss_curve_is_that_of_one_process(case, folder):
    alone, together = facts(folder, case, 1), facts(folder, case, WORLD)
    assert len(alone["losses"]) == 6
    assert together["losses"] == pytest.approx(alone["losses"], rel=1e-3)
    assert together["best"] == pytest.approx(alone["best"], rel=1e-3)


@by_case
def test_all_ranks_end_with_the_same_bits(case, folder):
    first, second = (load_file(folder / f"{case}-{WORLD}" / f"{rank}.safetensors") for rank in range(WORLD))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@by_case
def test_what_is_saved_is_what_each_rank_holds_and_reloads(case, folder):
    run = folder / f"{case}-{WORLD}"
    kept, saved = load_file(run / "0.safetensors"), saved_tensors(run / "saved-0")
    assert saved.keys() <= kept.keys()
    assert all(torch.equal(saved[key], kept[key]) for key in saved)
    assert not (run / "saved-1" / "model.safetensors").exists()  # the first rank writes
    auto = auto_class((CASES | SHARDED)[case][0])
    loaded, alone = (auto.from_pretrained(folder / f"{case}-{ranks}" / "saved-0") for ranks in (WORLD, 1))
    difference = (outputs(loaded) - outputs(alone)).norm() / outputs(alone).norm()
    assert difference < 0.05  # sums in another order: codes on an edge fall on either side of it


def test_static_inputs_start_from_what_all_ranks_saw(folder):
    alone, *together = (facts(folder, "static", 1), *(facts(folder, "static", WORLD, rank) for rank in range(WORLD)))
    assert together[0]["ranges"] == together[1]["ranges"]
    found, expected = torch.tensor(together[0]["ranges"]["3"]), torch.tensor(alone["ranges"]["3"])
    assert len(found)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@by_case
def test_the_model_saves_what_the_trainer_does(case, folder):
    by_trainer, by_model = (folder / f"{case}-{WORLD}" / f"{by}-0" for by in ("saved", "pretrained"))
    assert (by_trainer / "model.safetensors").read_bytes() == (by_model / "model.safetensors").read_bytes()
    assert not (folder / f"{case}-{WORLD}" / "pretrained-1" / "model.safetensors").exists()


@by_case
def test_codes_are_nearly_those_of_one_process(case, folder):
    alone, together = (saved_tensors(folder / f"{case}-{ranks}" / "saved-0") for ranks in (1, WORLD))
    assert alone.keys() == together.keys()
    codes = [key for key, tensor in alone.items() if not tensor.is_floating_point()]
    differ = sum(int((alone[key] != together[key]).sum()) for key in codes)
    share = differ / sum(alone[key].numel() for key in codes)
    # Adam's first steps are signs: of gradients that are nearly 0, the order of sums decides, which processors choose.
    assert codes and share < 0.1


def test_training_resumes_to_the_same_bits(folder):
    assert [facts(folder, RESUMED, WORLD, rank)["resumed"] for rank in range(WORLD)] == [True, True]
