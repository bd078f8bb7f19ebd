"""Which checkpoint something was measured on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

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
    digest = hashlib.sha256()
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        plan = (config.get("quantization_config") or {}).get("plan")
        digest.update(json.dumps(plan, sort_keys=True).encode())
        places: dict[str, Path] = {}
        for file in files:
            with safe_open(file, framework="pt") as opened:
                places.update(dict.fromkeys(opened.keys(), file))
        for name in sorted(places):
            with safe_open(places[name], framework="pt") as opened:
                tensor = opened.get_tensor(name).contiguous()
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    except (OSError, SafetensorError, ValueError) as error:
        raise EvaluationError(f"{directory} is no checkpoint in safetensors that can be read: {error}") from error
    return digest.hexdigest()
