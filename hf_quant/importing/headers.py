"""Names, shapes and dtypes of the tensors in safetensors files."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from safetensors import SafetensorError, safe_open

from hf_quant.errors import CheckpointError

DTYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
}
"""Dtypes by the names that safetensors has for them."""

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
