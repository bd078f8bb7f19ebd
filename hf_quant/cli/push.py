"""Pushing a quantized model, with an error that says what is saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hf_quant.errors import HfQuantError, SaveError


def push(model: Any, repo_id: str, output: Path | None) -> None:
    """Push a quantized model to the Hub.

    Args:
        model: Quantized model.
        repo_id: Repository id to push to.
        output: Directory that the model is saved in; None if it is not saved.

    Raises:
        SaveError: The model cannot be pushed.
    """
    try:
        model.push_to_hub(repo_id)
    except HfQuantError:
        raise
    except Exception as error:  # of whatever the Hub's client uses to connect
        saved = f"it is saved in {output}" if output is not None else "give --output, too, to keep it in any case"
        raise SaveError(
            f"cannot push to {repo_id}: {error}; {saved}. Is the Hub reachable, and are you logged in?"
        ) from error
