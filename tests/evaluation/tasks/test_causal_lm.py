"""Windows of text, each token scored once. `tests/evaluation/test_perplexity.py` compares the figures."""

import math

import numpy as np
import pytest
from transformers import T5Config

from hf_quant.errors import EvaluationError
from hf_quant.evaluation import TASKS
from hf_quant.evaluation.data import open_rows
from hf_quant.evaluation.models import ModelFacts, model_facts
from hf_quant.evaluation.perplexity import SEPARATOR, perplexity
from tests.evaluation.tiny import evaluated, task_model, task_rows, tiny_tokenizer

TEXTS = [row["text"] for row in task_rows("causal-lm")]


def features(texts=TEXTS, **options):
    facts = model_facts(task_model("causal-lm"), tiny_tokenizer())
    return TASKS["causal-lm"](**options).features(open_rows(texts), facts)


def test_bits_per_byte_count_the_text_that_the_scored_tokens_stand_for():
    text = SEPARATOR.join(TEXTS)
    (window,) = features([TEXTS[0]])
    assert window.notes.bytes == len(TEXTS[0].encode()) - len(TEXTS[0].split()[0])
    report = evaluated("causal-lm", max_length=64, stride=32)
    perplexed, bits = report.metric("perplexity").reference, report.metric("bits_per_byte").reference
    tokens = report.agreement.compared
    size = len(text.encode()) - len(TEXTS[0].split()[0])
    assert bits == pytest.approx(math.log2(perplexed) * tokens / size, rel=1e-6)


def test_letters_of_several_bytes_count_as_such():
    (window,) = features(["w1 naïve 北京 😀 w2"])
    assert window.notes.bytes == len(" naïve 北京 😀 w2".encode())


def test_texts_are_read_alone_on_request():
    report = evaluated("causal-lm", join=False)
    assert report.examples == 40
    assert report.agreement.compared == sum(len(text.split()) - 1 for text in TEXTS)
    losses = [
        math.log(perplexity(task_model("causal-lm"), tiny_tokenizer(), [text])) * (len(text.split()) - 1)
        for text in TEXTS
    ]
    expected = math.exp(sum(losses) / report.agreement.compared)
    assert report.metric("perplexity").reference == pytest.approx(expected, rel=1e-5)


def test_windows_of_one_text_are_one_example():
    long = " ".join(TEXTS)
    report = evaluated("causal-lm", rows=[long, long], join=False, max_length=32)
    assert report.examples == 2 and report.agreement.compared == 2 * (
        len(long.split()) - math.ceil(len(long.split()) / 32)
    )


def test_windows_are_begun_with_a_token_on_request():
    tokenizer = tiny_tokenizer()
    with pytest.raises(EvaluationError, match="leave out bos=True"):
        evaluated("causal-lm", tokenizer=tokenizer, bos=True)
    tokenizer.bos_token = "[CLS]"
    report = evaluated("causal-lm", tokenizer=tokenizer, bos=True, max_length=16)
    assert report.agreement.compared == sum(len(text.split()) for text in TEXTS)


def test_windows_are_begun_as_the_tokenizer_begins_texts_and_the_report_says_so():
    without, with_bos = tiny_tokenizer(), tiny_tokenizer()
    with_bos.bos_token = "[CLS]"  # which it puts before every text
    found = {bos: evaluated("causal-lm", tokenizer=with_bos, bos=bos, max_length=16) for bos in (None, True, False)}
    plain = evaluated("causal-lm", tokenizer=without, max_length=16)
    assert found[None].metrics == found[True].metrics and found[False].metrics == plain.metrics
    assert found[None].metrics != plain.metrics
    assert (found[None].options["bos"], found[False].options["bos"], plain.options["bos"]) == (True, False, False)
    for bos, report in found.items():
        value = perplexity(task_model("causal-lm"), with_bos, TEXTS, 16, bos=bos)
        assert report.metric("perplexity").reference == pytest.approx(value, rel=1e-5)


def test_a_bos_that_a_template_has_written_is_not_doubled():
    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = "[CLS]"
    tokenizer.chat_template = "{{ bos_token }} {% for m in messages %}{{ m['content'] }}{% endfor %}"
    rows = [{"messages": [{"role": "user", "content": text}]} for text in TEXTS[:2]]
    features = TASKS["causal-lm"](join=False, bos=True).features(
        open_rows(rows), model_facts(task_model("causal-lm"), tokenizer)
    )
    assert all(feature.sequences[0]["input_ids"].count(tokenizer.bos_token_id) == 1 for feature in features)


def test_few_windows_are_said_to_give_rough_intervals():
    assert evaluated("causal-lm").notes == ("intervals come from 4 windows, which is few: they are rough",)
    assert evaluated("causal-lm", max_length=8).notes == ()


def test_too_little_text_is_refused():
    with pytest.raises(EvaluationError, match="perplexity needs at least two tokens"):
        evaluated("causal-lm", rows=["w1"])


def test_an_encoder_decoder_is_refused():
    facts = ModelFacts(tiny_tokenizer(), T5Config(), None, 0)
    with pytest.raises(EvaluationError, match="causal-lm is for decoders"):
        TASKS["causal-lm"]().features(open_rows(TEXTS), facts)


def test_the_worst_window_is_shown_with_both_perplexities():
    worst = evaluated("causal-lm", max_length=16).worst[0]
    first, second = (float(said.removeprefix("perplexity ")) for said in (worst.reference, worst.quantized))
    assert worst.harm == pytest.approx(np.log(second / first), rel=1e-2)


def test_conversations_are_read_as_the_template_writes_them():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"
    rows = [{"messages": [{"role": "w1", "content": text}, {"role": "w2", "content": "w3"}]} for text in TEXTS]
    texts = [f"w1 {text} w2 w3 " for text in TEXTS]
    chats, written = (evaluated("causal-lm", rows=each, tokenizer=tokenizer) for each in (rows, texts))
    assert chats.metric("perplexity").reference == written.metric("perplexity").reference
    with pytest.raises(EvaluationError, match="chat_template"):
        evaluated("causal-lm", rows=rows)
