"""What real models of each family lost, from reports of ``hf-quant evaluate``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import hf_quant
from hf_quant.evaluation.report import DropReport

Key = tuple[str, str]
"""Family and preset."""


class NoCheckpoint(ValueError):
    """A report is about a model that is not there any more."""


def losses(files: Sequence[Path]) -> dict[Key, list[DropReport]]:
    """Evaluations by what the evaluated checkpoints are.

    Raises:
        NoCheckpoint: The directory that a report names is gone, or is not quantized.
    """
    found: dict[Key, list[DropReport]] = {}
    for file in files:
        for drop in hf_quant.read_report(file).drops:
            found.setdefault(_key(drop), []).append(drop)
    return found


def words(drop: DropReport) -> str:
    """What was lost, relative, with its interval, of which metric of which model."""
    metric = drop.metrics[0]
    if metric.relative_drop is None or metric.relative_low is None or metric.relative_high is None:
        return f"{metric.name} {metric.reference:.4g} to {metric.quantized:.4g} ({Path(drop.quantized).name})"
    ends = f"{100 * metric.relative_low:.2f} to {100 * metric.relative_high:.2f}"
    return f"{100 * metric.relative_drop:.2f} % ({ends}) of {metric.name} ({Path(drop.quantized).name})"


def _key(drop: DropReport) -> Key:
    try:
        config = json.loads(Path(drop.quantized, "config.json").read_text(encoding="utf-8"))
        settings = config["quantization_config"]
    except (OSError, ValueError, KeyError) as error:
        raise NoCheckpoint(f"{drop.quantized} is no quantized checkpoint here: evaluate it again") from error
    return config["model_type"], settings.get("preset") or "plan"
