"""The script that fine-tunes a sentiment classifier can be interrupted without changing what it makes."""

import importlib.util
import random
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast, Trainer

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "train_sentiment.py"
SETTINGS = {"epochs": 1, "steps": 12, "batch_size": 8, "learning_rate": 1e-2, "seed": 0}
WORDS = ["<pad>", "good", "bad", "film", "a", "the"]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("train_sentiment", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tokenizer():
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", unk_token="<pad>")


@pytest.fixture(scope="module")
def sentences():
    chance = random.Random(0)
    pairs = [chance.choice([("positive", "good"), ("negative", "bad")]) for _ in range(120)]
    return [(label, f"{chance.choice(['a', 'the'])} {word} film") for label, word in pairs]


def tiny_model(script):
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    names = dict(enumerate(script.LABELS))
    return BertForSequenceClassification(BertConfig(vocab_size=len(WORDS), id2label=names, **shape))


def train(script, tokenizer, sentences, folder, settings=SETTINGS):
    model = tiny_model(script)
    script.train(model, tokenizer, sentences[:100], sentences[100:], settings, folder, save_every=4)
    return model


def test_an_interrupted_run_ends_with_the_same_weights(script, tokenizer, sentences, tmp_path, monkeypatch):
    whole = train(script, tokenizer, sentences, tmp_path / "whole")
    save = Trainer._save_checkpoint

    def save_and_stop(self, *args, **kwargs):
        save(self, *args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_save_checkpoint", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        train(script, tokenizer, sentences, tmp_path / "halves")
    monkeypatch.undo()
    assert (tmp_path / "halves" / "checkpoint-4").is_dir()
    resumed = train(script, tokenizer, sentences, tmp_path / "halves")
    for weight, expected in zip(resumed.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(weight, expected)


def test_checkpoints_of_other_settings_are_not_used(script, tokenizer, sentences, tmp_path, capsys):
    train(script, tokenizer, sentences, tmp_path / "used")
    other = {**SETTINGS, "seed": 5}
    model = train(script, tokenizer, sentences, tmp_path / "used", other)
    assert "other settings" in capsys.readouterr().out
    fresh = train(script, tokenizer, sentences, tmp_path / "fresh", other)
    for weight, expected in zip(model.parameters(), fresh.parameters(), strict=True):
        torch.testing.assert_close(weight, expected)
