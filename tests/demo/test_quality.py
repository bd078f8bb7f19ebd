"""Perplexity and topic accuracy agree with slow, obvious computations."""

import math

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

from hf_quant.demo.quality import label_accuracy, sentence_embeddings, topic_accuracy
from hf_quant.evaluation.perplexity import perplexity

WORDS = ["<pad>", "a", "b", "c", "d", "e", "f", "g"]
TEXTS = ["a b c d e f g", "g g a c", "b d f a c e g b"]  # 19 tokens


@pytest.fixture
def tokenizer():
    """One token per word; any white space separates."""
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", unk_token="<pad>")


@pytest.fixture
def language_model():
    torch.manual_seed(0)
    shape = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "initializer_range": 0.5}
    config = GPT2Config(vocab_size=len(WORDS), bos_token_id=0, eos_token_id=0, pad_token_id=0, **shape)
    return GPT2LMHeadModel(config).eval()


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return BertModel(
        BertConfig(vocab_size=len(WORDS), max_position_embeddings=32, initializer_range=0.5, **shape)
    ).eval()


def log_probability(model, context, token):
    """Of `token` after `context`, from a forward pass over the context alone."""
    with torch.inference_mode():
        return model(torch.tensor([context])).logits[0, -1].double().log_softmax(-1)[token].item()


def tokens_of(texts):
    return [WORDS.index(word) for text in texts for word in text.split()]


@pytest.mark.parametrize("length", [2, 5, 6, 19, 30])
def test_perplexity_scores_every_token_with_context_in_its_window(language_model, tokenizer, length):
    tokens = tokens_of(TEXTS)
    scores = [
        log_probability(language_model, tokens[position - position % length : position], tokens[position])
        for position in range(len(tokens))
        if position % length
    ]
    expected = math.exp(-sum(scores) / len(scores))
    assert perplexity(language_model, tokenizer, TEXTS, sequence_length=length) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("length", "stride"), [(6, 2), (6, 5), (7, 1), (19, 3), (30, 4)])
def test_strided_perplexity_scores_each_token_in_the_first_window_that_reaches_it(
    language_model, tokenizer, length, stride
):
    tokens = tokens_of(TEXTS)
    scores = []
    for position in range(1, len(tokens)):
        start = next(start for start in range(0, len(tokens), stride) if position < start + length)
        scores.append(log_probability(language_model, tokens[start:position], tokens[position]))
    expected = math.exp(-sum(scores) / len(scores))
    found = perplexity(language_model, tokenizer, TEXTS, sequence_length=length, stride=stride)
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_model_that_knows_nothing_is_as_perplexed_as_its_vocabulary_is_large(language_model, tokenizer):
    torch.nn.init.zeros_(language_model.lm_head.weight)
    assert perplexity(language_model, tokenizer, TEXTS) == pytest.approx(len(WORDS))


def test_measuring_switches_dropout_off_and_restores_the_mode(language_model, tokenizer):
    expected = perplexity(language_model, tokenizer, TEXTS)
    language_model.train()
    assert perplexity(language_model, tokenizer, TEXTS) == expected
    assert language_model.training


def test_the_progress_bar_does_not_change_the_figure(language_model, tokenizer, capsys):
    quiet = perplexity(language_model, tokenizer, TEXTS, sequence_length=4)
    assert capsys.readouterr().err == ""
    assert perplexity(language_model, tokenizer, TEXTS, sequence_length=4, progress=True) == quiet
    assert "5/5" in capsys.readouterr().err


@pytest.mark.parametrize("window", [{"sequence_length": 1}, {"stride": 0}, {"sequence_length": 4, "stride": 5}])
def test_windows_that_skip_tokens_are_refused(language_model, tokenizer, window):
    with pytest.raises(ValueError, match="stride"):
        perplexity(language_model, tokenizer, TEXTS, **window)


@pytest.mark.parametrize("texts", [[], [""], ["a"]])
def test_too_little_text_is_refused(language_model, tokenizer, texts):
    with pytest.raises(ValueError, match="at least two tokens"):
        perplexity(language_model, tokenizer, texts)


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_embeddings_ignore_padding_and_keep_the_order(encoder, tokenizer, batch_size):
    with torch.inference_mode():
        means = [encoder(torch.tensor([tokens_of([text])])).last_hidden_state[0].mean(dim=0) for text in TEXTS]
    expected = torch.stack([mean / mean.norm() for mean in means])
    torch.testing.assert_close(sentence_embeddings(encoder, tokenizer, TEXTS, batch_size), expected)


def test_embeddings_read_only_the_first_tokens(encoder, tokenizer):
    cut = sentence_embeddings(encoder, tokenizer, ["a b c d e"], max_length=3)
    torch.testing.assert_close(cut, sentence_embeddings(encoder, tokenizer, ["a b c"]))


def test_topic_accuracy_counts_texts_nearest_their_own_centroid(encoder, tokenizer):
    train = [("x", "a b c"), ("x", "b c d d"), ("y", "e f g"), ("y", "g f"), ("z", "a g a g a"), ("z", "a a g")]
    test = [("x", "a c"), ("y", "f e"), ("z", "g a g"), ("x", "d e f"), ("y", "a b"), ("absent", "c c c")]
    vectors = {text: sentence_embeddings(encoder, tokenizer, [text])[0] for _, text in train + test}

    def similarity(topic, text):
        members = [vectors[other] for its_topic, other in train if its_topic == topic]
        return torch.cosine_similarity(vectors[text], sum(members) / len(members), dim=0).item()

    right = [max("xyz", key=lambda topic: similarity(topic, text)) == its_topic for its_topic, text in test]
    assert 0 < sum(right) < len(right)
    assert topic_accuracy(encoder, tokenizer, train, test, batch_size=4) == sum(right) / len(right)


def test_label_accuracy_counts_texts_that_get_their_label(tokenizer):
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    names = {0: "x", 1: "y", 2: "z"}
    config = BertConfig(vocab_size=len(WORDS), initializer_range=0.5, num_labels=3, id2label=names, **shape)
    classifier = BertForSequenceClassification(config)
    texts = [*TEXTS, "a b", "c", "d d f", "g"]
    with torch.inference_mode():
        guesses = [names[classifier.eval()(torch.tensor([tokens_of([text])])).logits.argmax().item()] for text in texts]
    labels = [guess if index % 3 else "absent" for index, guess in enumerate(guesses)]
    test = list(zip(labels, texts, strict=True))
    classifier.train()
    assert len(set(guesses)) > 1
    assert label_accuracy(classifier, tokenizer, test, batch_size=2) == 4 / 7
    assert classifier.training


def test_accuracy_without_texts_is_refused(encoder, tokenizer):
    with pytest.raises(ValueError, match="need training and test texts"):
        topic_accuracy(encoder, tokenizer, [("x", "a")], [])
    with pytest.raises(ValueError, match="at least one text"):
        label_accuracy(encoder, tokenizer, [])
