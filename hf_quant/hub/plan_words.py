"""A plan and a recipe as sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_quant.config.recipe import Recipe
from hf_quant.config.scheme import Scheme, TensorScheme


def in_words(scheme: Scheme) -> str:
    """A scheme in words: what happens to the weight and the input of a module."""
    weight = scheme.weight
    words = weight.facts.words.format(bits=weight.bits)
    if not weight.has_scales:
        return f"stored and computed in {words}"
    rotated = f", rotated in blocks of {weight.rotation}" if weight.rotation else ""
    dtype = "" if weight.scale_dtype is None else f"{weight.scale_dtype} "
    zero_points = "" if weight.symmetric else " and a zero point"
    text = f"weights in {words} with one {dtype}scale{zero_points} {_shared_by(weight)}{rotated}"
    return f"{text}; {_input(scheme.input)}"


def _shared_by(weight: TensorScheme) -> str:
    if weight.granularity == "group":
        return f"for every {weight.group_size or 'few'} inputs of a channel"
    return "for each output channel or row" if weight.granularity == "channel" else "for the whole tensor"


def _input(scheme: TensorScheme | None) -> str:
    if scheme is None:
        return "inputs are not quantized"
    if not scheme.dynamic:
        return f"inputs in INT{scheme.bits} on a grid that calibration has fixed"
    shared_by = {"token": "of each token", "group": "of each group of a token", "tensor": "of each input"}
    return f"inputs in INT{scheme.bits} with the scale {shared_by[scheme.granularity]}, as it comes"


def recipe_in_words(recipe: Recipe | None, fingerprint: str | None) -> list[str]:
    """Sentences that say how the codes were found, and on what data."""
    if recipe is None and fingerprint is None:
        return ["Codes are the weights, rounded to nearest; the config names no calibration data."]
    recipe = Recipe() if recipe is None else recipe
    steps = [_step(name, options) for name, options in recipe.transforms]
    solver = "rounding to nearest" if recipe.solver == ("rtn", {}) else _step(*recipe.solver)
    lines = [f"Codes were found by {', then '.join([*steps, solver])}."]
    if recipe.bias_correction:
        lines.append("Biases make up for the mean error of their layer.")
    if fingerprint is not None:
        # Sizes that the recipe names need not be those of the data that was given.
        lines.append(f"Calibration data: SHA-256 of its tokens `{fingerprint}`.")
    return lines


def _step(name: str, options: Mapping[str, Any]) -> str:
    given = ", ".join(f"{key} {value}" for key, value in options.items())
    return f"`{name}`" + (f" ({given})" if given else "")
