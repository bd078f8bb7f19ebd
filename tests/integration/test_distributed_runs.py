import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import hf_quant
from tests.integration.calibration_data import config
from tests.integration.tiny import error, outputs, saved_tensors, tiny_model

WORLD = 2

CASES = {
    "bert": ("int8-static", {"solver": "gptq", "bias_correction": True}),
    "gpt2": ("int8-static", {"transforms": ["smoothquant"], "observer": "histogram_kl"}),
    "llama-gqa": ("w4a16", {"transforms": ["awq", "awq-clip"], "solver": "gptq"}),
}

QUANTIZE = """
    import sys
    import torch
    from accelerate import PartialState
    import hf_quant
    from hf_quant.modules.state import stored_state
    from safetensors.torch import save_file
    from tests.integration.test_distributed_runs import CASES, quantized

    state = PartialState(cpu=True)
    assert state.num_processes == 2
    for name in CASES:
        model = quantized(name)
        tensors = {key: tensor.clone() for key, tensor in stored_state(model, model.state_dict()).items()}
        save_file(tensors, f"{sys.argv[1]}/{name}-{state.process_index}.safetensors")
        model.save_pretrained(f"{sys.argv[1]}/{name}")
"""

REFUSED = """
    import sys
    import torch
    from accelerate import PartialState
    from hf_quant.errors import ConfigError
    import hf_quant
    from tests.integration.calibration_data import config
    from tests.integration.tiny import tiny_model

    PartialState(cpu=True)
    for given, resume in ((config(solver="gptq"), sys.argv[1]), (config(solver="signround"), None)):
        try:
            hf_quant.quantize(tiny_model("llama"), given, progress=False, resume=resume)
        except ConfigError as error:
            print(error)
"""


def quantized(name):
    preset, recipe = CASES[name]
    return hf_quant.quantize(tiny_model(name), config(preset, **recipe), progress=False)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def in_all_ranks(code, *arguments):
    """Run `code` in `WORLD` processes that find each other as those of a launcher do; gives what each printed."""
    shared = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(WORLD),
        "LOCAL_WORLD_SIZE": str(WORLD),
    }
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    started = [
        subprocess.Popen(
            command,
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(WORLD)
    ]
    try:
        printed = [process.communicate(timeout=240) for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * WORLD, printed
    return [out for out, _ in printed]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What each rank saved of each case."""
    path = tmp_path_factory.mktemp("ranks")
    in_all_ranks(QUANTIZE, path)
    return path


@pytest.mark.parametrize("name", CASES)
def test_all_ranks_end_with_the_same_bits(name, folder):
    first, second = (load_file(folder / f"{name}-{rank}.safetensors") for rank in range(WORLD))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", CASES)
def test_ranks_together_find_what_one_process_finds_with_all_of_the_data(name, folder):
    alone, together = quantized(name), type(tiny_model(name)).from_pretrained(folder / name)
    float_model = tiny_model(name)
    assert error(outputs(together), outputs(alone)) < 0.2 * error(outputs(alone), outputs(float_model))


@pytest.mark.parametrize("name", CASES)
def test_all_ranks_save_to_one_folder_and_only_the_first_writes(name, folder):
    saved, kept = saved_tensors(folder / name), load_file(folder / f"{name}-0.safetensors")
    assert saved.keys() <= kept.keys()
    assert all(torch.equal(saved[key], kept[key]) for key in saved)
    assert (folder / name / "README.md").is_file()
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_what_works_in_one_process_only_is_refused_in_several(tmp_path):
    for out in in_all_ranks(REFUSED, tmp_path / "progress"):
        resume, learned = out.splitlines()
        assert "leave resume out" in resume
        assert "start only one" in learned
