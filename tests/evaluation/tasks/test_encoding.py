"""Texts to tokens that a model can read whole."""

from dataclasses import replace

import pytest

from hf_quant.errors import EvaluationError
from hf_quant.evaluation.models import model_facts
from hf_quant.evaluation.tasks.encoding import encode, require_fit
from tests.evaluation.tiny import task_model, tiny_tokenizer

FACTS = model_facts(task_model("masked-lm"), tiny_tokenizer())


def test_texts_and_pairs_get_special_tokens():
    (alone,) = encode((["w0 w1"],), FACTS, None, "text")
    assert alone["input_ids"] == [2, 5, 6, 3] and alone["attention_mask"] == [1] * 4
    assert encode((["w0"], ["w1"]), FACTS, None, "text")[0]["input_ids"] == [2, 5, 3, 6, 3]


def test_the_kind_of_a_token_is_kept_where_a_tokenizer_tells_it():
    tokenizer = tiny_tokenizer()
    tokenizer.model_input_names = ["input_ids", "token_type_ids"]
    (pair,) = encode((["w0"], ["w1"]), replace(FACTS, tokenizer=tokenizer), None, "text")
    assert pair == {"input_ids": [2, 5, 3, 6, 3], "token_type_ids": [0, 0, 0, 1, 1]}


def test_texts_are_cut_on_request_only():
    (cut,) = encode((["w0 w1 w2 w3"],), FACTS, 4, "text")
    assert cut["input_ids"] == [2, 5, 6, 3]
    with pytest.raises(EvaluationError, match=r"text 1 has 202 tokens, the model reads 128: .*max_length=128"):
        encode((["w0", "w0 " * 200],), FACTS, None, "text")


def test_a_text_without_tokens_is_refused():
    with pytest.raises(EvaluationError, match="row 7 has no tokens: leave it out"):
        require_fit(0, 128, "row 7")
