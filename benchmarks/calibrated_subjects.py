"""Real models that calibrated quantization is measured on: what they are calibrated on, and how good they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from hf_quant import Calibration
from hf_quant.demo.packaged import gpt2_directory, sentiment_directory, smollm2_directory
from hf_quant.demo.quality import label_accuracy
from hf_quant.demo.texts import download_review_archive, news_split, review_sentences, review_split
from hf_quant.evaluation.perplexity import perplexity
from hf_quant.modules.positions import most_tokens


@dataclass(frozen=True)
class Subject:
    """A model with its task.

    Args:
        directory: Gives the checkpoint's folder.
        auto_class: That loads it.
        texts: Gives the texts to calibrate on, none of which it is measured on.
        metric: What `quality` is called.
        quality: Of a model, its tokenizer and the number of articles to take, where it takes articles.
        samples: Sequences to calibrate on, unless told otherwise.
        sequence_length: Most tokens of a sequence, unless told otherwise.
    """

    directory: Callable[[], Path]
    auto_class: Any
    texts: Callable[[], list[str]]
    metric: str
    quality: Callable[[Any, Any, int], float]
    samples: int
    sequence_length: int

    def load(self) -> tuple[Any, Any]:
        """The float model and its tokenizer."""
        folder = self.directory()
        return self.auto_class.from_pretrained(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(folder)

    def calibration(self, tokenizer: Any, samples: int, sequence_length: int) -> Calibration:
        """Data to calibrate on; longer texts are packed for decoders, and cut for encoders."""
        return Calibration(self.texts(), tokenizer, samples=samples, sequence_length=sequence_length)


def news_to_calibrate_on() -> list[str]:
    return [text for _, text in news_split()[0]]


def news_perplexity(model: Any, tokenizer: Any, articles: int) -> float:
    """On test articles, in windows of at most 512 tokens."""
    texts = [text for _, text in news_split()[1][:articles]]
    return perplexity(model, tokenizer, texts, min(512, most_tokens(model) or 512))


def reviews_to_calibrate_on() -> list[str]:
    return [text for _, text in review_split(review_sentences(download_review_archive()))[0]]


def review_accuracy(model: Any, tokenizer: Any, articles: int) -> float:
    """On all test sentences."""
    return label_accuracy(model, tokenizer, review_split(review_sentences(download_review_archive()))[2], max_length=64)


SUBJECTS = {
    "smollm2": Subject(
        smollm2_directory,
        AutoModelForCausalLM,
        news_to_calibrate_on,
        "perplexity",
        news_perplexity,
        samples=32,
        sequence_length=512,
    ),
    "sentiment": Subject(
        sentiment_directory,
        AutoModelForSequenceClassification,
        reviews_to_calibrate_on,
        "accuracy",
        review_accuracy,
        samples=256,
        sequence_length=64,
    ),
    "gpt2": Subject(
        gpt2_directory,
        AutoModelForCausalLM,
        news_to_calibrate_on,
        "perplexity",
        news_perplexity,
        samples=128,
        sequence_length=256,
    ),
}
"""SmolLM2-135M is moved off its 4-bit grid; benchmarks/train_sentiment.py and train_gpt2.py make the other two."""
