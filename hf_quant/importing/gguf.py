"""GGUF files of llama.cpp with a model built as Llama is: names, order of rows, and blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_quant.errors import CheckpointError, LayoutError, MissingDependency
from hf_quant.importing.headers import DTYPES, Headers
from hf_quant.importing.module import ForeignModule
from hf_quant.importing.source import Reader, Source
from hf_quant.layouts import gguf as layout
from hf_quant.layouts.even import Imported, take
from hf_quant.registry import unknown

ARCHITECTURES = {"llama": True, "qwen2": False, "qwen3": False}
"""Architecture to whether its rows of queries and keys are in llama.cpp's order."""

OUTER = {"token_embd": "model.embed_tokens", "output": "lm_head", "output_norm": "model.norm"}
"""llama.cpp's names of modules outside of the layers, to those of Transformers."""
INNER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
"""The same within a layer."""
_FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class GgufFile(Source):
    """A `Source` whose tensors are in one GGUF file.

    Args:
        floats: Tensors that are floats, as they are in Transformers, by name.
        blocks: uint8 rows of blocks, by name.
        order: Number of heads whose rows are in llama.cpp's order, by name of the tensor.
    """

    floats: Mapping[str, Any] = field(default_factory=dict)
    blocks: Mapping[str, Any] = field(default_factory=dict)
    order: Mapping[str, int] = field(default_factory=dict)

    @contextmanager
    def reader(self) -> Iterator[Reader]:
        """Context in which tensors can be read."""
        yield Reader(self, dict.fromkeys(self.files, self))

    def get_tensor(self, name: str) -> torch.Tensor:
        """One tensor, its rows in the order of Transformers, copied from the file."""
        found = torch.from_numpy(np.array(self.blocks[name] if name in self.blocks else self.floats[name]))
        if name in self.floats:
            shape, dtype = self.headers[name]
            found = found.view(_FLOATS[dtype]).reshape(shape)
        heads = self.order.get(name)
        if heads is None:
            return found
        return found.unflatten(0, (heads, len(found) // heads // 2, 2)).transpose(1, 2).reshape(found.shape)


def open_gguf(path: Path) -> GgufFile:
    """Read what a GGUF file says of its tensors; their numbers stay in the file.

    Raises:
        MissingDependency: The package ``gguf`` is not installed.
        CheckpointError: The file is damaged.
        LayoutError: Its model, or a type of its tensors, is none that is read bit for bit.
    """
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise MissingDependency("the package 'gguf' is not installed: pip install \"hf-quant[demo]\"") from error
    try:
        reader = GGUFReader(path)
        architecture = str(reader.get_field("general.architecture").contents())
        heads = _heads(reader, architecture) if ARCHITECTURES.get(architecture) else {}
        tensors = [
            (str(t.name), t.tensor_type.name, [int(n) for n in reversed(t.shape)], t.data) for t in reader.tensors
        ]
    except Exception as error:  # it reads numbers of the file with no check, and trips over them in any way
        raise CheckpointError(f"{path} is no whole GGUF file ({type(error).__name__}: {error})") from error
    if architecture not in ARCHITECTURES:
        raise LayoutError(unknown("architecture of GGUF files that is read", architecture, ARCHITECTURES))
    headers: Headers = {}
    floats, blocks, order, modules = {}, {}, {}, {}
    for their_name, kind, shape, data in tensors:
        name, kept = _our_name(their_name)
        if name in modules or name in headers:
            raise CheckpointError(f"{path} holds {their_name} twice: download it again")
        if kind in _FLOATS:
            floats[name] = data.view(np.uint8).reshape(-1) if kind == "BF16" else data
            headers[name] = (tuple(shape), DTYPES[_FLOATS[kind]])
        else:
            module, short = name.rpartition(".")[0], name.replace(".weight", ".blocks")
            if len(shape) != 2 or not name.endswith(".weight"):
                raise CheckpointError(f"{their_name} is {kind} {shape}, which is no matrix: download it again")
            rows = np.asarray(data).reshape(shape[0], -1)
            name, blocks[short] = short, rows
            headers[short] = (rows.shape, "U8")
            modules[module] = ForeignModule(module, {"blocks": short}, partial(_read, kind=kind, width=shape[1]))
        if kept in heads:
            if not heads[kept] or shape[0] % (2 * heads[kept]):
                raise CheckpointError(f"{their_name} has {shape[0]} rows, which are not {heads[kept]} heads")
            order[name] = heads[kept]
    if not modules:
        raise CheckpointError(f"{path} holds floats only: load it with Transformers, and quantize it")
    ties = {} if "output.weight" in {each[0] for each in tensors} else {"lm_head": "model.embed_tokens"}
    where = dict.fromkeys(headers, str(path))
    return GgufFile(path.parent, "gguf", [str(path)], where, headers, modules, ties, floats, blocks, order)


def _read(tensors: Mapping[str, torch.Tensor], kind: str, width: int) -> Imported:
    return layout.read(take(tensors, "blocks", torch.uint8), kind, width)


def _heads(reader: Any, architecture: str) -> dict[str, int]:
    """Heads of queries and of keys, by llama.cpp's name of the tensor."""
    queries = int(reader.get_field(f"{architecture}.attention.head_count").contents())
    keys = reader.get_field(f"{architecture}.attention.head_count_kv")
    return {"attn_q": queries, "attn_k": queries if keys is None else int(keys.contents())}


def _our_name(name: str) -> tuple[str, str]:
    """Name in Transformers, and the part of llama.cpp's name that says what a tensor is."""
    stem, _, suffix = name.rpartition(".")
    match = re.fullmatch(r"blk\.(\d{1,6})\.(\w+)", stem)
    if suffix in ("weight", "bias") and match is not None and match[2] in INNER:
        return f"model.layers.{match[1]}.{INNER[match[2]]}.{suffix}", match[2]
    if suffix == "weight" and stem in OUTER:
        return f"{OUTER[stem]}.{suffix}", stem
    raise LayoutError(f"{name[:100]} means something that is not read: only models as plain Llamas are")
