"""What of a model type is quantized, and what stays float and why, at the size that its config has by default.

    python -m benchmarks.model_parts                   # all that every_model built and that lack an entry
    python -m benchmarks.model_parts --types llama vit

Models of `benchmarks.every_model` are narrow, and biases and convolutions weigh more in them than in real ones. Here
nothing is run: a model of the size that the type's config has by default is planned on the meta device, so that shares
are those of a checkpoint of that size; of the largest mixtures of experts, some layers stand for all. The record is
`benchmarks/records/model_parts.json`.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import pkgutil
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import CONFIG_MAPPING

import hf_quant
from benchmarks.small_configs import LEVELS, small_config
from hf_quant.opening.open import opened
from hf_quant.quantizing.resolve import resolve

RECORDS = Path(__file__).parent / "records"
TRIALS, PARTS = RECORDS / "every_model.json", RECORDS / "model_parts.json"
PRESET = "int8"
"""What is quantized is the same in all presets of integers."""
MOST_EXPERTS, LAYERS = 3000, 8
"""Experts of a model from which on so many of its layers stand for all, since each expert takes its time."""
SORTS = ("encoders", "decoders", "encoder-decoders", "vision", "audio", "multimodal", "others")


def parts_of(model: nn.Module, preset: str = PRESET) -> dict[str, dict[str, float]]:
    """Shares of a model's weights, 0 to 1 of the bytes that all take as floats, each weight counted once.

    Args:
        model: Float, on any device, also meta; its weights are not read.
        preset: Name of a preset.

    Returns:
        ``quantized``, kind of module (linear, embedding, expert, recurrent, convolution) to its share; and ``float``,
        reason to its share. Together they are 1.
    """
    classes = {name: type(module) for name, module in model.named_modules()}
    with opened(model):
        resolution = resolve(model, hf_quant.HfQuantConfig(preset))
        sizes: dict[int, int] = {}
        said: dict[int, tuple[str, str]] = {}
        for name, module in model.named_modules():
            for key, parameter in module._parameters.items():
                if parameter is None:
                    continue
                sizes[id(parameter)] = parameter.numel() * parameter.element_size()
                if name not in resolution.plan.modules:
                    found = ("float", resolution.kept_float.get(name, "parameters of no module of the kind"))
                elif key == "weight":
                    found = ("quantized", _kind(name, classes))
                else:
                    found = ("float", "biases of quantized modules")
                # A weight that several hold is what the first is that is quantized.
                if said.get(id(parameter), ("float",))[0] == "float":
                    said[id(parameter)] = found
    total = sum(sizes.values())
    shares: dict[str, dict[str, float]] = {"quantized": defaultdict(float), "float": defaultdict(float)}
    for each, (part, why) in said.items():
        shares[part][why] += sizes[each] / total
    return {part: dict(sorted(found.items(), key=lambda pair: -pair[1])) for part, found in shares.items()}


def sort_of(model_class: Any) -> str:
    """What a class of Transformers reads and writes, one of `SORTS`."""
    main, takes = model_class.main_input_name, inspect.signature(model_class.forward).parameters
    if main == "input_ids":
        if any(name.startswith(("pixel_values", "input_features", "input_values")) for name in takes):
            return "multimodal"
        if "decoder_input_ids" in takes:
            return "encoder-decoders"
        return "decoders" if model_class.can_generate() or "past_key_values" in takes else "encoders"
    if main in ("input_values", "input_features"):
        return "multimodal" if "input_ids" in takes else "audio"
    if main == "pixel_values":
        return "multimodal" if "input_ids" in takes else "vision"
    return "others"


def _kind(name: str, classes: dict[str, type[nn.Module]]) -> str:
    """Kind of a quantized module, by the class of the float module or of the one that it was opened from."""
    held = name
    while held not in classes:
        held = held.rpartition(".")[0]
    found = classes[held]
    if issubclass(found, nn.RNNBase):
        return "recurrent"
    if issubclass(found, nn.modules.conv._ConvNd):
        return "convolution"
    if held != name:
        return "expert"
    return "embedding" if issubclass(found, nn.Embedding) else "linear"


def model_of(model_type: str, class_name: str, levels: tuple[str | None, ...] = (None, *reversed(LEVELS))) -> nn.Module:
    """A model on the meta device.

    Args:
        model_type: A key of Transformers' ``CONFIG_MAPPING``.
        class_name: Name of a class for it.
        levels: Sizes to try, the first that makes a model is taken: None for that of the type's config by default, else
            one of `LEVELS`. Some parts of models have no size of their own.
    """
    model_class = class_named(class_name, model_type)
    first: Exception | None = None
    for level in levels:
        try:
            config = CONFIG_MAPPING[model_type]() if level is None else small_config(model_type, level)
            with torch.device("meta"):
                model: nn.Module = model_class(config)
            thin_out(model)
            return model
        except Exception as error:
            first = first or error
    assert first is not None
    raise first


def thin_out(model: nn.Module) -> None:
    """Leave `LAYERS` of the layers of a model with more than `MOST_EXPERTS` experts, from its first to its last."""
    stacks = [each for each in model.parameters() if each.ndim == 3]
    if sum(each.shape[0] for each in stacks) <= 2 * MOST_EXPERTS:  # two stacks hold the weights of a layer's experts
        return
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and (count := len(module)) > LAYERS:
            kept = [module[round(index * (count - 1) / (LAYERS - 1))] for index in range(LAYERS)]
            module._modules = nn.ModuleList(kept)._modules


def recorded_classes() -> dict[str, str]:
    """Model types that were built to the names of their classes, by the record of `benchmarks.every_model`."""
    trials = json.loads(TRIALS.read_text(encoding="utf-8"))
    return {each["type"]: each["model"] for each in trials if "model" in each}


def class_named(name: str, model_type: str) -> Any:
    """A class of Transformers, exported or not, for models of a type."""
    if hasattr(transformers, name):
        return getattr(transformers, name)
    package = importlib.import_module(CONFIG_MAPPING[model_type].__module__.rpartition(".")[0])
    for each in pkgutil.iter_modules(package.__path__):
        if each.name.startswith("modeling_"):
            module = importlib.import_module(f"{package.__name__}.{each.name}")
            if hasattr(module, name):
                return getattr(module, name)
    raise LookupError(f"no class {name} of {model_type}")


def main() -> None:
    """Bring the record up to date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", nargs="+", help="model types to find anew; what the record lacks unless given")
    options = parser.parse_args()
    classes = recorded_classes()
    parts = json.loads(PARTS.read_text(encoding="utf-8")) if PARTS.exists() else {}
    for model_type in options.types or [each for each in classes if parts.get(each, {}).get("model") != classes[each]]:
        parts[model_type] = {"model": classes[model_type]}
        try:
            parts[model_type]["sort"] = sort_of(class_named(classes[model_type], model_type))
            shares = parts_of(model_of(model_type, classes[model_type]))
            parts[model_type] |= {part: {k: round(v, 4) for k, v in found.items()} for part, found in shares.items()}
        except Exception as error:  # such as a config without a default
            first = next(iter(str(error).splitlines()), "")
            parts[model_type]["error"] = re.sub(r"/[^ ]*/site-packages/", "", f"{type(error).__name__}: {first}")[:200]
        print(model_type, json.dumps(parts[model_type]), flush=True)
        lines = (f"{json.dumps(each)}: {json.dumps(parts[each])}" for each in sorted(parts))
        PARTS.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
