"""Models whose head is written apart from the embedding that it is tied to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedConfig

from hf_quant.errors import EvaluationError, ExportError
from hf_quant.export.comparing import in_one_dtype, main_output, sample
from hf_quant.export.config import configs_in

_SAID = "tie_word_embeddings"


def untie(config: Any) -> None:
    """Let a config, and all inside it, say that no weights are tied; in place."""
    for each in configs_in(config):
        if hasattr(each, _SAID):
            setattr(each, _SAID, False)


@torch.no_grad()
def check_untied(model: Any) -> None:
    """Raise ExportError if a model computes otherwise where its config says that no weights are tied, as T5 may."""
    try:
        inputs, expected = sample(model)
    except EvaluationError:
        return  # what it reads is not known
    with in_one_dtype(model), _untied(model) as can_be_said:
        found = main_output(model(**inputs)).float()
    if not (can_be_said and torch.equal(found, expected)):
        raise ExportError(
            f"{type(model).__name__} computes something else where its head is not tied to the embedding, as it would "
            "have to be here: keep both float (modules_to_not_convert)"
        )


@contextmanager
def _untied(model: Any) -> Iterator[bool]:
    """Whether files can say that nothing is tied, as those of T5 cannot; meanwhile the configs of a model do."""
    held = {id(each): each for module in model.modules() for each in _configs_of(module)}
    before = [(each, dict(vars(each))) for each in held.values() if hasattr(each, _SAID)]
    for config, _ in before:
        vars(config).update(_changed(config))
    try:
        yield not any(getattr(config, _SAID) for config, _ in before)
    finally:
        for config, values in before:
            vars(config).update(values)


def _changed(config: Any) -> dict[str, Any]:
    """What a config says otherwise once it is read from a file in which nothing is tied; some derive more from that."""
    again = vars(type(config).from_dict({**config.to_dict(), _SAID: False}))
    own = vars(config)
    return {
        name: value
        for name, value in again.items()
        if name in own
        and not name.startswith("_")
        and isinstance(value, bool | int | float | str | None)
        and value != own[name]
    }


def _configs_of(module: Any) -> Iterator[Any]:
    config = getattr(module, "config", None)
    if isinstance(config, PreTrainedConfig):
        yield from configs_in(config)
