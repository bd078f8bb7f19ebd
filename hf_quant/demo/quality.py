"""How good a model still is: topics by sentence encoders, labels by classifiers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def topic_accuracy(
    model: nn.Module,
    tokenizer: Any,
    train: Sequence[tuple[str, str]],
    test: Sequence[tuple[str, str]],
    batch_size: int = 32,
    max_length: int = 128,
) -> float:
    """Share of test texts whose embedding lies nearest to its own topic's centroid, 0 to 1.

    A topic's centroid is the L2-normalised mean of its `train` embeddings; nearest is by cosine.

    Args:
        model: an encoder (see `sentence_embeddings`).
        tokenizer: the model's tokenizer.
        train: ``(topic, text)`` pairs that make the centroids.
        test: ``(topic, text)`` pairs to classify; topics absent from `train` count as errors.
        batch_size: texts per forward pass.
        max_length: tokens of each text that are read.
    """
    if not train or not test:
        raise ValueError(f"need training and test texts, got {len(train)} and {len(test)}")
    known = sentence_embeddings(model, tokenizer, [text for _, text in train], batch_size, max_length)
    topics = sorted({topic for topic, _ in train})
    member = torch.tensor([[topic == one for topic, _ in train] for one in topics], dtype=known.dtype)
    centroids = functional.normalize(member @ known, dim=1)
    asked = sentence_embeddings(model, tokenizer, [text for _, text in test], batch_size, max_length)
    nearest = (asked @ centroids.T).argmax(dim=1).tolist()
    right = sum(topics[choice] == topic for choice, (topic, _) in zip(nearest, test, strict=True))
    return right / len(test)


@torch.inference_mode()
def label_accuracy(
    model: nn.Module, tokenizer: Any, test: Sequence[tuple[str, str]], batch_size: int = 32, max_length: int = 128
) -> float:
    """Share of test texts that a classifier gives the right label, 0 to 1.

    Args:
        model: a sequence classifier whose ``config.id2label`` names the labels.
        tokenizer: the model's tokenizer.
        test: ``(label, text)`` pairs; labels that the model does not have count as errors.
        batch_size: texts per forward pass.
        max_length: tokens of each text that are read.
    """
    if not test:
        raise ValueError("accuracy needs at least one text")
    names: dict[int, str] = model.config.id2label  # type: ignore[union-attr, assignment]
    right = 0
    with _evaluating(model):
        for chosen in _by_length([text for _, text in test], batch_size):
            texts = [test[index][1] for index in chosen]
            logits = model(**_encoded(tokenizer, texts, max_length).to(_device(model))).logits
            guesses = logits.argmax(dim=-1).tolist()
            right += sum(names[guess] == test[index][0] for guess, index in zip(guesses, chosen, strict=True))
    return right / len(test)


@torch.inference_mode()
def sentence_embeddings(
    model: nn.Module, tokenizer: Any, texts: Sequence[str], batch_size: int = 32, max_length: int = 128
) -> Tensor:
    """Sentence embeddings: the encoder's last hidden state, mean over each text's tokens, L2-normalised.

    float32 ``[texts, hidden]`` on the CPU, in the order of `texts`; padding does not count.
    """
    found: dict[int, Tensor] = {}
    with _evaluating(model):
        for chosen in _by_length(texts, batch_size):
            batch = _encoded(tokenizer, [texts[index] for index in chosen], max_length).to(_device(model))
            hidden = model(**batch).last_hidden_state.float()
            mask = batch["attention_mask"][..., None].to(hidden.dtype)
            pooled = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
            found.update(zip(chosen, functional.normalize(pooled, dim=1).cpu(), strict=True))
    return torch.stack([found[index] for index in range(len(texts))])


def _by_length(texts: Sequence[str], batch_size: int) -> Iterator[list[int]]:
    """Batches of indices: similar lengths together, so that little of a batch is padding."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def _encoded(tokenizer: Any, texts: list[str], max_length: int) -> Any:
    return tokenizer(texts, padding=True, truncation=True, max_length=max_length, return_tensors="pt")


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Context in which the model is in evaluation mode; its mode is restored after it."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
