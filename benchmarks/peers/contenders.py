"""What is compared at W4A16 in groups of 64: programs, each with the settings that it recommends for quality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.calibrated_methods import BESTS, METHODS, NEAREST, SETTINGS

OURS = "hf_quant"
LEARNED = "SignRound"
COMPARED = (NEAREST, "GPTQ", "AWQ", "AWQ + GPTQ", LEARNED, f"AWQ + {LEARNED}")
"""Methods of the programs."""

_SETTING = "W4A16 g64"


@dataclass(frozen=True)
class Contender:
    """A program with its settings.

    Args:
        method: One of `COMPARED`.
        program: `OURS`, or an environment of `environments.PACKAGES`.
        settings: A recipe without `calibration`, or what the peer's file in this folder takes.
        symmetric: Whether zero points are 0.
    """

    method: str
    program: str
    settings: Mapping[str, Any]
    symmetric: bool = False


def _ours(method: str, fields: Mapping[str, Any], **weight: Any) -> Contender:
    scheme = {"weight": {**SETTINGS[_SETTING]["scheme"]["weight"], **weight}}
    return Contender(method, OURS, {"scheme": scheme, **fields}, scheme["weight"]["symmetric"])


def _llmcompressor(method: str, symmetric: bool = False, **modifiers: Any) -> Contender:
    weights = {"bits": 4, "group_size": 64, "symmetric": symmetric, "observer": "mse"}
    return Contender(method, "llmcompressor", {**weights, "modifiers": modifiers}, symmetric)


def contenders(steps: int, symmetric: bool = False) -> list[Contender]:
    """All, with `steps` gradient steps where roundings are learned; on demand the `symmetric` ones too."""
    learned = {"solver": {"signround": {"steps": steps}}}
    grid = {"bits": 4, "group_size": 64}
    tuned = {**grid, "iters": steps, "batch_size": 8}
    found = [
        _ours(NEAREST, METHODS[NEAREST]),
        _ours("AWQ + GPTQ", BESTS[_SETTING]),
        _ours("AWQ + GPTQ", BESTS[_SETTING], symmetric=True),
        Contender("GPTQ", "gptqmodel", {**grid, "sym": False}),
        Contender("GPTQ", "gptqmodel", {**grid, "sym": True}, symmetric=True),
        _llmcompressor("GPTQ", gptq={}),
        _llmcompressor("GPTQ", symmetric=True, gptq={}),
        _llmcompressor("AWQ + GPTQ", awq={}, gptq={}),
        _llmcompressor("AWQ", awq={}, rtn={}),
        Contender(LEARNED, "auto-round", {**tuned, "sym": False}),
        Contender(LEARNED, "auto-round", {**tuned, "sym": True}, symmetric=True),
        _ours(LEARNED, learned),
        _ours(LEARNED, learned, symmetric=True),
        _ours(f"AWQ + {LEARNED}", {"transforms": ["awq"], **learned}),
        _ours(f"AWQ + {LEARNED}", {"transforms": ["awq"], **learned}, symmetric=True),
    ]
    return [each for each in found if symmetric or not each.symmetric]
