"""Inputs for a model of any kind, found by what its class asks for, or caught where a larger model calls it.

First what `hf_quant.check` would think of. Then parameters of `forward` one by one: those without a default, the main
input, and whatever an error or the line that raised it names, each in the shapes that models of its kind take.
"""

from __future__ import annotations

import inspect
import itertools
import math
import re
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.model_recipes import INPUTS
from hf_quant.errors import EvaluationError
from hf_quant.evaluation.random_inputs import run_on_random_inputs

Inputs = dict[str, Any]
_ROUNDS, _TRIES = 6, 30
_PIXELS = ("pixel_values_videos", "prompt_pixel_values", "pixel_values", "image", "query_images")


def run_on_some_inputs(model: Any, run: Callable[[Inputs], Any], seed: int = 0) -> Inputs:
    """Inputs that a model takes.

    Args:
        model: Transformers model.
        run: Calls the model with inputs by name.
        seed: Seed of the random numbers.

    Raises:
        EvaluationError: None of the inputs that were thought of is taken; its cause is the last thing the model said.
    """
    if model.config.model_type in INPUTS:
        made = INPUTS[model.config.model_type](model.config, torch.Generator().manual_seed(seed))
        known = inspect.signature(model.forward).parameters
        made = {name: value for name, value in made.items() if name in known}
        run(made)
        return made
    try:
        return run_on_random_inputs(model, run, seed)[0]
    except EvaluationError as error:
        said: BaseException = error.__cause__ or error
    parameters = {
        name: each
        for name, each in inspect.signature(model.forward).parameters.items()
        if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY) and name != "self"
    }
    given = [name for name, each in parameters.items() if each.default is each.empty]
    main = [model.main_input_name] if isinstance(model.main_input_name, str) else list(model.main_input_name)
    given += [name for name in main if name in parameters and name not in given]
    given = given or list(parameters)[:1]
    last, widths = said, list[int]()
    for _ in range(_ROUNDS):
        deepest, said_widths = 0, set[int]()
        for inputs in _combined(model, given, widths, seed):
            try:
                run(inputs)
                return inputs
            except Exception as error:
                said_widths |= _widths(error)
                depth = len(traceback.extract_tb(error.__traceback__))
                if depth >= deepest:
                    deepest, last = depth, error
        asked = [name for name in _named(last) if name in parameters and name not in given]
        asked = [name for name in asked if _shapes(model, name, widths, seed)]
        new = sorted(said_widths - {*widths})
        if not asked and not new:
            break
        given, widths = given + asked[:1], new[-3:] + widths
    raise EvaluationError(f"no inputs of {type(model).__name__} were found") from last


def caught_inputs(parent: nn.Module, model_class: type[Any], run: Callable[[], Any]) -> tuple[Any, Inputs]:
    """The first module of a class inside a model that runs, and what it is called with by name.

    Raises:
        LookupError: No module of the class is called.
    """
    caught: list[tuple[Any, Inputs]] = []

    def watch(module: Any, args: Any, kwargs: Any) -> None:
        if not caught:
            bound = inspect.signature(module.forward).bind(*args, **kwargs).arguments
            kept = {name: _copied(value) for name, value in bound.items() if name != "kwargs"}
            kept |= {name: _copied(value) for name, value in bound.get("kwargs", {}).items()}
            caught.append(
                (module, {n: v for n, v in kept.items() if isinstance(v, Tensor | bool | int | float | list)})
            )

    modules = [each for each in parent.modules() if type(each) is model_class]
    handles = [each.register_forward_pre_hook(watch, with_kwargs=True) for each in modules]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    if not caught:
        raise LookupError(f"{type(parent).__name__} calls no {model_class.__name__}")
    return caught[0]


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _combined(model: Any, names: list[str], widths: list[int], seed: int) -> Iterator[Inputs]:
    choices = [_shapes(model, name, widths, seed) for name in names]
    known = [(name, each) for name, each in zip(names, choices, strict=True) if each]
    for chosen in itertools.islice(itertools.product(*(each for _, each in known)), _TRIES):
        yield dict(zip([name for name, _ in known], chosen, strict=True))


def _named(error: BaseException) -> list[str]:
    """Words of an error and of the lines that it came from, the innermost first."""
    lines = [each.line or "" for each in traceback.extract_tb(error.__traceback__)]
    words = re.findall(r"\w+", str(error))
    for line in reversed(lines):
        words += re.findall(r"\w+", line)
    return list(dict.fromkeys(words))


def _widths(error: BaseException) -> set[int]:
    """Widths that an error says an input should have had."""
    text = str(error)
    found = re.findall(r"mat1 and mat2 shapes cannot be multiplied \(\d+x\d+ and (\d+)x", text)
    found += re.findall(r"must match the size of tensor b \((\d+)\)|normalized_shape=\[(\d+)\]", text)
    numbers = {int(each) for one in found for each in ([one] if isinstance(one, str) else one) if each}
    for shape in re.findall(r"shape '\[(-1(?:, \d+)+)\]' is invalid", text):
        numbers.add(math.prod(int(each) for each in shape.split(", ")[1:]))
    return {each for each in numbers if 2 < each <= 20000}


def _said(config: Any, *names: str, default: Any = None) -> Any:
    """What a config, or one inside it, says under the first of some names."""
    inside = [v for v in vars(config).values() if hasattr(v, "model_type")]
    for name in names:
        for part in [config, *inside, *(v for p in inside for v in vars(p).values() if hasattr(v, "model_type"))]:
            try:
                value = getattr(part, name, None)
            except Exception:
                continue
            if value is not None:
                return value
    return default


def _pair(value: Any) -> tuple[int, int]:
    return (int(value[-2]), int(value[-1])) if isinstance(value, list | tuple) else (int(value), int(value))


def _shapes(model: Any, name: str, widths: list[int], seed: int) -> list[Any]:
    """Values of a parameter that models take, the usual one first; `widths` are those that errors asked for."""
    config = model.config
    generator = torch.Generator().manual_seed(seed + sum(map(ord, name)))

    def floats(*shapes: tuple[int, ...]) -> list[Tensor]:
        return [torch.randn(shape, generator=generator) for shape in dict.fromkeys(shapes)]

    def numbers(most: int, *shapes: tuple[int, ...]) -> list[Tensor]:
        return [torch.randint(most, shape, generator=generator) for shape in dict.fromkeys(shapes)]

    width = _said(config, "hidden_size", "d_model", "hidden_dim", "embed_dim", default=64)
    width = width[-1] if isinstance(width, list | tuple) else width
    channels = _said(config, "num_channels", "in_channels", "in_chans", default=3)
    channels = channels if isinstance(channels, int) else 3
    height, side = _pair(_said(config, "image_size", "img_size", "input_size", default=64))
    patch = _said(config, "patch_size", default=16)
    patch_height, patch_width = _pair(patch)
    time = _said(config, "temporal_patch_size", default=1)
    mels = _said(
        config, "num_mel_bins", "input_feat_size", "feature_size", "n_mels", "mel_dim", "input_dim", default=80
    )
    frames = _said(config, "num_frames", default=2)
    flat = channels * patch_height * patch_width
    if name.endswith(("grid_thw", "grids", "image_grid", "grid_hw")):
        return [torch.tensor([[1, 4, 4]]), torch.tensor([[4, 4]])]
    if name in ("spatial_shapes", "image_sizes", "target_sizes", "patch_grid", "tgt_sizes"):
        return [torch.tensor([[4, 4]]), torch.tensor([[height, side]])]
    if name == "merge_sizes":
        return [torch.tensor([_said(config, "spatial_merge_size", default=2)]), torch.tensor([1])]
    if name.endswith(("pixel_attention_mask", "padding_mask", "pixel_mask", "patch_attention_mask")):
        return [
            torch.ones(shape, dtype=dtype)
            for dtype in (torch.long, torch.bool)
            for shape in ((1, height, side), (1, 16), (1, 1, height, side), (1, 4, 4))
        ]
    if name.endswith("pixel_position_ids"):
        rows = torch.stack(torch.meshgrid(torch.arange(4), torch.arange(4), indexing="xy"), -1).view(1, 16, 2)
        return [rows, rows[0]]
    if name == "flattened_patches":  # row and column come first
        patches = torch.randn((1, 16, flat + 2), generator=generator)
        patches[..., :2] = torch.stack([torch.arange(16) // 4 + 1, torch.arange(16) % 4 + 1], -1)
        return [patches]
    if name.startswith(_PIXELS) and not name.endswith(("mask", "ids")):
        shape = (channels, height, side)
        return floats(
            (1, *shape),
            (1, frames, *shape),
            (1, 1, *shape),
            (16, flat * time),
            (16, flat * 2),
            (1, 16, flat),
            (1, 1, 16, flat),
            (16, channels, time, patch_height, patch_width),
            (16, channels, patch_height, patch_width),
            (1, 2, *shape),
            (1, 16, channels, patch_height, patch_width),
            (2, 1, *shape),
            (frames, *shape),
        )
    if name == "bbox":
        boxes = numbers(30, (1, 16, 4))[0]
        boxes[..., 2:] += boxes[..., :2]
        return [boxes, boxes.float() / 64, torch.rand((1, 16, 8), generator=generator)]
    if name.endswith("input_ids") or name in ("input_tokens", "codes", "audio_codes", "token_ids"):
        size = _said(config, "vocab_size", "codebook_size", "char_vocab_size", default=64)
        books = _said(config, "num_quantizers", "num_codebooks", "num_channels", "audio_num_codebooks", default=9)
        return numbers(
            min(size, 250) if isinstance(size, int) else 64,
            *((1, 16), (2, 16), (1, books, 16), (1, 16, books), (1, 1, books), (1, 32), (books, 1, 16)),
        )
    if name in (
        "input_features",
        "input_values",
        "audio_values",
        "waveform",
        "spectrogram",
        "mel_spectrogram",
        "audio_mel",
    ):
        length = _said(config, "max_length", "max_source_positions", default=100)
        length = 2 * length if isinstance(length, int) and length <= 1500 else 200
        waves = [(1, 16000), (1, 1, 16000), (1, 2, 16000), (1, 1920 * 4)]
        spectra = [shape for each in widths for shape in ((1, length, each), (1, each, length))]
        spectra += [
            (1, mels, length),
            (1, length, mels),
            (1, length, 2 * mels),
            (1, 1, length, mels),
            (mels, length),
            (1, length, 128),
        ]
        return floats(*(waves + spectra if "values" in name or name == "waveform" else spectra + waves), (2, 16, width))
    if name in ("input_features_mask", "feature_attention_mask", "attention_mask_features"):
        length = _said(config, "max_length", "max_source_positions", default=100)
        length = 2 * length if isinstance(length, int) and length <= 1500 else 200
        return [torch.ones(1, length, dtype=dtype) for dtype in (torch.long, torch.bool)]
    if name == "audio_mel_mask":  # of what is left out
        return [torch.zeros(1, 200, dtype=torch.bool)]
    if name in (
        "attention_mask",
        "decoder_attention_mask",
        "encoder_attention_mask",
        "text_attention_mask",
        "audio_mask",
    ):
        return [torch.ones(shape, dtype=torch.long) for shape in ((1, 16), (2, 16))] + [torch.ones(1, 16).bool()]
    if name.endswith("position_ids") or name == "cache_position":
        return [torch.arange(16).view(1, 16), torch.arange(16).expand(3, 1, 16), torch.arange(16)]
    if name.endswith(
        ("embeds", "hidden_states", "hidden_state", "features", "embeddings", "latents", "queries", "context")
    ):
        asked = [shape for each in widths for shape in ((1, 16, each), (16, each))]
        maps = [
            *asked,
            (16, flat * time),
            (16, flat * 2),
            (1, width, 8, 8),
            (1, width, 16),
            (16, width),
            (1, 4, 4, width),
            (1, 8, 8, width),
        ]
        query = [(1, _said(config, "num_query_tokens", default=16), width)] if "query" in name else []
        return floats(*query, (1, 16, width), *maps)
    if name in ("token_type_ids", "mm_token_type_ids", "langs", "lang_ids"):
        return [torch.zeros(1, 16, dtype=torch.long)]
    if name.endswith(("lengths", "seqlens", "lens")):
        return [torch.tensor([16]), torch.tensor([16, 16]), torch.tensor([0, 16], dtype=torch.int32)]
    return []
