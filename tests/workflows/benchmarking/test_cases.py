"""Random inputs are the same for every model, and no longer than it reads."""

import pytest
import torch

from hf_quant.errors import ConfigError
from hf_quant.workflows.benchmarking.cases import Case, grid
from hf_quant.workflows.benchmarking.facts import CAUSAL, ENCODER, facts_of
from tests.integration.tiny import VOCABULARY, tiny_model


def test_the_same_case_has_the_same_tokens_every_time():
    case = Case(3, 50, 0, VOCABULARY)
    ids = case.inputs()["input_ids"]
    assert torch.equal(ids, case.inputs()["input_ids"]) and ids.shape == (3, 50)
    assert ids.min() >= 0 and ids.max() < VOCABULARY and len(ids.unique()) > 50
    assert case.inputs()["attention_mask"].all()


@pytest.mark.parametrize(
    ("family", "expected"),
    [("bert", [(1, 32), (8, 32), (1, 128), (8, 128)]), ("llama", [(1, 96)]), ("gpt2", [(1, 96)])],
)
def test_sizes_suit_the_kind_of_model_and_what_it_reads(family, expected):
    cases = grid(facts_of(tiny_model(family)), None, None, 32)
    assert [(case.batch, case.length) for case in cases] == expected
    assert {case.new_tokens for case in cases} == {0 if family == "bert" else 32}


def test_one_new_token_is_the_first_alone():
    assert [Case(1, 8, new, 9).timings for new in (0, 1, 2)] == [1, 1, 2]


def test_more_tokens_than_a_model_reads_are_refused():
    with pytest.raises(ConfigError, match="reads 128 tokens, fewer than 129: give shorter lengths"):
        grid(facts_of(tiny_model("bert")), None, [64, 129], 32)


def test_facts_tell_causal_models_from_others():
    assert facts_of(tiny_model("bert")).kind == ENCODER
    assert facts_of(tiny_model("gpt2")).kind == facts_of(tiny_model("llama-gqa")).kind == CAUSAL
    assert facts_of(tiny_model("gpt2")).positions == facts_of(tiny_model("llama")).positions == 128
