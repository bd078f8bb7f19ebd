"""Saving is all or nothing, replaces what an earlier save wrote and nothing else, and repeats bit for bit."""

import copy
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import PreTrainedModel, Trainer, TrainingArguments

from hf_quant import quantize
from hf_quant.errors import SaveError
from hf_quant.integration import extend
from hf_quant.modules.state import stored_state
from tests.integration.tampering import CONFIG, SCHEMES, WEIGHTS, float_model, inner, load, logits

NAMES = ["bert-int8", "gpt2-int4", "llama-int4", "llama-3bit", "bert-fp16"]


def quantized(name="llama-int4"):
    return quantize(float_model(name), SCHEMES[name], progress=False)


def contents(directory):
    """Every file and directory below `directory`, with the bytes of each file."""
    paths = sorted(directory.rglob("*"))
    return {str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None for path in paths}


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_model_loads_with_the_same_logits(tmp_path, name):
    model = quantized(name)
    model.save_pretrained(tmp_path / name)
    assert torch.equal(logits(load(tmp_path / name)), logits(model))


@pytest.mark.parametrize("name", NAMES)
def test_saving_twice_and_saving_what_was_loaded_write_the_same_bytes(tmp_path, name):
    model = quantized(name)
    first, second, third = (tmp_path / part / name for part in "abc")
    model.save_pretrained(first)
    model.save_pretrained(second)
    load(first).save_pretrained(third)
    assert contents(second) == contents(first)
    assert (third / WEIGHTS).read_bytes() == (first / WEIGHTS).read_bytes()
    model.save_pretrained(first)
    assert contents(first) == contents(second)


def test_a_model_that_nothing_else_holds_can_be_saved(tmp_path):
    quantized().save_pretrained(tmp_path / "llama")
    load(tmp_path / "llama").save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / WEIGHTS).read_bytes() == (tmp_path / "llama" / WEIGHTS).read_bytes()


@pytest.mark.parametrize("place", ["file", "below a file", "/proc/hf_quant/checkpoint", "/dev/null"])
def test_an_unwritable_target_raises_save_error(tmp_path, place):
    (tmp_path / "file").write_bytes(b"mine")
    target = {"file": tmp_path / "file", "below a file": tmp_path / "file" / "sub" / "checkpoint"}.get(place, place)
    model = quantized()
    with pytest.raises(SaveError, match=r"cannot save to .*Nothing was changed"):
        model.save_pretrained(target)
    assert contents(tmp_path) == {"file": b"mine"}
    model.save_pretrained(tmp_path / "llama")
    assert torch.equal(logits(load(tmp_path / "llama")), logits(model))


FULL_DISK = """
import pathlib, resource, signal, sys
import torch
from hf_quant.errors import SaveError
from tests.integration.tampering import logits, load
from tests.integration.test_saving import contents, quantized

earlier, model = quantized("llama-int8"), quantized("llama-int4")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
# 100 bytes end in config.json, 5000 after it in the weights, 30000 near their end.
for name, limit in [(name, limit) for name in ("earlier", "nothing") for limit in (100, 5_000, 30_000)]:
    parent = pathlib.Path(sys.argv[1], f"{name}-{limit}")
    parent.mkdir()
    target = parent / "llama"
    if name == "earlier":
        earlier.save_pretrained(target, max_shard_size="10KB")
        (target / "notes.txt").write_text("mine")
    before = contents(parent)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        model.save_pretrained(target)
    except SaveError as error:
        assert "Nothing was changed" in str(error), error
    else:
        sys.exit("saved beyond the limit")
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert contents(parent) == before, (name, limit, contents(parent).keys() ^ before.keys())
    model.save_pretrained(target)
    assert torch.equal(logits(load(target)), logits(model))
print("done")
"""


def test_a_full_disk_raises_save_error_changes_nothing_and_can_be_tried_again(tmp_path):
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.splitlines()[-1:] == ["done"], done.stderr[-2000:]


@pytest.mark.parametrize("step", range(8))
def test_a_failure_while_files_are_put_in_place_is_undone(tmp_path, monkeypatch, step):
    target = tmp_path / "llama"
    quantized("llama-int8").save_pretrained(target, max_shard_size="10KB")
    (target / "generation_config.json").unlink()
    before = contents(tmp_path)
    rename, done = Path.rename, []

    def failing(path, to):
        done.append(to)
        if len(done) == step + 1:
            raise OSError(30, "Read-only file system")
        return rename(path, to)

    model = quantized()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", failing)
        with pytest.raises(SaveError, match="Read-only file system"):
            model.save_pretrained(target)
    assert contents(tmp_path) == before
    model.save_pretrained(target)
    assert torch.equal(logits(load(target)), logits(model))


def test_a_directory_in_the_way_of_a_file_is_not_replaced(tmp_path):
    (tmp_path / WEIGHTS).mkdir()
    (tmp_path / WEIGHTS / "precious").write_text("mine")
    with pytest.raises(SaveError, match=r"model\.safetensors is a directory"):
        quantized().save_pretrained(tmp_path)
    assert contents(tmp_path) == {WEIGHTS: None, f"{WEIGHTS}/precious": b"mine"}


def test_an_existing_target_is_never_written_through_its_parent(tmp_path, monkeypatch):
    """The parent of a mounted volume is another file system, where renaming into the volume fails."""
    target = tmp_path / "volume"
    target.mkdir()
    made = []
    original = Path.mkdir
    monkeypatch.setattr(Path, "mkdir", lambda path, *a, **k: made.append(path) or original(path, *a, **k))
    quantized().save_pretrained(target)
    assert all(path == target or target in path.parents for path in made)
    assert not [name for name in contents(target) if name.startswith(".")]


def test_saving_over_shards_removes_them_and_leaves_files_of_others_alone(tmp_path):
    model = quantized()
    model.save_pretrained(tmp_path / "llama", max_shard_size="10KB")
    theirs = ["notes.txt", "model_ema.safetensors", "model.fp16.safetensors", "adapter_model.safetensors"]
    for name in theirs:
        (tmp_path / "llama" / name).write_bytes(b"theirs")
    assert len(list((tmp_path / "llama").glob("model-*"))) > 2
    model.save_pretrained(tmp_path / "llama")
    files = set(contents(tmp_path / "llama"))
    assert files == {WEIGHTS, CONFIG, "generation_config.json", "README.md", *theirs}
    model.save_pretrained(tmp_path / "llama", max_shard_size="10KB")
    assert WEIGHTS not in contents(tmp_path / "llama")
    assert torch.equal(logits(load(tmp_path / "llama")), logits(model))


def test_a_variant_is_saved_beside_the_default_and_loads(tmp_path):
    model = quantized()
    model.save_pretrained(tmp_path / "llama")
    model.save_pretrained(tmp_path / "llama", variant="small", max_shard_size="10KB")
    assert (tmp_path / "llama" / WEIGHTS).exists()
    model.save_pretrained(tmp_path / "llama", variant="small")
    assert {name for name in contents(tmp_path / "llama") if "small" in name} == {"model.small.safetensors"}
    assert torch.equal(logits(load(tmp_path / "llama", variant="small")), logits(model))


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077, 0o002])
@pytest.mark.parametrize("exists", [True, False])
def test_permissions_follow_the_umask(tmp_path, mask, exists):
    target = tmp_path / "llama"
    if exists:
        target.mkdir()
    model, before = quantized(), os.umask(mask)
    try:
        model.save_pretrained(target)
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in target.iterdir()}
    assert modes == dict.fromkeys(modes, 0o666 & ~mask)
    if not exists:
        assert stat.S_IMODE(target.stat().st_mode) == 0o777 & ~mask


def test_relative_and_trailing_paths_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = quantized()
    (tmp_path / "here").mkdir()
    for place in ["llama", "a/b/llama", "llama/", "./llama"]:
        model.save_pretrained(place)
    monkeypatch.chdir(tmp_path / "here")
    model.save_pretrained(".")
    assert contents(tmp_path / "here")[WEIGHTS] == contents(tmp_path / "a" / "b" / "llama")[WEIGHTS]
    assert not [name for name in contents(tmp_path) if Path(name).name.startswith(".")]


def test_a_target_that_is_a_link_keeps_being_one(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "llama").symlink_to(tmp_path / "real")
    quantized().save_pretrained(tmp_path / "llama")
    assert (tmp_path / "llama").is_symlink()
    assert WEIGHTS in contents(tmp_path / "real")


def test_another_process_than_the_main_one_writes_nothing(tmp_path):
    model = quantized()
    model.save_pretrained(tmp_path / "llama", is_main_process=False)
    model.save_pretrained(tmp_path / "llama", False)
    assert not [name for name, content in contents(tmp_path).items() if content is not None]


def test_a_state_dict_that_is_given_is_what_is_saved(tmp_path):
    model = quantized()
    state = {key: value.clone() for key, value in stored_state(model, model.state_dict()).items()}
    state[f"{inner('llama-int4')}.weight_scale"] *= 2
    keys = list(state)
    model.save_pretrained(tmp_path / "llama", state_dict=state)
    assert list(state) == keys
    saved = load_file(tmp_path / "llama" / WEIGHTS)[f"{inner('llama-int4')}.weight_scale"]
    assert torch.equal(saved, state[f"{inner('llama-int4')}.weight_scale"])
    model.save_pretrained(tmp_path / "own")
    own = load_file(tmp_path / "own" / WEIGHTS)[f"{inner('llama-int4')}.weight_scale"]
    assert torch.equal(own * 2, saved)


@pytest.mark.parametrize("name", ["bert-int8", "gpt2-int4"])
def test_the_models_own_state_dict_saves_the_same_file(tmp_path, name):
    model = quantized(name)
    model.save_pretrained(tmp_path / "own" / name)
    model.save_pretrained(tmp_path / "given" / name, state_dict=model.state_dict())
    assert contents(tmp_path / "given")[f"{name}/{WEIGHTS}"] == contents(tmp_path / "own")[f"{name}/{WEIGHTS}"]


def test_trainer_saves_the_quantized_model(tmp_path):
    model = quantized()
    model.requires_grad_(False)
    arguments = TrainingArguments(output_dir=str(tmp_path / "run"), report_to=[], use_cpu=True)
    trainer = Trainer.__new__(Trainer)
    trainer.model, trainer.args, trainer.processing_class, trainer.data_collator = model, arguments, None, None
    trainer.accelerator = None
    Trainer._save(trainer, str(tmp_path / "llama"))
    Trainer._save(trainer, str(tmp_path / "given" / "llama"), state_dict=model.state_dict())
    assert torch.equal(logits(load(tmp_path / "llama")), logits(model))
    assert torch.equal(logits(load(tmp_path / "given" / "llama")), logits(model))


@pytest.mark.parametrize("name", NAMES)
def test_a_deep_copy_saves_itself(tmp_path, name):
    model = quantized(name)
    twin = copy.deepcopy(model)
    bias_or_norm = next(
        key for key, value in twin.state_dict().items() if value.is_floating_point() and value.ndim == 1
    )
    twin.state_dict()[bias_or_norm].fill_(0.5)
    twin.save_pretrained(tmp_path / "twin")
    model.save_pretrained(tmp_path / "model")
    assert (load_file(tmp_path / "twin" / WEIGHTS)[bias_or_norm] == 0.5).all()
    assert not (load_file(tmp_path / "model" / WEIGHTS)[bias_or_norm] == 0.5).all()
    del model
    twin.save_pretrained(tmp_path / "alone")
    assert (tmp_path / "alone" / WEIGHTS).read_bytes() == (tmp_path / "twin" / WEIGHTS).read_bytes()


UNPICKLE = """
import pathlib, sys, torch
for directory in pathlib.Path(sys.argv[1]).iterdir():
    model = torch.load(directory / "model.pt", weights_only=False)
    with torch.no_grad():
        found = model(input_ids=torch.arange(24).reshape(2, 12)).logits
    assert torch.equal(found, torch.load(directory / "logits.pt")), directory
    model.save_pretrained(directory / "from-pickle")
"""


def test_a_pickled_model_comes_back_whole_in_another_process_and_saves_itself(tmp_path):
    for name in NAMES:
        model = quantized(name)
        model.save_pretrained(tmp_path / name / "saved")
        torch.save(model, tmp_path / name / "model.pt")
        torch.save(logits(model), tmp_path / name / "logits.pt")
    subprocess.run([sys.executable, "-c", UNPICKLE, str(tmp_path)], check=True, timeout=120)
    for name in NAMES:
        saved, again = contents(tmp_path / name / "saved"), contents(tmp_path / name / "from-pickle")
        assert again[WEIGHTS] == saved[WEIGHTS]
        assert b"import hf_quant" in again["README.md"]


def test_float_models_save_as_before(tmp_path):
    model = quantized()
    model.save_pretrained(tmp_path / "llama")
    float_model("llama-int4").save_pretrained(tmp_path / "float")
    assert "README.md" not in contents(tmp_path / "float")
    model.dequantize().save_pretrained(tmp_path / "dequantized")
    assert "README.md" not in contents(tmp_path / "dequantized")
    assert "quantization_config" not in (tmp_path / "dequantized" / CONFIG).read_text()


def test_the_card_and_words_of_the_owner_survive_a_second_save(tmp_path):
    model = quantized()
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n\nWords of its owner.\n")
    for _ in range(2):
        model.save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.license == "mit" and "Words of its owner." in card.text
    assert card.text.count("import hf_quant") == 1


def test_a_card_that_cannot_be_read_stops_the_save_before_anything_changes(tmp_path):
    (tmp_path / "README.md").write_bytes(b"\xff\xfe not text")
    with pytest.raises(SaveError, match="not a model card"):
        quantized().save_pretrained(tmp_path)
    assert contents(tmp_path) == {"README.md": b"\xff\xfe not text"}


def test_installing_twice_extends_once():
    before = PreTrainedModel.save_pretrained
    extend.install()
    assert PreTrainedModel.save_pretrained is before
