"""The two models that are compared, and whether they can be."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hf_quant.errors import EvaluationError
from hf_quant.modules.positions import most_tokens


@dataclass(frozen=True)
class ModelFacts:
    """Facts about two models that tasks need.

    Args:
        tokenizer: Tokenizer of both models.
        config: Config of the reference.
        positions: Most tokens of a sequence that the models read; None if there is no limit.
        pad: Id of the padding token; None if there is none, so that only sequences of one length run together.
    """

    tokenizer: Any
    config: Any
    positions: int | None
    pad: int | None

    @property
    def vocabulary(self) -> int:
        """Number of tokens in the vocabulary: rows of the embedding."""
        return int(self.config.get_text_config().vocab_size)

    def length(self, max_length: int | None) -> int | None:
        """Most tokens of a sequence: `max_length`, or else as many as the models read; None for no limit.

        Raises:
            EvaluationError: `max_length` is more than the model reads.
        """
        if max_length is not None and self.positions is not None and max_length > self.positions:
            raise EvaluationError(
                f"max_length={max_length} is more than the {self.positions} tokens that the model reads: give "
                f"max_length={self.positions} or less"
            )
        return max_length if max_length is not None else self.positions


@dataclass
class ModelPair:
    """Two models that run on the same batches.

    Args:
        reference: The reference model.
        quantized: The quantized model.
        seconds: Seconds spent in forward passes of the reference, and of the quantized model.
    """

    reference: nn.Module
    quantized: nn.Module
    seconds: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def __call__(self, tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> tuple[Any, Any]:
        """Outputs of both models, called with `tensors`, moved to their devices, and `options`."""
        return self.run(0, tensors, options), self.run(1, tensors, options)

    def run(self, index: int, tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> Any:
        """Outputs of one model: the reference for index 0, the quantized model for 1."""
        model = (self.reference, self.quantized)[index]
        device = device_of(model)
        inputs = {name: tensor.to(device) for name, tensor in tensors.items()}
        start = time.perf_counter()
        outputs = model(**inputs, **options)
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        self.seconds[index] += time.perf_counter() - start
        return outputs


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Context without dropout and gradients; the models' modes are restored after it."""
    modes = [model.training for model in models]
    for model in models:
        model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for model, mode in zip(models, modes, strict=True):
            model.train(mode)


def device_of(model: nn.Module) -> torch.device:
    """The device that a model's inputs go to: that of its first weight that is not on disk."""
    return next((each.device for each in model.parameters() if each.device.type != "meta"), torch.device("cpu"))


def model_facts(model: nn.Module, tokenizer: Any) -> ModelFacts:
    """Facts about a Transformers model and its tokenizer.

    Raises:
        EvaluationError: The model is no Transformers model of text, or there is no tokenizer.
    """
    config = getattr(model, "config", None)
    if config is None:
        raise EvaluationError(
            f"{type(model).__name__} has no config: pass models of Transformers, or their directories"
        )
    if tokenizer is None:
        raise EvaluationError(
            "there is no tokenizer beside the models: pass tokenizer=AutoTokenizer.from_pretrained(...)"
        )
    text = config.get_text_config()
    if getattr(text, "vocab_size", None) is None:
        raise EvaluationError(f"{type(model).__name__} reads no tokens: tasks are for models of text")
    # The model's own first: classifiers on decoders look for it to find a text's last token.
    pads = (getattr(source, "pad_token_id", None) for source in (text, tokenizer))
    # A tokenizer's token may have been added without a row for it in the embedding.
    pad = next((pad for pad in pads if pad is not None and 0 <= pad < text.vocab_size), None)
    return ModelFacts(tokenizer, config, most_tokens(model), pad)
