"""Bytes of checkpoints: of those on disk, and to the byte of those that saving a model would write."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from torch import nn
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from hf_quant.errors import EvaluationError
from hf_quant.modules.base import QuantizedModule, TensorFacts
from hf_quant.modules.opened import Opened
from hf_quant.modules.stored import StoredModule

MAX_SHARD = "50GB"
"""Size of a file above which ``save_pretrained`` splits it."""

_DTYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int16: "I16",
    torch.uint16: "U16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.uint32: "U32",
    torch.float32: "F32",
    torch.complex64: "C64",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.uint64: "U64",
}
"""Dtypes to their names in safetensors, in the reverse of the order of tensors in a file, which has wide ones first."""
_ORDER = {dtype: place for place, dtype in enumerate(_DTYPES)}


def weight_files(directory: Path) -> list[Path]:
    """Paths of the files that hold a checkpoint's weights.

    Raises:
        EvaluationError: The directory has no files of weights.
    """
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        files = [directory / Path(name).name for name in names]
    elif (directory / "model.safetensors").is_file():
        files = [directory / "model.safetensors"]
    else:
        files = sorted(directory.glob("*.safetensors")) or sorted(directory.glob("pytorch_model*.bin"))
    if not files or not all(file.is_file() for file in files):
        raise EvaluationError(
            f"{directory} does not hold the weights of a checkpoint: give the directory it was saved to"
        )
    return files


def directory_bytes(directory: Path) -> int:
    """Bytes of the files that hold a checkpoint's weights."""
    return sum(file.stat().st_size for file in weight_files(directory))


def computed_bytes(model: nn.Module, max_shard: str = MAX_SHARD) -> int:
    """Bytes of the safetensors files that ``save_pretrained`` would write, from shapes and dtypes alone.

    Args:
        model: Quantized or float model on any device; no weights are read, so the meta device serves.
        max_shard: Largest size of one file, such as ``"50GB"``: ``max_shard_size`` of ``save_pretrained``.
    """
    facts = saved_tensors(model)
    # On the meta device the tensors cost nothing; which file each goes to is the library's own rule.
    stand_ins = {name: torch.empty(shape, dtype=dtype, device="meta") for name, (shape, dtype) in facts.items()}
    if isinstance(model, PreTrainedModel) and not any(
        isinstance(m, QuantizedModule | StoredModule) for m in model.modules()
    ):
        # Float models are saved as the library that they come from would save them, such as with experts apart.
        stand_ins = revert_weight_conversion(model, stand_ins)
        facts = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in stand_ins.items()}
    shards = split_torch_state_dict_into_shards(stand_ins, max_shard_size=max_shard).filename_to_tensors.values()
    return sum(safetensors_bytes({name: facts[name] for name in names}) for names in shards)


def safetensors_bytes(tensors: TensorFacts) -> int:
    """Bytes of one safetensors file: eight for a length, a JSON header padded to eight, and the tensors."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name in sorted(tensors, key=lambda name: (-_ORDER[tensors[name][1]], name.encode())):
        shape, dtype = tensors[name]
        end = start + math.prod(shape) * dtype.itemsize
        header[name] = header_entry(shape, dtype, start, end)
        start = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return 8 + -(-len(text) // 8) * 8 + start


def header_entry(shape: tuple[int, ...], dtype: torch.dtype, start: int, end: int) -> dict[str, Any]:
    """Entry of a safetensors header for the tensor in bytes `start` to `end`."""
    return {"dtype": _DTYPES[dtype], "shape": list(shape), "data_offsets": [start, end]}


def saved_tensors(model: nn.Module, closed: bool = True) -> TensorFacts:
    """Name, shape and dtype of every tensor that a checkpoint of the model holds, tied ones once.

    Args:
        model: Quantized or float model.
        closed: Whether opened experts without a quantized weight count as the stacked tensors that are saved of them.
    """
    declared = getattr(model, "all_tied_weights_keys", None) or {}
    seen: set[object] = set()
    facts: TensorFacts = {}
    for name, identity, found in _tensors(model, closed):
        if name in declared or identity in seen:
            continue
        seen.add(identity)
        facts[name] = found
    for ignored in getattr(model, "_keys_to_ignore_on_save", None) or ():
        facts.pop(ignored, None)
    return facts


def _tensors(model: nn.Module, closed: bool) -> Iterator[tuple[str, object, tuple[tuple[int, ...], torch.dtype]]]:
    """Name, identity, shape and dtype of each tensor that is saved; tied tensors have one identity."""
    inside: set[nn.Module] = set()
    for prefix, module in model.named_modules():
        dot = f"{prefix}." if prefix else ""
        if module in inside:
            continue
        if closed and isinstance(module, Opened) and module.is_float():
            for stack in module.stacks:
                parts = module.parts(stack)
                for part in parts:
                    inside.update(module.get_submodule(part.partition(".")[0]).modules())
                yield dot + stack.name, (id(module), stack.name), (stack.shape, module.part(parts[0]).dtype)
        quantized: TensorFacts = {}
        if isinstance(module, QuantizedModule):
            quantized = module.tensor_facts()
            weight = next(iter(module.weights.values()), module)
            for name, facts in module.saved_tensors().items():
                yield dot + name, (id(weight if name.startswith("weight") else module), name), facts
        for name, tensor in {**module._parameters, **module._buffers}.items():
            if tensor is not None and name not in module._non_persistent_buffers_set and name not in quantized:
                yield dot + name, id(tensor), (tuple(tensor.shape), tensor.dtype)
