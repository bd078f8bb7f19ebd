"""A model in a process of its own: what goes wrong there is said here, and nothing is left of it."""

import os
import signal

import psutil
import pytest
import torch

from hf_quant.errors import CheckpointError, EvaluationError
from hf_quant.workflows.benchmarking.cases import Case
from hf_quant.workflows.benchmarking.process import ModelProcess
from tests.integration.tiny import VOCABULARY, tiny_model

CASE = Case(1, 8, 0, VOCABULARY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    target = tmp_path_factory.mktemp("bert")
    tiny_model("bert").save_pretrained(target)
    return target


def test_a_process_that_is_killed_is_an_error_that_says_so(folder):
    process = ModelProcess(str(folder), "auto", "cpu", 1)
    try:
        assert process.turn(CASE, 0.0)["forward"].seconds[0] > 0
        with pytest.raises(EvaluationError, match="cannot be measured: RuntimeError"):
            # Too many positions; the process goes on.
            process.turn(Case(1, 1000, 0, VOCABULARY), 0.0)
        process.give({"input_ids": torch.ones(2, 3, dtype=torch.long)})
        assert len(process.turn(Case(2, 3, 0, None), 0.0)["forward"].seconds) == 1
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(EvaluationError, match=r"ended with code -9 \(killed: there may be too little memory"):
            process.turn(CASE, 0.0)
    finally:
        process.close()
    assert not psutil.pid_exists(process.pid)


def test_a_broken_checkpoint_is_an_error_and_leaves_no_process(folder, tmp_path):
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    before = psutil.Process().children()
    with pytest.raises(CheckpointError, match="is damaged"):
        ModelProcess(str(tmp_path), "auto", "cpu", 1)
    assert psutil.Process().children() == before
