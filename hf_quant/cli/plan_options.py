"""What options of ``hf-quant plan`` mean, and what of them is wrong before any work."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_quant.cli.outputs import require_writable
from hf_quant.cli.pairs import pairs_of
from hf_quant.errors import ConfigError
from hf_quant.planner.budget import Budget
from hf_quant.planner.cost.latency import Pass
from hf_quant.planner.sensitivity.sequences import writes_text


def check_files(output: Path, reports: Sequence[Path], budgets: Sequence[str]) -> None:
    """Raise ConfigError if an output or report could not be written, or a budget cannot be read or is there twice."""
    if output.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"--output takes a file that ends in .yaml, not {output}")
    require_writable(output, "--output")
    for file in reports:
        if file.suffix not in (".json", ".html", ".png"):
            raise ConfigError(f"--report takes files that end in .json, .html or .png, not {file}")
        require_writable(file, "--report")
    for number, budget in enumerate(budgets):
        Budget.of(budget)
        if file_name(budget) in map(file_name, budgets[:number]):
            raise ConfigError(f"the plan for {budget!r} would take the place of another's: give each budget once")


def file_name(budget: str) -> str:
    """A budget as a part of a file's name."""
    return re.sub(r"[^0-9A-Za-z.]+", "-", budget).strip("-")


def default_losses(output: Path, facts: Sequence[object]) -> Path:
    """Default file of an analysis, beside the output; analyses with other options have other files."""
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:8]
    return output.absolute().parent / f".{output.stem}.{digest}.losses.json"


def pass_of(model: Any, tokens: int | None, context: int | None) -> Pass | None:
    """The forward pass that milliseconds are of, from options; None: the default of `search_plan`."""
    if context is not None and not writes_text(model):
        raise ConfigError("--context is for models that write text, which have a cache: leave it out")
    if tokens is None and context is None:
        return None
    if not writes_text(model):
        return Pass(tokens=tokens or 1)
    return Pass(tokens=tokens or 1, context=512 if context is None else context, logits=1)


def choices_of(entries: Sequence[str] | None, option: str) -> dict[str, list[str]] | None:
    """Patterns to names of presets, from entries ``PATTERN=PRESET,PRESET``; None if there are none."""
    pairs = pairs_of(entries, option, "PATTERN=PRESET", "lm_head=int8")
    return {pattern: presets.split(",") for pattern, presets in pairs.items()} or None
