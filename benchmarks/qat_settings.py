"""What the table of trained quantization compares: models to train, schemes down, and ways to get there across."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DataCollatorForLanguageModeling, DataCollatorWithPadding

from benchmarks.calibrated_methods import METHODS, NEAREST
from benchmarks.calibrated_subjects import SUBJECTS
from benchmarks.train_sentiment import examples
from hf_quant import Calibration, HfQuantConfig, Recipe
from hf_quant.demo.texts import download_review_archive, news_split, review_sentences, review_split
from hf_quant.modules.positions import most_tokens

FLOAT, TRAINED_FLOAT, PTQ, QAT, DISTILLED = "fp32", "fp32, trained on", "PTQ", "QAT", "QAT + distillation"
CONTINUED = "PTQ, then QAT"
TRAINED = (QAT, DISTILLED, CONTINUED)
COLUMNS = (FLOAT, TRAINED_FLOAT, NEAREST, PTQ, *TRAINED)
"""``fp32, trained on`` has as many more steps as QAT, so that what only more training gives is told apart."""


def _scheme(bits: int, group_size: int | None) -> dict[str, Any]:
    weight: dict[str, Any] = {"bits": bits, "symmetric": False}
    tokens: dict[str, Any] = {"bits": 8, "symmetric": False, "granularity": "token", "dynamic": True}
    if group_size is not None:
        weight |= {"granularity": "group", "group_size": group_size}
        tokens |= {"symmetric": True, "granularity": "group", "group_size": group_size}
    return {"scheme": {"weight": weight, "input": tokens}}


SETTINGS: dict[str, dict[str, Any]] = {
    "W8A8": {"preset": "int8"},
    "W4A8 g128": _scheme(4, 128),
    "W4A8 per channel": _scheme(4, None),
    "W3A8 per channel": _scheme(3, None),
    "W2A8 g64": _scheme(2, 64),
}
"""What linears are quantized to; embeddings and heads are INT8 per row."""

_BEST_PTQ = {"transforms": ["awq"], "solver": {"gptq": {"grid": "mse"}}}


@dataclass(frozen=True)
class Task:
    """A model that is trained on.

    Args:
        examples: Tokenizer to training examples, none of which is measured on.
        collator: Tokenizer to what makes batches of them.
        batch_size: Examples of a step.
        learning_rate: First one; it falls linearly to zero.
    """

    examples: Callable[[Any], list[dict[str, Any]]]
    collator: Callable[[Any], Any]
    batch_size: int
    learning_rate: float


def _reviews(tokenizer: Any) -> list[dict[str, Any]]:
    return examples(tokenizer, review_split(review_sentences(download_review_archive()))[0])


def _windows(tokenizer: Any) -> list[dict[str, Any]]:
    stream: Sequence[int] = tokenizer("\n\n".join(text for _, text in news_split()[0]), verbose=False)["input_ids"]
    return [{"input_ids": list(stream[start : start + 256])} for start in range(0, len(stream) - 255, 256)]


def _language_collator(tokenizer: Any) -> Any:
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return DataCollatorForLanguageModeling(tokenizer, mlm=False)


TASKS = {
    "sentiment": Task(_reviews, DataCollatorWithPadding, 32, 2e-5),
    "gpt2": Task(_windows, _language_collator, 8, 2e-4),
    "smollm2": Task(_windows, _language_collator, 4, 1e-4),
}
"""The models of `calibrated_subjects.SUBJECTS`."""


def config_for(model: str, setting: str, method: str, tokenizer: Any, samples: int | None) -> HfQuantConfig:
    """What `method` quantizes to; with data where it takes any.

    Args:
        model: A name of `TASKS`.
        setting: A name of `SETTINGS`.
        method: One of `COLUMNS`, not float.
        tokenizer: Of the model.
        samples: Sequences to calibrate on; None for the model's own number.
    """
    if method not in (PTQ, CONTINUED):
        return HfQuantConfig(recipe=Recipe.from_dict({**SETTINGS[setting], **METHODS[NEAREST]}))
    subject = SUBJECTS[model]
    data = Calibration(
        subject.texts(), tokenizer, samples=samples or subject.samples, sequence_length=subject.sequence_length
    )
    return HfQuantConfig(recipe=Recipe.from_dict({**SETTINGS[setting], **_BEST_PTQ}), calibration=data)


def plain_config(setting: str) -> HfQuantConfig:
    """A config without a recipe, as `QATCallback` takes it."""
    chosen = SETTINGS[setting]
    if "preset" in chosen:
        return HfQuantConfig(chosen["preset"])
    return HfQuantConfig(scheme=Recipe.from_dict(chosen).scheme)


@torch.inference_mode()
def measured(model: Any, tokenizer: Any, name: str, articles: int) -> list[list[float]]:
    """Of each test sentence ``[right, 1]``, of each test article ``[sum of nats, tokens]``."""
    model.eval()
    if name == "sentiment":
        labelled = review_split(review_sentences(download_review_archive()))[2]
        found = []
        for start in range(0, len(labelled), 64):
            part = labelled[start : start + 64]
            batch = tokenizer([text for _, text in part], truncation=True, max_length=64, padding=True)
            logits = model(**batch.convert_to_tensors("pt")).logits
            guesses = [model.config.id2label[index] for index in logits.argmax(-1).tolist()]
            found += [[int(guess == label), 1] for guess, (label, _) in zip(guesses, part, strict=True)]
        return found
    found = []
    for _, text in news_split()[1][:articles]:
        ids = torch.tensor([tokenizer(text, verbose=False)["input_ids"][: most_tokens(model)]])
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
        nats = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum")
        found.append([nats.item(), float(ids.shape[1] - 1)])
    return found
