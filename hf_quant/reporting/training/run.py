"""What a run of training logged, in a file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_quant.errors import EvaluationError
from hf_quant.reporting.json_file import write_text

_SCHEMA = 1


@dataclass(frozen=True)
class TrainingRun:
    """One training run, with what it logged.

    Args:
        model: Directory or repository id of the model that was trained.
        steps: Number of optimizer steps.
        seconds: Seconds that training took; 0 where it was not measured.
        history: Entries that the Trainer logged, in order: ``step`` and figures by their names.
        marks: Steps at which the schedule changes, to what changes there, in words.
        recipe: The training recipe, as a dict that `TrainingRecipe.to_dict` gives.
    """

    model: str
    steps: int
    seconds: float
    history: Sequence[Mapping[str, float]]
    marks: Mapping[int, str] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of one logged figure; values that are not finite are left out."""
        found = [(int(entry["step"]), float(entry[name])) for entry in self.history if name in entry]
        found = [(step, value) for step, value in found if math.isfinite(value)]
        return [step for step, _ in found], [value for _, value in found]


def write_run(run: TrainingRun, file: Path) -> None:
    """Write a training run to a file, as JSON.

    Raises:
        SaveError: The file cannot be written.
    """
    history = [
        {name: value if math.isfinite(value) else None for name, value in entry.items()} for entry in run.history
    ]
    values = {
        "schema": _SCHEMA,
        "model": run.model,
        "steps": run.steps,
        "seconds": run.seconds,
        "marks": {str(step): words for step, words in run.marks.items()},
        "recipe": dict(run.recipe),
        "history": history,
    }
    write_text(file, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def read_run(file: Path) -> TrainingRun:
    """Read a training run from a file that `write_run` wrote.

    Raises:
        EvaluationError: The file cannot be read, is of a newer version, or holds no training run.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if values["schema"] > _SCHEMA:
            raise EvaluationError(f"{file} is of a newer version: upgrade with `pip install -U hf-quant`")
        history = [
            {name: float(value) for name, value in entry.items() if value is not None} for entry in values["history"]
        ]
        marks = {int(step): str(words) for step, words in values["marks"].items()}
        return TrainingRun(
            str(values["model"]),
            int(values["steps"]),
            float(values["seconds"]),
            history,
            marks,
            dict(values["recipe"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise EvaluationError(f"{file} cannot be read as a run of training: {error}") from error
