"""The script that trains a small GPT-2 can be interrupted without changing what it makes."""

import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "train_gpt2.py"
SETTINGS = {"steps": 6, "batch_size": 2, "learning_rate": 1e-2, "seed": 0}


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("train_gpt2", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def stream():
    return torch.arange(600) % 7


def tiny_model():
    torch.manual_seed(0)
    shape = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 256}
    return GPT2LMHeadModel(GPT2Config(vocab_size=8, bos_token_id=0, eos_token_id=0, pad_token_id=0, **shape))


def test_an_interrupted_run_ends_with_the_same_weights(script, stream, tmp_path, monkeypatch):
    whole, halves = tiny_model(), tiny_model()
    loss = script.train(whole, stream, SETTINGS, tmp_path / "whole.pt", save_every=100)

    save = script.save_atomically

    def save_and_stop(state, file):
        save(state, file)
        raise KeyboardInterrupt

    monkeypatch.setattr(script, "save_atomically", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        script.train(halves, stream, SETTINGS, tmp_path / "halves.pt", save_every=4)
    monkeypatch.undo()
    resumed = tiny_model()
    assert script.train(resumed, stream, SETTINGS, tmp_path / "halves.pt", save_every=4) == pytest.approx(loss)
    for weight, expected in zip(resumed.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(weight, expected)


def test_a_resume_point_of_other_settings_is_not_used(script, stream, tmp_path, capsys):
    script.train(tiny_model(), stream, SETTINGS, tmp_path / "resume.pt", save_every=6)
    model, fresh = tiny_model(), tiny_model()
    script.train(model, stream, {**SETTINGS, "seed": 5}, tmp_path / "resume.pt", save_every=100)
    assert "other settings" in capsys.readouterr().out
    script.train(fresh, stream, {**SETTINGS, "seed": 5}, tmp_path / "none.pt", save_every=100)
    for weight, expected in zip(model.parameters(), fresh.parameters(), strict=True):
        torch.testing.assert_close(weight, expected)


def test_the_learning_rate_warms_up_and_falls_to_a_tenth(script):
    rates = [script.rate_at(step, steps=1000, peak=1.0) for step in range(1000)]
    assert rates[0] == 0.01
    assert max(rates) == 1.0 == rates[100]
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)


def test_the_tokenizer_reads_any_text_back(script, tmp_path):
    tokenizer = script.train_tokenizer(["The prime minister said £5m was enough. " * 20], vocabulary=280)
    tokenizer.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == 280
    assert tokenizer(script.END)["input_ids"] == [0]
    assert tokenizer.decode(tokenizer("naïve 😀  £5m\n")["input_ids"]) == "naïve 😀  £5m\n"
