"""Tensors of a checkpoint that are merged while it is read, as experts are: all have to be of one kind."""

from __future__ import annotations

from typing import Any

from transformers.core_model_loading import MergeModulelist, rename_source_key

from hf_quant.errors import WeightError
from hf_quant.integration.checkpoint import Headers, conversions, require_floats


def check_merged(model: Any, headers: Headers) -> None:
    """Refuse experts of several shapes, and integers among floats, which torch would take for floats and say nothing.

    Args:
        model: Float model, on the meta device.
        headers: Tensor name to shape and dtype, as in the files.

    Raises:
        WeightError: Tensors that become one differ in shape, or some hold no floats; names the first.
    """
    renamings, converters = conversions(model)
    merging = {
        pattern
        for entry in converters
        if any(isinstance(operation, MergeModulelist) for operation in entry.operations)
        for pattern in entry.source_patterns
    }
    if not merging:
        return
    expected = model.state_dict()
    first: dict[tuple[str, str], str] = {}
    for name, (shape, dtype) in headers.items():
        target, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, expected)
        if pattern not in merging:
            continue
        require_floats(name, dtype)
        other = first.setdefault((target, pattern), name)
        if headers[other][0] != shape:
            raise WeightError(
                f"{name} has shape {shape} in the checkpoint, but {other} {headers[other][0]}, and both are part of "
                f"{target}: do all files belong to one checkpoint?"
            )
