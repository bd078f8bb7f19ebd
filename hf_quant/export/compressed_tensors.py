"""A folder in the format of compressed-tensors, which Transformers, vLLM and SGLang read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from torch import nn
from transformers.pytorch_utils import Conv1D

from hf_quant.config.scheme import TensorScheme
from hf_quant.errors import ExportError
from hf_quant.export.config import float_config
from hf_quant.export.plain_transformers import verify
from hf_quant.export.target import Target
from hf_quant.export.tensors import saved_tensors
from hf_quant.export.untying import check_untied, untie
from hf_quant.formats.base import Matrix
from hf_quant.formats.zero_points import pack_zero_points, unpack_zero_points
from hf_quant.layouts.compressed_tensors import to_packed, to_plain
from hf_quant.modules.base import QuantizedModule
from hf_quant.modules.swap import quantized_modules
from hf_quant.portability.compressed_tensors import is_packed, is_written_float
from hf_quant.portability.facts import Part
from hf_quant.portability.survey import parts_of

_FORMATS = {True: "pack-quantized", False: "int-quantized"}


def write(model: Any, directory: Path, tokenizer: Any, *, max_shard_size: str = "5GB") -> None:
    """Write ``config.json`` and safetensors; see `target.Target`.

    Args:
        model: Quantized, none of whose modules is refused.
        directory: An empty folder.
        tokenizer: Of no use here.
        max_shard_size: Most bytes of a file, as ``save_pretrained`` takes it.

    Raises:
        ExportError: No module would be written as codes; or the head has to be untied from its embedding, and the
            model computes otherwise then.
    """
    modules = dict(quantized_modules(model))
    parts = {part.name: part for part in parts_of(model, runs=False)[0] if part.name in modules}
    coded = {name: part for name, part in parts.items() if not is_written_float(part)}
    if not coded:
        raise ExportError(
            f"no module of {type(model).__name__} has codes in this format: save what model.dequantize() gives, which "
            "is the same floats, with save_pretrained"
        )
    config = float_config(model)
    tensors = {name: tensor for name, tensor in saved_tensors(model).items() if not _is_of(name, modules)}
    if any(module.tied and name in coded for name, module in modules.items()):
        check_untied(model)
        untie(config)
        tensors = {**_tied_floats(model, tensors), **tensors}
        written = modules
    else:
        written = {name: module for name, module in modules.items() if not module.tied}
    for name, module in written.items():
        found = codes_of(module) if name in coded else {"weight": _decoded(module, config.dtype)}
        tensors.update({f"{name}.{key}": tensor for key, tensor in found.items()})
    config.quantization_config = quantization_config(coded, model)
    config.save_pretrained(directory)
    made = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_torch_state_dict(made, directory, max_shard_size=max_shard_size, metadata={"format": "pt"})


def codes_of(module: QuantizedModule) -> dict[str, torch.Tensor]:
    """The tensors of a quantized linear by their names in the format, those of static inputs among them."""
    scheme = module.spec.scheme
    matrix, tensors = module.spec.matrix, module.neutral()
    if scheme.weight.granularity == "tensor":
        tensors, matrix = _per_channel(tensors, matrix)
    packs = is_packed(Part("", "linear", matrix.width, scheme))
    found = (to_packed if packs else to_plain)(tensors, matrix)
    inputs = {"input_scale": module.input_scale, "input_zero_point": module.input_zero_point}
    return {**found, **{name: tensor for name, tensor in inputs.items() if tensor is not None}}


def quantization_config(coded: Mapping[str, Part], model: nn.Module) -> dict[str, Any]:
    """``quantization_config`` of the format: a group for each scheme, naming its modules, and what has none.

    Args:
        coded: Modules that are written as codes.
        model: The model, of whose other linears readers are told that they are floats.
    """
    groups: dict[str, dict[str, Any]] = {}
    for name, part in coded.items():
        facts = {
            "weights": _arguments(_with_scales_per_row(part.scheme.weight)),
            "input_activations": None if part.scheme.input is None else _arguments(part.scheme.input),
            "output_activations": None,
            "format": _FORMATS[is_packed(part)],
        }
        groups.setdefault(json.dumps(facts), {"targets": [], **facts})["targets"].append(name)
    formats = {group["format"] for group in groups.values()}
    linears = [name for name, each in model.named_modules() if isinstance(each, nn.Linear | Conv1D)]
    return {
        "quant_method": "compressed-tensors",
        "format": formats.pop() if len(formats) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "config_groups": {f"group_{index}": group for index, group in enumerate(groups.values())},
        "ignore": [name for name in linears if name not in coded],
        "kv_cache_scheme": None,
        **_transforms(coded),
    }


def _transforms(coded: Mapping[str, Part]) -> dict[str, Any]:
    """``transform_config``: the modules whose inputs are rotated, by the size of the blocks; empty where none are."""
    sizes: dict[int, list[str]] = {}
    for name, part in coded.items():
        if part.scheme.weight.rotation is not None:
            sizes.setdefault(part.scheme.weight.rotation, []).append(name)
    groups = {
        f"rotation_{size}": {
            "type": "hadamard",
            "head_dim": size,
            "apply": [{"targets": names, "location": "input"}],
        }
        for size, names in sizes.items()
    }
    return {"transform_config": {"config_groups": groups}} if groups else {}


def _arguments(scheme: TensorScheme) -> dict[str, Any]:
    granularity = scheme.granularity
    is_static = granularity == "tensor" and not scheme.dynamic
    return {
        "num_bits": scheme.bits,
        "type": "int",
        "symmetric": scheme.symmetric,
        "strategy": granularity,
        "dynamic": scheme.dynamic,
        **({"group_size": scheme.group_size} if granularity == "group" else {}),
        **({"observer": "minmax"} if is_static else {}),
    }


def _with_scales_per_row(scheme: TensorScheme) -> TensorScheme:
    return replace(scheme, granularity="channel") if scheme.granularity == "tensor" else scheme


def _per_channel(tensors: Mapping[str, torch.Tensor], matrix: Matrix) -> tuple[dict[str, torch.Tensor], Matrix]:
    """The same weight with its one scale repeated for each channel."""
    wide = replace(matrix, scheme=_with_scales_per_row(matrix.scheme))
    found = {**tensors, "scale": tensors["scale"].expand(wide.scale_shape).contiguous()}
    if "zero_point" in tensors:
        zero = unpack_zero_points(tensors["zero_point"], matrix.scheme.bits, matrix.scale_shape)
        found["zero_point"] = pack_zero_points(zero.expand(wide.scale_shape).contiguous(), matrix.scheme.bits)
    return found, wide


def _decoded(module: QuantizedModule, dtype: torch.dtype) -> torch.Tensor:
    weight = module.dequantized_weight().to(dtype)
    return weight.t() if issubclass(module.float_class, Conv1D) else weight


def _is_of(name: str, modules: Mapping[str, QuantizedModule]) -> bool:
    owner, _, key = name.rpartition(".")
    return owner in modules and key in modules[owner].tensor_facts()


def _tied_floats(model: Any, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies of floats under the names of those that are tied to them."""
    ties = getattr(model, "all_tied_weights_keys", None) or {}
    return {target: tensors[source].clone() for target, source in ties.items() if source in tensors}


_PLAIN = (
    "from transformers import {model}  # with compressed-tensors installed",
    'model = {model}.from_pretrained("{directory}")',
)
TARGET = Target(write, _PLAIN, runtime=("compressed_tensors",), extra="compressed-tensors", verify=verify)
VLLM = Target(write, ("vllm serve {directory}",))
SGLANG = Target(write, ("python -m sglang.launch_server --model-path {directory}",))
