"""A plan in words says what its schemes say."""

import pytest

from hf_quant.config.presets import PRESETS
from hf_quant.config.recipe import Recipe
from hf_quant.config.scheme import Scheme, TensorScheme
from hf_quant.hub.plan_words import in_words, recipe_in_words

DYNAMIC = TensorScheme(bits=8, granularity="token", dynamic=True, symmetric=False)


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        (
            Scheme(TensorScheme(bits=8, rotation=64), DYNAMIC),
            "weights in INT8 with one scale for each output channel or row, rotated in blocks of 64; inputs in INT8 "
            "with the scale of each token, as it comes",
        ),
        (
            Scheme(TensorScheme(bits=4, symmetric=False, granularity="group", group_size=128)),
            "weights in INT4 with one scale and a zero point for every 128 inputs of a channel; inputs are not "
            "quantized",
        ),
        (
            Scheme(
                TensorScheme(bits=8),
                TensorScheme(bits=8, granularity="tensor", dynamic=False, symmetric=False),
            ),
            "weights in INT8 with one scale for each output channel or row; inputs in INT8 on a grid that calibration "
            "has fixed",
        ),
    ],
)
def test_schemes(scheme, expected):
    assert in_words(scheme) == expected


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_has_words(preset):
    words = in_words(PRESETS[preset].linear)
    bits = PRESETS[preset].linear.weight.bits
    assert f"INT{bits}" in words or f"float{bits}" in words


def test_without_recipe_and_data_nothing_is_claimed_but_rounding():
    assert recipe_in_words(None, None) == [
        "Codes are the weights, rounded to nearest; the config names no calibration data."
    ]


def test_a_recipe_names_its_algorithms_in_their_order_and_the_data_by_its_fingerprint():
    recipe = Recipe(
        transforms=(("awq", {}),),
        solver=("gptq", {"damping": 0.01}),
        bias_correction=True,
        calibration={"samples": 64},
    )
    text = " ".join(recipe_in_words(recipe, "ab" * 32))
    assert text.index("`awq`") < text.index("then `gptq` (damping 0.01)") < text.index(f"`{'ab' * 32}`")
    assert "Biases make up" in text
    assert "64" not in text, "a recipe's sizes need not be those of the data"
