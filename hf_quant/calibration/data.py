"""Data to calibrate on: batches from texts, datasets or loaders, the same ones every time."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from hf_quant.calibration.rows import Row, examples, is_batch, rows
from hf_quant.calibration.samples import is_sample, samples, stacked
from hf_quant.calibration.sequences import packed, padded, truncated
from hf_quant.data.bos import without_bos
from hf_quant.data.chat import chat_text, is_chat
from hf_quant.errors import CalibrationError, ConfigError
from hf_quant.modules.positions import most_tokens

logger = logging.getLogger(__name__)

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class Calibration:
    """What to run a model on while it is observed.

    Items that can be looked up, as in lists and a `datasets.Dataset`, are shuffled by `seed`; those of loaders and
    other iterables come in their own order. They are read once, when batches are first asked for, and no further than
    needed.

    Args:
        dataset: A `datasets.Dataset`, a `DataLoader` or iterable of dicts of tensors, a list of texts, a list of token
            ids (tensors or lists); for models that read images or sound, dicts with ``pixel_values``, ``input_values``
            or ``input_features`` and whatever goes with them, as a processor makes them, and for tokens of several
            codebooks dicts with ``input_ids`` ``[batch, codebooks, tokens]``; or a file, folder or
            dataset's id, as `hf_quant.data.files.open_data` takes them, such as a ``.txt`` file, whose texts are
            separated by blank lines. Conversations, in columns such as ``messages``, go through the tokenizer's chat
            template.
        tokenizer: Tokenizer of the model, which texts need.
        samples: Sequences to use, over all processes.
        sequence_length: Most tokens of a sequence; no more are taken than the model has positions for.
        seed: Seed of the order that items are taken in.
        text_column: Name of the column of texts. None: ``input_ids`` if there are any; else the column ``text``,
            ``sentence`` or ``content``, the one of conversations, or the only one that holds strings.
        preprocess: Function that is called with each item first and returns a text, token ids, or a dict with either.
        batch_size: Sequences in a batch.
        packing: True: texts are joined, with the end-of-sequence token between, and cut to `sequence_length`. False:
            one sequence a text, cut and padded. None: True for models that generate text from left to right, False for
            encoders, classifiers and data that come in batches.
        rank: Number of this process, from 0; see `shard`.
        world: Number of processes.

    Raises:
        ConfigError: A number is out of range.
    """

    dataset: Any
    tokenizer: Any = None
    samples: int = 128
    sequence_length: int = 512
    seed: int = 0
    text_column: str | None = None
    preprocess: Callable[[Any], Any] | None = None
    batch_size: int = 8
    packing: bool | None = None
    rank: int = 0
    world: int = 1
    _made: dict[tuple[Any, ...], list[Row]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("samples", "sequence_length", "batch_size", "world"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name} must be a positive integer, not {value!r}")
        if not 0 <= self.rank < self.world:
            raise ConfigError(f"rank must be from 0 to {self.world - 1}, not {self.rank}")

    def __deepcopy__(self, memo: dict[int, Any]) -> Calibration:
        # Transformers copies configs; data is only read, may be large, and generators cannot be copied at all.
        return self

    def shard(self, rank: int, world: int) -> Calibration:
        """The part that process `rank` of `world` runs: every `world`-th sequence. The dataset must be alike in all."""
        return replace(self, rank=rank, world=world)

    def batches(self, model: PreTrainedModel | PretrainedConfig) -> list[Batch]:
        """Batches of int64 ``[batch, tokens]``: ``input_ids``, ``attention_mask``, ``token_type_ids`` if there are any.

        Of images and sound all that goes with them, floats in the model's dtype. Empty for a process that is left
        without a sequence.

        Args:
            model: Model that is calibrated, or its config.

        Raises:
            CalibrationError: The dataset is empty, too short for one packed sequence, or of no known kind; a tokenizer
                or text column is missing; tokens are not in the model's vocabulary.
        """
        sequences = self._sequences(model)[self.rank :: self.world]
        if sequences and is_sample(sequences[0]):
            return stacked(sequences, self.batch_size, getattr(model, "dtype", None))
        pad = _pad(self.tokenizer, _config(model).get_text_config())
        starts = range(0, len(sequences), self.batch_size)
        return [padded(sequences[start : start + self.batch_size], pad) for start in starts]

    def fingerprint(self, model: PreTrainedModel | PretrainedConfig | None = None) -> str:
        """SHA-256, in hexadecimal, of the numbers of all processes' batches and of the parameters, not of the objects.

        Args:
            model: Model or its config; None: the one that batches were last made for.

        Raises:
            CalibrationError: As for `batches`, or None was given and there is no such model.
        """
        if model is None and not self._made:
            raise CalibrationError("no batches were made yet: call fingerprint(model), or batches first")
        sequences = list(self._made.values())[-1] if model is None else self._sequences(model)
        names = ("samples", "sequence_length", "seed", "batch_size", "packing")
        digest = hashlib.sha256(json.dumps({name: getattr(self, name) for name in names}).encode())
        for sequence in sequences:
            for name, tensor in sorted(sequence.items()):
                digest.update(f"{name}{len(tensor)}".encode() + tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _sequences(self, model: PreTrainedModel | PretrainedConfig) -> list[Row]:
        """Sequences of all processes, kept for the next time: loaders may shuffle, and generators end."""
        text_config = _config(model).get_text_config()
        length = min(self.sequence_length, most_tokens(model) or self.sequence_length)
        key = (
            generates(_config(model)),
            length,
            _end(self.tokenizer, text_config),
            getattr(text_config, "vocab_size", None),
        )
        if key not in self._made:
            if length < self.sequence_length:
                wanted = self.sequence_length
                logger.warning("sequences of %d tokens, not %d: the model has no more positions", length, wanted)
            self._made[key] = self._read(*key)
        self._made[key] = self._made.pop(key)  # the latest is last
        return self._made[key]

    def _read(self, generating: bool, length: int, end: int | None, vocabulary: int | None) -> list[Row]:
        items = examples(self.dataset, self.seed)
        if self.preprocess is not None:
            items = map(self.preprocess, items)
        first = list(next(([item] for item in items), []))
        if any(map(is_sample, first)):
            if not (found := samples(chain(first, items), self.samples)):
                raise CalibrationError("the dataset is empty: its batches hold no samples")
            return found
        packing = self.packing if self.packing is not None else generating and not any(map(is_batch, first))
        options = {"verbose": False} if packing else {"truncation": True, "max_length": length}
        tokenizer = self.tokenizer

        def encode(text: Any) -> Any:
            if is_chat(text):  # its template writes special tokens
                return tokenizer(chat_text(text, tokenizer), add_special_tokens=False, **options)
            return tokenizer(without_bos(text, tokenizer), **options)

        encoder = None if tokenizer is None else encode
        texts = (row for item in chain(first, items) for row in rows(item, encoder, self.text_column))
        if packing:
            sequences, tokens = packed(texts, length, self.samples, end)
            if tokens and not sequences:
                raise CalibrationError(
                    f"the dataset has {tokens} tokens, a packed sequence takes {length}: pass more text, a smaller "
                    "sequence_length, or packing=False"
                )
        else:
            sequences = truncated(texts, length, self.samples)
        if not sequences:
            raise CalibrationError(
                "the dataset is empty: pass texts or token ids, and no generator that was read before"
            )
        if vocabulary is not None:
            _check_vocabulary(sequences, vocabulary)
        if len(sequences) < self.samples:
            logger.warning("calibrating on %d sequences: the dataset has no more, not %d", len(sequences), self.samples)
        return sequences


def _config(model: PreTrainedModel | PretrainedConfig) -> PretrainedConfig:
    found: PretrainedConfig = getattr(model, "config", model)
    return found


def generates(model_config: PretrainedConfig) -> bool:
    """Whether the model generates text from left to right, and so takes packed texts."""
    architectures = model_config.architectures or []
    if any("Classification" in name for name in architectures) or model_config.is_encoder_decoder:
        return False
    # Encoders such as BERT have a causal variant in the mapping as well; it says is_decoder.
    kind = model_config.get_text_config().model_type
    is_causal = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return is_causal or bool(getattr(model_config, "is_decoder", False))


def _end(tokenizer: Any, text_config: PretrainedConfig) -> int | None:
    """The token that ends a text."""
    tokens = [getattr(source, "eos_token_id", None) for source in (tokenizer, text_config)]
    token = next((token for token in tokens if token is not None), None)
    return token[0] if isinstance(token, list) else token


def _pad(tokenizer: Any, text_config: PretrainedConfig) -> int:
    """A token to fill up with, one that the embedding has: a tokenizer's may have been added without a row for it."""
    tokens = [getattr(source, "pad_token_id", None) for source in (tokenizer, text_config)]
    vocabulary = getattr(text_config, "vocab_size", None) or 1
    return next((token for token in tokens if token is not None and 0 <= token < vocabulary), 0)


def _check_vocabulary(sequences: list[Row], vocabulary: int) -> None:
    tokens = torch.cat([sequence["input_ids"] for sequence in sequences])
    bad = tokens[(tokens < 0) | (tokens >= vocabulary)]
    if len(bad):
        raise CalibrationError(
            f"token {int(bad[0])} is not in the model's vocabulary of {vocabulary}: tokenize with the model's own "
            "tokenizer (and mask, not mark, what is padding)"
        )
