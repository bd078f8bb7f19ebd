"""Random inputs of a model, made of what its config and its class say that it reads."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hf_quant.errors import EvaluationError
from hf_quant.evaluation.models import device_of

_ROWS, _LENGTH = 2, 16
_SAMPLES = 16000
"""Samples of a waveform: a second, as most models of speech read it."""

Inputs = dict[str, Tensor]


def run_on_random_inputs(model: Any, run: Callable[[Inputs], Any], seed: int = 0) -> tuple[Inputs, Any]:
    """Find random inputs that a model takes, and what `run` makes of them.

    The main input is `main_input_name` of the class; encoder-decoders also get ids for the decoder, and models that
    need texts and images together get both.

    Args:
        model: Transformers model.
        run: Calls the model with inputs by name.
        seed: Seed of the random numbers.

    Returns:
        The inputs, and the result of `run`.

    Raises:
        EvaluationError: The model takes none of the inputs that its config lets one think of.
    """
    first: Exception | None = None
    for inputs in _candidates(model, torch.Generator().manual_seed(seed)):
        try:
            return inputs, run(inputs)
        except Exception as error:  # models say in many ways that they need something else
            first = first or error
    name = type(model).__name__
    why = "" if first is None else f" (tried first: {type(first).__name__}: {str(first).strip().splitlines()[:1]})"
    raise EvaluationError(
        f"no inputs of {name} are known from its config: give inputs={{...}}, what {name} is called with{why}"
    ) from first


def _candidates(model: Any, generator: torch.Generator) -> Iterator[Inputs]:
    config, names = model.config, inspect.signature(model.forward).parameters
    device, dtype = device_of(model), model.dtype
    text = config.get_text_config()
    main = model.main_input_name if isinstance(model.main_input_name, str) else model.main_input_name[0]

    def made(name: str) -> list[Tensor]:
        if name.endswith("input_ids"):
            return [_ids(model, config if name == "input_ids" else text, generator).to(device)]
        makers = {"pixel_values": _images, "input_features": _features, "input_values": _sounds}
        shapes = makers[name](config) if name in makers else []
        return [torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes]

    extra = {}
    if config.is_encoder_decoder and main != "decoder_input_ids" and "decoder_input_ids" in names:
        extra["decoder_input_ids"] = made("decoder_input_ids")[0]
    for tensor in made(main):
        yield {main: tensor, **{name: ids[: len(tensor)] for name, ids in extra.items()}}
    for other in ("pixel_values", "input_ids", "input_features", "input_values"):
        if other != main and other in names:
            for tensor in made(other):
                yield {**dict(zip([main], made(main), strict=False)), other: tensor, **extra}


def _ids(model: nn.Module, config: Any, generator: torch.Generator) -> Tensor:
    text = config.get_text_config()
    size = next((s for c in (config, text) if isinstance(s := getattr(c, "vocab_size", None), int)), None)
    if size is None:
        try:
            size = model.get_input_embeddings().num_embeddings  # type: ignore[operator]
        except (AttributeError, NotImplementedError) as error:
            raise EvaluationError(
                f"the vocabulary of {type(model).__name__} is not known: give inputs={{...}}, what it is called with"
            ) from error
    # Special tokens mean something: padding that is left out, the place of an image.
    known = torch.tensor(sorted(set(range(size)) - set(_special(config.to_dict()))) or range(size))
    positions = getattr(text, "max_position_embeddings", None)
    length = max(1, min(_LENGTH, positions - 2)) if isinstance(positions, int) and positions > 0 else _LENGTH
    return known[torch.randint(len(known), (_ROWS, length), generator=generator)]


def _special(values: Mapping[str, Any]) -> Iterator[int]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _special(value)
        elif str(name).endswith(("token_id", "token_index", "token_ids")):
            yield from (each for each in (value if isinstance(value, list) else [value]) if isinstance(each, int))


def _images(config: Any) -> list[tuple[int, ...]]:
    size = _said(config, ("image_size", "img_size", "input_size"), 224)
    height, width = size if isinstance(size, list | tuple) else (size, size)
    channels = _said(config, ("num_channels", "in_channels", "in_chans"), 3)
    return [(1, channels, height, width)]


def _features(config: Any) -> list[tuple[int, ...]]:
    width = _said(config, ("num_mel_bins", "input_feat_per_channel", "feature_size", "feature_dim"), 80)
    frames = 2 * _said(config, ("max_source_positions",), 100)
    return [(1, width, frames), (1, 128, width)]


def _sounds(config: Any) -> list[tuple[int, ...]]:
    return [(1, _SAMPLES), (1, _said(config, ("max_length",), 1024), _said(config, ("num_mel_bins",), 128))]


def _said(config: Any, names: tuple[str, ...], default: Any) -> Any:
    """What a config, or one inside it, says under the first of `names` that it has."""
    parts = [config, *(p for k in getattr(config, "sub_configs", {}) if (p := getattr(config, k, None)) is not None)]
    return next((v for part in parts for name in names if (v := getattr(part, name, None)) is not None), default)
