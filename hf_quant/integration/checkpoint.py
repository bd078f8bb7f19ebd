"""What a checkpoint's headers say, checked before any tensor is read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from hf_quant.errors import CheckpointError
from hf_quant.modules.swap import quantized_modules

_DTYPES = {torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.float32: "F32"}

Headers = dict[str, tuple[tuple[int, ...], str]]
"""Tensor name to shape and safetensors dtype."""


def read_headers(files: Sequence[str]) -> Headers:
    """Names, shapes and dtypes of every tensor in safetensors files.

    Raises:
        CheckpointError: A file is missing, truncated, or not safetensors.
    """
    headers: Headers = {}
    for path in files:
        if not path.endswith(".safetensors"):
            raise CheckpointError(
                f"{os.path.basename(path)} is a pickle, which can run code when it is opened; hf_quant reads "
                "safetensors only. Convert it once: load the model without quantization_config from a source you "
                "trust, then model.save_pretrained(directory)"
            )
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - a safetensors handle is not a mapping
                    entry = file.get_slice(name)
                    headers[name] = (tuple(entry.get_shape()), entry.get_dtype())
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{os.path.basename(path)} cannot be read ({error}): download or save the checkpoint again"
            ) from error
    return headers


def model_names(model: Any, headers: Headers) -> Headers:
    """`headers` under the names that Transformers will load them to: renamings applied, base prefix added or cut."""
    transforms = get_model_conversion_mapping(model)
    renamings = [entry for entry in transforms if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in transforms if isinstance(entry, WeightConverter)]
    expected = model.state_dict()
    renamed = {}
    for name, facts in headers.items():
        target, _ = rename_source_key(name, renamings, converters, model.base_model_prefix, expected)
        if target not in expected and name in expected:
            target = name
        renamed[target] = facts
    return renamed


def check_quantized_headers(model: Any, headers: Headers) -> None:
    """Compare a quantized checkpoint with the modules its plan asks for.

    Args:
        model: With quantized modules in place.
        headers: From `model_names`.

    Raises:
        CheckpointError: A quantized tensor is missing, or has another shape or dtype.
    """
    for name, module in quantized_modules(model):
        for key, (shape, dtype) in module.saved_tensors().items():
            full = f"{name}.{key}"
            if full not in headers:
                raise CheckpointError(f"{full} is missing from the checkpoint: download or save it again")
            found_shape, found_dtype = headers[full]
            if found_shape != shape or found_dtype != _DTYPES[dtype]:
                raise CheckpointError(
                    f"{full} should be {_DTYPES[dtype]} {list(shape)} for {module.spec.scheme}, but the checkpoint "
                    f"holds {found_dtype} {list(found_shape)}: config.json and weights do not belong together"
                )


def match_names(names: Iterable[str], known: Iterable[str], prefix: str) -> dict[str, str]:
    """Names of a saved plan to those of the model at hand.

    A plan saved with a task model names ``bert.encoder...`` what the bare model calls ``encoder...``; modules
    outside the base model have no counterpart there and are left out.

    Raises:
        CheckpointError: A name has no counterpart though it should.
    """
    known = set(known)
    matched = {}
    dot = f"{prefix}."
    is_bare = bool(prefix) and not any(name.startswith(dot) for name in known)
    for name in names:
        if name in known:
            matched[name] = name
        elif name.startswith(dot) and name.removeprefix(dot) in known:
            matched[name] = name.removeprefix(dot)
        elif dot + name in known:
            matched[name] = dot + name
        elif not (is_bare and not name.startswith(dot)) and not _is_outside(name, dot, known):
            raise CheckpointError(
                f"the plan in config.json quantizes {name!r}, which the model does not have: "
                "config.json and model class do not belong together"
            )
    return matched


def _is_outside(name: str, dot: str, known: set[str]) -> bool:
    # A head that another task's model does not have, such as lm_head in a sequence classifier.
    return not name.startswith(dot) and any(other.startswith(dot) for other in known)
