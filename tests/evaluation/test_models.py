"""What tasks know of models, and models that are left as they were."""

import copy

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, ResNetConfig, ResNetModel, RobertaConfig, RobertaModel

from hf_quant.errors import EvaluationError
from hf_quant.evaluation.models import ModelPair, device_of, evaluating, model_facts
from tests.evaluation.tiny import POSITIONS, task_model, tiny_tokenizer
from tests.integration.tiny import VOCABULARY, tiny_model


def test_facts_are_those_of_the_config():
    facts = model_facts(task_model("masked-lm"), tiny_tokenizer())
    assert (facts.vocabulary, facts.positions, facts.pad) == (VOCABULARY, POSITIONS, 0)


def test_robertas_first_positions_are_not_for_tokens():
    sizes = {"vocab_size": 50, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    model = RobertaModel(RobertaConfig(max_position_embeddings=34, num_attention_heads=2, **sizes))
    assert model_facts(model, tiny_tokenizer()).positions == 32


def test_a_padding_token_without_an_embedding_is_not_used():
    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=8, n_layer=1, n_head=2))
    tokenizer = tiny_tokenizer()
    assert model_facts(model, tokenizer).pad == 0
    tokenizer.add_special_tokens({"pad_token": "[NEW]"})
    assert tokenizer.pad_token_id >= 64 and model_facts(model, tokenizer).pad is None


def test_a_model_that_reads_no_tokens_is_refused():
    model = ResNetModel(ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1]))
    with pytest.raises(EvaluationError, match="reads no tokens"):
        model_facts(model, tiny_tokenizer())


def test_a_length_is_at_most_the_context():
    facts = model_facts(task_model("masked-lm"), tiny_tokenizer())
    assert (facts.length(None), facts.length(7)) == (POSITIONS, 7)
    with pytest.raises(EvaluationError, match=f"give max_length={POSITIONS} or less"):
        facts.length(POSITIONS + 1)


def test_dropout_is_off_inside_and_modes_are_restored():
    first, second = copy.deepcopy(task_model("masked-lm")).train(), copy.deepcopy(task_model("masked-lm")).eval()
    with evaluating(first, second):
        assert not first.training and not second.training and torch.is_inference_mode_enabled()
    assert first.training and not second.training and not torch.is_inference_mode_enabled()
    with pytest.raises(ZeroDivisionError), evaluating(first):
        1 / 0  # noqa: B018
    assert first.training


def test_a_pair_gives_both_outputs_and_the_time_of_each():
    pair = ModelPair(task_model("masked-lm"), task_model("masked-lm", seed=1))
    ids = torch.arange(5, 15)[None]
    with torch.inference_mode():
        first, second = pair({"input_ids": ids}, {})
        assert torch.equal(first.logits, pair.reference(ids).logits)
        assert torch.equal(second.logits, pair.quantized(ids).logits)
    assert min(pair.seconds) > 0


def test_inputs_go_to_the_first_weight_that_is_in_memory():
    model = GPT2LMHeadModel(GPT2Config(vocab_size=8, n_embd=8, n_layer=1, n_head=2))
    model.transformer.wte.to("meta")
    assert device_of(model).type == "cpu"
    assert device_of(torch.nn.Identity()).type == "cpu"
    assert device_of(tiny_model("gpt2").to("meta")).type == "cpu"
