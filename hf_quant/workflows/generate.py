"""`hf_quant.generate_examples`: text of the model's own to train on, where there is no data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import GenerationConfig

from hf_quant.calibration.resume import Progress
from hf_quant.errors import ConfigError, TrainingError, UnsupportedModel
from hf_quant.evaluation.models import device_of
from hf_quant.modules.positions import most_tokens
from hf_quant.quantizing.fingerprint import weights_fingerprint

_IGNORED = -100
"""Label of tokens that are left out of the loss."""


def generate_examples(
    model: Any,
    tokenizer: Any,
    samples: int = 1024,
    sequence_length: int = 256,
    *,
    greedy_tokens: int = 4,
    temperature: float = 1.0,
    batch_size: int = 16,
    seed: int = 0,
    directory: str | Path | None = None,
    restart: bool = False,
    progress: bool = True,
) -> list[dict[str, list[int]]]:
    """Let a language model write what it can be trained on without data (LLM-QAT, Liu et al., arXiv:2305.17888).

    A sequence starts with a random token, goes on with the likeliest ones, which keep to what the model knows, and then
    with sampled ones, so that no two are alike. Best learned from with the float model as the teacher, whose logits
    say more than the tokens: ``QATCallback(..., teacher="self", distillation=Distillation(labels=0))``.

    Args:
        model: Model that generates, usually float.
        tokenizer: The model's tokenizer; its special tokens start no sequence.
        samples: Number of sequences.
        sequence_length: Tokens of each sequence. Tokens after the one that ends a text are masked, and have no labels.
        greedy_tokens: Number of greedily chosen tokens after the first; the paper takes 3 to 5.
        temperature: Temperature of the sampled tokens.
        batch_size: Sequences that are generated at once.
        seed: Seed of all random choices; on the same machine and threads it determines every token.
        directory: Directory to keep finished batches in, and to go on from; None: nothing is kept.
        restart: Throw away what the directory holds of another model or other settings.
        progress: Show a progress bar.

    Returns:
        Examples as Trainer takes them: ``input_ids``, ``attention_mask`` and ``labels``, all of one length.

    Raises:
        UnsupportedModel: The model does not generate.
        ConfigError: A number is out of range, or the directory holds other work.
        TrainingError: All tokens are special.
    """
    _check(model, samples, sequence_length, greedy_tokens, temperature, batch_size, seed)
    starts = _starts(model, tokenizer)
    kept = None
    if directory is not None:
        settings = f"{samples} {sequence_length} {greedy_tokens} {temperature} {batch_size} {seed}"
        facts = {"model": weights_fingerprint(model), "settings": settings, "tokens": str(len(starts))}
        kept = Progress(Path(directory), facts, restart)
    sizes = [min(batch_size, samples - start) for start in range(0, samples, batch_size)]
    found: list[dict[str, list[int]]] = []
    training = model.training
    model.eval()
    try:
        for index, size in enumerate(tqdm(sizes, desc="Generating", disable=not progress)):
            if kept is not None and index < kept.done:
                ids = kept.load(index)["input_ids"]
            else:
                ids = _batch(model, starts, size, sequence_length, greedy_tokens, temperature, seed + index)
                if kept is not None:
                    kept.save(index, {"input_ids": ids}, {})
            found += _examples(ids, model)
    finally:
        model.train(training)
    return found


@torch.inference_mode()
def _batch(
    model: Any, starts: Tensor, size: int, length: int, greedy_tokens: int, temperature: float, seed: int
) -> Tensor:
    """One batch of generated ids, int64 ``[size, length]`` on the CPU, filled up with the padding token."""
    devices = [device_of(model)] if device_of(model).type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        ids = starts[torch.randint(len(starts), (size, 1))].to(device_of(model))
        greedy = min(greedy_tokens, length - 1)
        if greedy:
            ids = _continued(model, ids, greedy, do_sample=False)
        if ids.shape[1] < length:
            ids = _continued(
                model, ids, length - ids.shape[1], do_sample=True, temperature=temperature, top_k=0, top_p=1.0
            )
    ids = ids.cpu()
    missing = length - ids.shape[1]
    return torch.nn.functional.pad(ids, (0, missing), value=_filler(model)) if missing else ids


def _continued(model: Any, ids: Tensor, tokens: int, **options: Any) -> Tensor:
    # Nothing of the checkpoint's own settings, such as a penalty for repeated tokens, shall bend what it writes.
    settings = GenerationConfig(
        max_new_tokens=tokens, use_cache=True, eos_token_id=_end(model), pad_token_id=_filler(model), **options
    )
    found: Tensor = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
    return found


def _examples(ids: Tensor, model: Any) -> Iterator[dict[str, list[int]]]:
    end = _end(model)
    ends = [end] if isinstance(end, int) else list(end or [])
    for row in ids.tolist():
        # The first token may be anything; the text is over with the first end after it.
        length = next((at + 1 for at, token in enumerate(row) if at and token in ends), len(row))
        mask = [int(at < length) for at in range(len(row))]
        labels = [token if counts else _IGNORED for token, counts in zip(row, mask, strict=True)]
        yield {"input_ids": row, "attention_mask": mask, "labels": labels}


def _starts(model: Any, tokenizer: Any) -> Tensor:
    """Token ids that may start a sequence, int64: all that the model has and that are not special."""
    special = set(tokenizer.all_special_ids)
    size = min(len(tokenizer), model.config.get_text_config().vocab_size)
    found = [token for token in range(size) if token not in special]
    if not found:
        raise TrainingError("the tokenizer has special tokens only: give the one that belongs to the model")
    return torch.tensor(found)


def _end(model: Any) -> Any:
    return model.generation_config.eos_token_id


def _filler(model: Any) -> int:
    end = _end(model)
    pad = model.generation_config.pad_token_id
    first = end if isinstance(end, int) else next(iter(end or []), 0)
    return first if pad is None else pad


def _check(model: Any, *numbers: Any) -> None:
    if not hasattr(model, "generate") or not getattr(model, "can_generate", lambda: False)():
        raise UnsupportedModel(
            f"a {type(model).__name__} writes no text: generate_examples is for causal language models; train others "
            "on texts of their task"
        )
    if model.config.is_encoder_decoder:
        raise UnsupportedModel("an encoder-decoder writes about what it reads: train it on texts of its task")
    names = ("samples", "sequence_length", "greedy_tokens", "temperature", "batch_size", "seed")
    least = (1, 2, 0, 0, 1, 0)
    for name, value, lowest in zip(names, numbers, least, strict=True):
        kinds = int | float if name == "temperature" else int
        if isinstance(value, bool) or not isinstance(value, kinds) or not lowest <= value < float("inf"):
            raise ConfigError(f"{name} of generate_examples is {value!r}: give a number from {lowest} on")
    if numbers[3] == 0:
        raise ConfigError("temperature of generate_examples is 0, which would sample nothing: give 1.0, or near it")
    positions = most_tokens(model)
    if positions is not None and numbers[1] > positions:
        raise ConfigError(f"sequence_length={numbers[1]} is more than the {positions} tokens that the model reads")
