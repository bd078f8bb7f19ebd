"""What a checkpoint in training was trained for, beside its tensors: training never goes on for something else."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hf_quant.config.plan import Plan
from hf_quant.errors import ConfigError
from hf_quant.qat.options import QATOptions
from hf_quant.reporting.json_file import write_text

_FILE = "hf_quant_qat.json"


def write_record(folder: Path, plan: Plan, options: QATOptions) -> None:
    """Write it into a checkpoint's folder.

    Raises:
        SaveError: It cannot be written.
    """
    values = {"plan": plan.to_dict(), "options": asdict(options)}
    write_text(folder / _FILE, json.dumps(values, indent=1) + "\n")


def check_record(folder: Path, plan: Plan, options: QATOptions) -> None:
    """Compare a checkpoint with what training is to go on for; one without a record is let through.

    Raises:
        ConfigError: They differ (the message says where), or the record is damaged.
    """
    file = folder / _FILE
    if not file.is_file():
        return
    try:
        values: Any = json.loads(file.read_text(encoding="utf-8"))
        before = Plan.from_dict(values["plan"])
        chosen = dict(values["options"])
    except (ValueError, KeyError, TypeError, ConfigError) as error:
        raise ConfigError(f"{file} is damaged ({error}): go on from an earlier checkpoint") from error
    for name in {**before.modules, **plan.modules}:
        were, are = before.modules.get(name), plan.modules.get(name)
        if were != are:
            raise ConfigError(
                f"{folder} was trained for {were or 'float'} of {name}, and is to go on for {are or 'float'}: give "
                "QATCallback what it was trained with, or begin anew without resume_from_checkpoint"
            )
    for name, value in asdict(options).items():
        if chosen.get(name) != value:
            raise ConfigError(
                f"{folder} was trained with {name}={chosen.get(name)!r}, and is to go on with {value!r}: give "
                "QATCallback what it was trained with, or begin anew without resume_from_checkpoint"
            )
