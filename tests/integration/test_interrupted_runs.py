import os
import random
import signal
from pathlib import Path

import pytest
import torch

import hf_quant
from hf_quant import HfQuantConfig
from hf_quant.errors import ConfigError
from tests.integration.calibration_data import calibration, config, sequences
from tests.integration.tiny import run_python, saved_tensors, tiny_model

BLOCKS = 3
WRITES = 1 + 3 * BLOCKS
"""Files that a run puts in place: the first manifest, then for each block its tensors, what it hands on, a manifest."""

CASES = {
    "bert": ("w4a16", {"solver": "gptq", "bias_correction": True}),
    "gpt2": ("int8-static", {"transforms": ["smoothquant"], "observer": "minmax"}),
    "llama-gqa": ("w4a16", {"transforms": ["awq", "awq-clip"], "solver": {"signround": {"steps": 5}}}),
    "llama": ("w4a16", {"solver": "gptq", "overrides": {"*.layers.0.mlp.*": "bf16", "*.layers.1.*": None}}),
}


def model_of(name, seed=0):
    layers = {"n_layer": BLOCKS} if name == "gpt2" else {"num_hidden_layers": BLOCKS}
    return tiny_model(name, seed=seed, **layers)


def quantized(name, folder=None, seed=0, data=None, restart=False, **changes):
    preset, recipe = CASES[name]
    given = config(preset, data, **{**recipe, **changes})
    return hf_quant.quantize(model_of(name, seed), given, progress=False, resume=folder, restart=restart)


def saved(model, folder):
    model.save_pretrained(folder)
    return saved_tensors(folder)


def differing(found, expected):
    assert found.keys() == expected.keys()
    return [name for name in found if not torch.equal(found[name], expected[name])]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Name to what a run that nothing interrupts saves, and its errors block by block."""
    models = {name: quantized(name) for name in CASES}
    folder = tmp_path_factory.mktemp("whole")
    return {name: (saved(m, folder / name), m.hf_quantizer.block_errors) for name, m in models.items()}


class Interrupted(Exception):
    """What ends a run in the middle."""


def interrupt(monkeypatch, at):
    """Raise in place of putting the file number `at` in its place."""
    replace, count = os.replace, iter(range(WRITES + 1))

    def failing(source, target):
        if next(count) == at:
            raise Interrupted
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)


@pytest.mark.parametrize("at", [1, 3, 5, 6, WRITES - 1])
@pytest.mark.parametrize("name", CASES)
def test_a_run_that_an_exception_ends_is_gone_on_with_bit_for_bit(name, at, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt(patch, at)
        with pytest.raises(Interrupted):
            quantized(name, tmp_path / "progress")
    done = len(list((tmp_path / "progress").glob("step-*.safetensors")))
    model = quantized(name, tmp_path / "progress")
    assert done >= (at - 1) // 3
    assert differing(saved(model, tmp_path / "saved"), whole[name][0]) == []
    assert model.hf_quantizer.block_errors == whole[name][1]


def test_a_run_that_is_killed_is_gone_on_with_bit_for_bit(whole, tmp_path):
    code = """
        import os, signal, sys
        from tests.integration.test_interrupted_runs import WRITES, quantized

        replace, count = os.replace, iter(range(WRITES + 1))

        def deadly(source, target):
            if next(count) == int(sys.argv[2]):
                os.kill(os.getpid(), signal.SIGKILL)
            replace(source, target)

        os.replace = deadly
        quantized("llama-gqa", sys.argv[1])
    """
    at = random.randrange(4, WRITES)
    result = run_python(code, tmp_path / "progress", at)
    assert result.returncode == -signal.SIGKILL, result.stderr
    model = quantized("llama-gqa", tmp_path / "progress")
    assert differing(saved(model, tmp_path / "saved"), whole["llama-gqa"][0]) == [], f"killed at write {at}"


def test_a_run_that_is_done_is_not_done_again(whole, tmp_path, monkeypatch):
    quantized("bert", tmp_path / "progress")
    monkeypatch.setattr("hf_quant.algorithms.gptq.GPTQ.solve", None)
    linears = {"overrides": {"cls.*": None}}
    with pytest.raises(ConfigError, match="plan, recipe differ"):
        quantized("bert", tmp_path / "progress", **linears)
    with pytest.raises(TypeError, match="NoneType"):  # only what comes after the blocks
        quantized("bert", tmp_path / "progress")
    monkeypatch.undo()
    assert differing(saved(quantized("bert", tmp_path / "progress"), tmp_path / "saved"), whole["bert"][0]) == []


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"seed": 1}, "model"),
        ({"data": calibration(seed=1)}, "data"),
        ({"data": calibration(sequences()[:8])}, "data"),
        ({"solver": {"gptq": {"damping": 0.02}}}, "recipe"),
        ({"modules_to_not_convert": ["cls"]}, "plan, recipe"),
    ],
    ids=["model", "seed of the data", "data", "recipe", "plan"],
)
def test_progress_of_other_work_is_refused_by_what_differs(changes, differs, tmp_path):
    folder = tmp_path / "progress"
    quantized("bert", folder)
    with pytest.raises(ConfigError, match=rf"holds the progress of other work: {differs} differ.*restart=True"):
        quantized("bert", folder, **changes)
    quantized("bert", folder, **changes, restart=True)
    quantized("bert", folder, **changes)


def test_another_setting_of_the_same_weights_is_another_model(tmp_path):
    quantized("bert", tmp_path)
    model = model_of("bert")
    model.config.hidden_act = "relu"
    preset, recipe = CASES["bert"]
    with pytest.raises(ConfigError, match="model differ"):
        hf_quant.quantize(model, config(preset, **recipe), progress=False, resume=tmp_path)


def test_a_damaged_block_is_told_from_a_whole_one(tmp_path):
    quantized("bert", tmp_path)
    path = next(Path(tmp_path).glob("step-00001*"))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ConfigError, match=r"step-00001\.safetensors is damaged .*restart=True"):
        quantized("bert", tmp_path)


def test_nothing_is_kept_where_no_data_is_needed(tmp_path):
    hf_quant.quantize(model_of("bert"), HfQuantConfig("int8"), progress=False, resume=tmp_path / "progress")
    assert not (tmp_path / "progress").exists()
