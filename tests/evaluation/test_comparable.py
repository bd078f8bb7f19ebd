"""Models that do not answer the same question in the same tokens are refused."""

import pytest
from tokenizers import normalizers
from transformers import BertConfig

from hf_quant.errors import EvaluationError
from hf_quant.evaluation.comparable import require_comparable, require_same_tokenizer
from tests.evaluation.tiny import WORDS, tiny_tokenizer


def config(*names, vocabulary=10):
    return BertConfig(vocab_size=vocabulary, id2label=dict(enumerate(names)))


def test_the_same_classes_are_comparable():
    require_comparable(config("a", "b"), config("a", "b"), has_labels=True)


def test_classes_do_not_matter_where_nobody_asks_for_them():
    require_comparable(config("a", "b"), config("b", "a"), has_labels=False)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (("a", "b"), ("b", "a"), "class 0 is 'a' in the reference and 'b' in the quantized model"),
        (("a", "b"), ("a", "b", "c"), "class 2 is missing in the reference and 'c'"),
        (("a", "b"), ("a", "B"), "class 1 is 'b' in the reference and 'B'"),
    ],
)
def test_other_classes_are_refused_with_the_first_that_differs(first, second, message):
    with pytest.raises(EvaluationError, match=message):
        require_comparable(config(*first), config(*second), has_labels=True)


def test_other_vocabularies_are_refused():
    with pytest.raises(EvaluationError, match="knows 10 tokens, the quantized model 11: compare models"):
        require_comparable(config("a"), config("a", vocabulary=11), has_labels=False)


def test_the_same_tokenizer_twice_is_one():
    require_same_tokenizer(tiny_tokenizer(), tiny_tokenizer())


def test_another_vocabulary_is_another_tokenizer():
    with pytest.raises(EvaluationError, match=r"'w0' is token 5 of the first and None of the second.*tokenizer="):
        require_same_tokenizer(tiny_tokenizer(), tiny_tokenizer(["x", *WORDS[1:]]))


def test_other_rules_for_one_vocabulary_are_another_tokenizer():
    words = ["quick", "the", "The", "fox", *WORDS[4:]]
    other = tiny_tokenizer(words)
    other.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(EvaluationError, match="becomes"):
        require_same_tokenizer(tiny_tokenizer(words), other)
