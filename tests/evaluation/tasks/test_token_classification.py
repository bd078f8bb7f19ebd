"""Tags of words."""

import pytest
import sklearn.metrics
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from hf_quant.errors import EvaluationError
from hf_quant.evaluation import TASKS
from hf_quant.evaluation.data import open_rows
from hf_quant.evaluation.metrics.entity_f1 import entities
from hf_quant.evaluation.models import model_facts
from tests.evaluation.tiny import TAGS, evaluated, quantized_model, task_model, task_rows, tiny_tokenizer

ROWS = task_rows("token-classification")


def said(model):
    """Tags of each row, run alone. A word is a token here."""
    found = []
    for row in ROWS:
        with torch.inference_mode():
            logits = model(**tiny_tokenizer()(" ".join(row["tokens"]), return_tensors="pt")).logits[0, 1:-1]
        found.append([TAGS[number] for number in logits.argmax(-1).tolist()])
    return found


@pytest.mark.parametrize("which", ["reference", "quantized"])
def test_figures_are_those_of_tags_one_by_one(which):
    report = evaluated("token-classification")
    model = {"reference": task_model, "quantized": quantized_model}[which]("token-classification")
    predicted, right = said(model), [row["ner_tags"] for row in ROWS]
    flat = [[tag for row in rows for tag in row] for rows in (right, predicted)]
    assert getattr(report.metric("accuracy"), which) == pytest.approx(sklearn.metrics.accuracy_score(*flat))
    hits = sum(len(entities(a) & entities(b)) for a, b in zip(predicted, right, strict=True))
    counts = [sum(len(entities(row)) for row in rows) for rows in (predicted, right)]
    assert getattr(report.metric("f1"), which) == pytest.approx(2 * hits / sum(counts))


def test_words_that_are_marked_do_not_count():
    rows = [{**row, "ner_tags": [-100, *([1] * (len(row["tokens"]) - 1))]} for row in ROWS]
    report = evaluated("token-classification", rows=rows)
    assert report.agreement.compared == sum(len(row["tokens"]) - 1 for row in ROWS)
    assert report.agreement.unit == "words"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tokens": ["w1", "w2"], "ner_tags": ["O"]}, "has 2 words and the tags"),
        ({"tokens": "w1 w2", "ner_tags": ["O", "O"]}, "not a list of words: divide texts first"),
        ({"tokens": ["w1"], "ner_tags": ["B-ORG"]}, "no class of the models"),
    ],
)
def test_rows_that_do_not_fit_are_refused(row, message):
    with pytest.raises(EvaluationError, match=message):
        evaluated("token-classification", rows=[row])


def byte_level(**options):
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(**options)
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=["[PAD]"])  # as many as the tiny model knows
    inner.train_from_iterator(["the cat sat on the mat"] * 5, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]")


@pytest.mark.parametrize("add_prefix_space", [False, True])
def test_words_get_the_tokens_that_they_have_within_a_text(add_prefix_space):
    tokenizer, words = byte_level(add_prefix_space=add_prefix_space), ["the", "cat", "sat"]
    facts = model_facts(task_model("token-classification"), tokenizer)
    rows = open_rows([{"tokens": words, "ner_tags": ["O", "B-PER", "O"]}])
    (feature,) = TASKS["token-classification"]().features(rows, facts)
    assert (
        feature.sequences[0]["input_ids"]
        == tokenizer(" the cat sat" if not add_prefix_space else "the cat sat")["input_ids"]
    )
    firsts = [tokenizer.convert_ids_to_tokens(feature.sequences[0]["input_ids"])[at] for at in feature.notes.positions]
    assert all(token.startswith("Ġ") for token in firsts)
