"""What the table of calibrated quantization compares: settings down, methods across."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hf_quant import Plan, Recipe
from hf_quant.config.presets import get_preset
from hf_quant.quantizing.algorithms import algorithms_of

Fields = Mapping[str, Any]
"""Keys of a recipe."""


def _groups(bits: int) -> dict[str, Any]:
    return {"bits": bits, "symmetric": False, "granularity": "group", "group_size": 64}


_TOKEN_GROUPS = {"bits": 8, "granularity": "group", "group_size": 64, "dynamic": True}

SETTINGS: dict[str, Fields] = {
    "W4A16 g64": {"scheme": {"weight": _groups(4)}},
    "W4A8 g64": {"scheme": {"weight": _groups(4), "input": _TOKEN_GROUPS}},
    "W3A16 g64": {"scheme": {"weight": _groups(3)}},
    "W2A16 g64": {"scheme": {"weight": _groups(2)}},
    "W4A16 per channel": {"scheme": {"weight": {"bits": 4, "symmetric": False}}},
    "W8A8 dynamic": {"preset": "int8"},
    "W8A8 static": {"preset": "int8-static", "observer": {"percentile": {"percentile": 99.99}}},
    "W8A8 static, down dynamic": {
        "preset": "int8-static",
        "observer": "minmax",
        "overrides": {"*.down_proj": "int8"},
    },
}
"""What linears are quantized to. Embeddings and heads are INT8 per row throughout, as the presets have them."""

_ONLY = {"W2A16 g64": "gpt2", "W8A8 static, down dynamic": "smollm2"}
"""Settings that tell something of one model: only the small GPT-2 is of use at 2 bits, and hardly reacts to 4; and only
of Llamas a projection has inputs that no single grid serves."""

FLOAT = "fp32"
NEAREST = "RTN"
BEST = "best"

METHODS: dict[str, Fields] = {
    NEAREST: {"solver": "rtn"},
    "MSE": {"solver": "mse"},
    "AWQ": {"transforms": ["awq", "awq-clip"], "solver": "rtn"},
    "GPTQ": {"solver": {"gptq": {"grid": "mse"}}},
    "SignRound": {"solver": {"signround": {}}},
}
"""What finds the codes of linears, but for the best."""

_COMPENSATED: Fields = {"transforms": ["awq"], "solver": {"gptq": {"grid": "mse"}}}

BESTS: dict[str, Fields] = {
    "W4A16 g64": _COMPENSATED,
    "W4A8 g64": _COMPENSATED,
    "W3A16 g64": _COMPENSATED,
    "W2A16 g64": _COMPENSATED,
    "W4A16 per channel": _COMPENSATED,
    "W8A8 dynamic": _COMPENSATED,
    "W8A8 static": {**_COMPENSATED, "transforms": ["smoothquant"]},
    "W8A8 static, down dynamic": {"transforms": [{"smoothquant": {"alpha": 0.5}}], "solver": "rtn"},
    "sentiment W8A8 static": {"solver": {"gptq": {"grid": "mse"}}, "bias_correction": True},
}
"""Setting, or model and setting, to what loses least there of what was tried."""


def settings_of(model: str) -> list[str]:
    """Settings that tell something of `model`."""
    return [setting for setting in SETTINGS if _ONLY.get(setting, model) == model]


def recipe_for(model: str, setting: str, method: str, steps: int) -> Recipe:
    """The recipe of a cell, without what it is calibrated on.

    Args:
        model: A name of `calibrated_subjects.SUBJECTS`.
        setting: A name of `SETTINGS`.
        method: A name of `METHODS`, or `BEST`.
        steps: Of gradient descent, where there is any.
    """
    fields = METHODS[method] if method != BEST else BESTS.get(f"{model} {setting}", BESTS[setting])
    recipe = Recipe.from_dict({**SETTINGS[setting], **fields})
    name, options = recipe.solver
    return replace(recipe, solver=(name, {**options, "steps": steps})) if name == "signround" else recipe


def needs_data(recipe: Recipe) -> bool:
    """Whether there is anything to calibrate: the algorithms, or static inputs."""
    assert recipe.preset is not None or recipe.scheme is not None
    linear = recipe.scheme or get_preset(str(recipe.preset)).linear
    return algorithms_of(recipe).needs_data(Plan({"*": linear}))
