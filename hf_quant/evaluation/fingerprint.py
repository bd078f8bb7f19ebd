"""Which checkpoint something was measured on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from hf_quant.errors import EvaluationError
from hf_quant.evaluation.file_size import weight_files


def checkpoint_fingerprint(directory: Path) -> str:
    """SHA-256, in hexadecimal, of a checkpoint's tensors and of the plan in its ``config.json``.

    It does not depend on how the tensors are divided into files.

    Raises:
        EvaluationError: There are no safetensors files, or they cannot be read.
    """
    files = weight_files(directory)
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        plan = (config.get("quantization_config") or {}).get("plan")
        places: dict[str, Path] = {}
        for file in files:
            with safe_open(file, framework="pt") as opened:
                places.update(dict.fromkeys(opened.keys(), file))
        return tensors_fingerprint(plan, ((name, _read(places[name], name)) for name in sorted(places)))
    except (OSError, SafetensorError, ValueError) as error:
        raise EvaluationError(f"{directory} is no checkpoint in safetensors that can be read: {error}") from error


def tensors_fingerprint(plan: Any, tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """SHA-256, in hexadecimal, of tensors and of the plan that they were made by.

    Args:
        plan: JSON-ready plan, as ``config.json`` has it; None where there is none.
        tensors: Names, in their order, and tensors of any dtype, as they lie in a checkpoint.
    """
    digest = hashlib.sha256(json.dumps(plan, sort_keys=True).encode())
    for name, tensor in tensors:
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read(file: Path, name: str) -> torch.Tensor:
    with safe_open(file, framework="pt") as opened:
        found: torch.Tensor = opened.get_tensor(name)
    return found
