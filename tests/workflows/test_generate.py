"""`hf_quant.generate_examples`: a model writes what it is trained on."""

import copy

import pytest
import torch
from transformers import Trainer

import hf_quant
from hf_quant import Distillation, HfQuantConfig, QATCallback, Scheme, TensorScheme
from hf_quant.errors import ConfigError, UnsupportedModel
from tests.evaluation.tiny import task_model, tiny_tokenizer
from tests.integration.calibration_data import HELD_OUT
from tests.integration.qat_training import arguments
from tests.integration.tiny import error, outputs, tiny_model

SIZES = {"samples": 10, "sequence_length": 24, "batch_size": 4, "progress": False}


def written(model=None, **options):
    return hf_quant.generate_examples(
        task_model("causal-lm") if model is None else model, tiny_tokenizer(), **{**SIZES, **options}
    )


def ids(examples):
    return torch.tensor([example["input_ids"] for example in examples])


def ending(model, token):
    """The model, for which that token ends a text."""
    model = copy.deepcopy(model)
    model.generation_config.eos_token_id = token
    return model


@pytest.mark.parametrize("name", ["gpt2", "llama-gqa"])
def test_sequences_start_anywhere_go_on_greedily_and_then_at_random(name):
    model = ending(tiny_model(name), None)
    found = ids(written(model, samples=40, greedy_tokens=3))
    assert found.shape == (40, 24)
    special = torch.tensor(tiny_tokenizer().all_special_ids)
    assert not bool(torch.isin(found[:, 0], special).any()) and len(found[:, 0].unique()) > 20
    with torch.inference_mode():
        likeliest = model.eval()(found).logits.argmax(-1)
    same = likeliest[:, :-1] == found[:, 1:]
    assert bool(same[:, :3].all()) and same[:, 3:].float().mean() < 0.5


def test_the_seed_decides_every_token():
    assert torch.equal(ids(written(seed=1)), ids(written(seed=1)))
    assert not torch.equal(ids(written(seed=1)), ids(written(seed=2)))
    # Sequences do not depend on how the global generator stands, and leave it as it was.
    torch.manual_seed(5)
    before = torch.get_rng_state()
    written()
    assert torch.equal(torch.get_rng_state(), before)


def test_what_follows_the_end_of_a_text_counts_nowhere():
    model = task_model("causal-lm")
    first = ids(written(ending(model, None), samples=40))
    end = int(first[:, 5:].flatten().mode().values)
    examples = written(ending(model, end), samples=40)
    short = [example for example in examples if 0 in example["attention_mask"]]
    assert short
    for example in short:
        length = sum(example["attention_mask"])
        assert example["input_ids"][length - 1] == end and end not in example["input_ids"][1 : length - 1]
        assert example["labels"][:length] == example["input_ids"][:length]
        assert set(example["labels"][length:]) == {-100}


def test_a_run_that_was_stopped_goes_on_to_the_same_tokens(tmp_path, monkeypatch):
    model = copy.deepcopy(task_model("causal-lm"))
    whole = written(model)
    calls, generate = [], model.generate

    def stopping(*args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return generate(*args, **kwargs)

    monkeypatch.setattr(model, "generate", stopping)
    with pytest.raises(KeyboardInterrupt):
        written(model, directory=tmp_path / "texts")
    assert written(model, directory=tmp_path / "texts") == whole
    assert len(calls) == 4 + 4  # two of three batches, two calls each
    assert written(model, directory=tmp_path / "texts") == whole and len(calls) == 8
    with pytest.raises(ConfigError, match="model differ"):
        written(tiny_model("llama", seed=9), directory=tmp_path / "texts")
    with pytest.raises(ConfigError, match="settings differ"):
        written(model, directory=tmp_path / "texts", seed=3)


def test_training_on_its_own_text_brings_a_model_nearer_to_what_it_was(tmp_path):
    scheme = Scheme(TensorScheme(bits=2, symmetric=False))
    expected = outputs(task_model("causal-lm"), HELD_OUT)
    rounded = hf_quant.quantize(copy.deepcopy(task_model("causal-lm")), HfQuantConfig(scheme=scheme), progress=False)
    model = copy.deepcopy(task_model("causal-lm"))
    training = Trainer(
        model,
        arguments(tmp_path, max_steps=30, per_device_train_batch_size=8),
        train_dataset=written(model, samples=64),
        callbacks=[
            QATCallback(HfQuantConfig(scheme=scheme), teacher="self", distillation=Distillation(labels=0.0)),
        ],
    )
    training.train()
    assert training.model.is_quantized
    assert error(outputs(training.model.eval(), HELD_OUT), expected) < 0.9 * error(outputs(rounded, HELD_OUT), expected)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"samples": 0}, "samples"),
        ({"sequence_length": 1}, "sequence_length"),
        ({"sequence_length": 100_000}, "more than"),
        ({"greedy_tokens": -1}, "greedy_tokens"),
        ({"temperature": 0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"batch_size": True}, "batch_size"),
    ],
)
def test_numbers_out_of_range_are_named(changes, says):
    with pytest.raises(ConfigError, match=says):
        written(**changes)


def test_models_that_write_nothing_are_refused():
    with pytest.raises(UnsupportedModel, match="causal language models"):
        written(tiny_model("bert"))
