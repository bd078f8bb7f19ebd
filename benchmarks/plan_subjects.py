"""Data that plans are searched and tested with."""

from __future__ import annotations

import math
from typing import Any

import torch

from benchmarks.calibrated_subjects import SUBJECTS
from benchmarks.train_sentiment import examples
from hf_quant.demo.texts import download_review_archive, news_split, review_sentences, review_split
from hf_quant.evaluation.perplexity import perplexity
from hf_quant.modules.positions import most_tokens

_LENGTH = 256


def batches_of(model: str, tokenizer: Any, samples: int) -> list[dict[str, torch.Tensor]]:
    """Sequences of training texts; of the classifier with labels, and eight times as many, since they are short."""
    if model == "sentiment":
        sentences = review_split(review_sentences(download_review_archive()))[0]
        chosen = sentences[:: max(1, len(sentences) // (8 * samples))][: 8 * samples]
        rows = examples(tokenizer, chosen)
        return [
            {name: torch.tensor([value]) for name, value in row.items() if name != "token_type_ids"} for row in rows
        ]
    data = SUBJECTS[model].calibration(tokenizer, samples, _LENGTH)
    return list(data.batches(SUBJECTS[model].load()[0].config))


@torch.inference_mode()
def nats(model: str, network: Any, tokenizer: Any, articles: int) -> float:
    """Loss on test texts: of a token for language models, of a sentence for the classifier."""
    if model != "sentiment":
        texts = [text for _, text in news_split()[1][:articles]]
        return math.log(perplexity(network, tokenizer, texts, min(512, most_tokens(network) or 512)))
    network.eval()
    rows = review_split(review_sentences(download_review_archive()))[2]
    total = 0.0
    for start in range(0, len(rows), 64):
        part = rows[start : start + 64]
        batch = tokenizer([text for _, text in part], truncation=True, max_length=64, padding=True)
        labels = torch.tensor([network.config.label2id[label] for label, _ in part])
        logits = network(**batch.convert_to_tensors("pt")).logits
        total += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
    return total / len(rows)
