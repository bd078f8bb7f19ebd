"""The folder of a run: checkpoints to go on from, guarded by what the run depends on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from hf_quant.errors import ConfigError
from hf_quant.reporting.json_file import write_text

_FACTS = "run.json"


def open_folder(folder: Path, facts: Mapping[str, str], restart: bool = False) -> str | None:
    """Make the folder of a training run, or find the checkpoint that an earlier one left in it.

    Args:
        folder: Folder that holds checkpoints and nothing else.
        facts: What the run depends on, by name: model, data, task, recipe.
        restart: Throw away what the folder holds.

    Returns:
        Path of the last checkpoint with steps left to train; later ones are deleted. None where training begins anew.

    Raises:
        ConfigError: The folder holds another run (the message says what differs), or other files.
    """
    if restart:
        shutil.rmtree(folder, ignore_errors=True)
    file = folder / _FACTS
    if folder.exists() and any(folder.iterdir()):
        if not file.is_file():
            raise ConfigError(f"{folder} holds other files: move them away, or save the model elsewhere")
        try:
            before = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(f"{file} is damaged ({error}): start over with --restart") from error
        differ = sorted(name for name in {*before, *facts} if before.get(name) != facts.get(name))
        if differ:
            raise ConfigError(
                f"{folder} holds a run in which {', '.join(differ)} differ: start over with --restart, or save the "
                "model elsewhere"
            )
        return _checkpoint_in(folder)
    write_text(file, json.dumps(dict(facts), indent=1) + "\n")
    return None


def _checkpoint_in(folder: Path) -> str | None:
    from transformers.trainer_utils import get_last_checkpoint

    # From one of the last step, the Trainer would go on with one step more: the steps before it are trained again
    # instead, to the same bits.
    while (last := get_last_checkpoint(str(folder))) is not None and not _has_steps_left(Path(last)):
        shutil.rmtree(last)
    return last


def _has_steps_left(checkpoint: Path) -> bool:
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))  # written last
        return bool(state["global_step"] < state["max_steps"])
    except (OSError, ValueError, KeyError):
        return False
