"""Checkpoints of other programs while ``from_pretrained`` reads them: tensors become ours one module at a time."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from transformers.core_model_loading import ConversionOps, WeightConverter
from transformers.quantizers.auto import AutoHfQuantizer
from transformers.quantizers.quantizers_utils import get_module_from_name

from hf_quant.errors import CheckpointError, HfQuantError
from hf_quant.extending.original import ORIGINAL
from hf_quant.formats.base import TensorFacts
from hf_quant.importing.headers import Headers
from hf_quant.importing.module import ForeignModule
from hf_quant.importing.source import Source
from hf_quant.modules.base import QuantizedModule
from hf_quant.quantizing.config import HfQuantConfig


class ReadForeign(ConversionOps):
    """Tensors of one module in; ours out, under the names of the quantized module. Other tensors stay.

    Args:
        modules: Quantized modules by their names in the model.
        failures: Gets what went wrong: Transformers makes text of what an operation raises.
    """

    def __init__(self, modules: Mapping[str, ForeignModule], failures: list[HfQuantError]):
        self.modules = modules
        self.failures = failures

    def __deepcopy__(self, memo: dict[int, Any]) -> ReadForeign:
        return self  # Transformers copies it for each module

    def convert(
        self, input_dict: dict[str, Any], *, full_layer_name: str, model: Any, **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        """Codes and scales of one module."""
        name = full_layer_name.removesuffix(".weight")
        given = {key: value[0] if isinstance(value, list) else value for key, value in input_dict.items()}
        if name not in self.modules:
            owner, key = get_module_from_name(model, full_layer_name)
            (tensor,) = given.values()
            return {full_layer_name: tensor.to(getattr(owner, key).dtype)}
        module = model.get_submodule(name)
        assert isinstance(module, QuantizedModule)
        facts = module.tensor_facts()
        try:
            if self.failures:
                raise self.failures[0]
            short = {
                key.removeprefix(r"\.").removesuffix("$").replace("\\", ""): tensor for key, tensor in given.items()
            }
            scheme, tensors = self.modules[name].converted(short)
            if scheme != module.spec.scheme or tensors.keys() != facts.keys():
                raise CheckpointError(f"{name} is no longer what from_checkpoint saw: call it again")
        except HfQuantError as error:
            self.failures.append(error)
            tensors = _placeholders(facts)
        return {f"{name}.{key}": tensor for key, tensor in tensors.items()}


def conversion(modules: Mapping[str, ForeignModule], failures: list[HfQuantError]) -> WeightConverter:
    """What brings the tensors of each module together and reads them: `ReadForeign`."""
    shorts = dict.fromkeys(short for module in modules.values() for short in module.tensors)
    patterns = [rf"\.{short.replace('.', chr(92) + '.')}$" for short in shorts]
    return WeightConverter(patterns, ".weight", [ReadForeign(modules, failures)])


def check_same_files(source: Source, headers: Headers) -> None:
    """Raise CheckpointError unless what is opened is what `HfQuantConfig.from_checkpoint` read."""
    if headers != source.headers:
        raise CheckpointError(
            f"the config is of {source.folder}, and other tensors are opened: give from_checkpoint and from_pretrained "
            "the same checkpoint"
        )


def install() -> None:
    """Let a config from `HfQuantConfig.from_checkpoint` take precedence over that of another program in a checkpoint.

    Transformers refuses a config of another class than the checkpoint's.
    """
    original = AutoHfQuantizer.merge_quantization_configs
    if hasattr(original, ORIGINAL):
        return

    @functools.wraps(original)
    def merged(said: Any, given: Any) -> Any:
        if isinstance(given, HfQuantConfig) and given.foreign is not None:
            return given
        return original(said, given)

    setattr(merged, ORIGINAL, original)
    AutoHfQuantizer.merge_quantization_configs = staticmethod(merged)


def _placeholders(facts: TensorFacts) -> dict[str, torch.Tensor]:
    return {name: torch.ones(1, dtype=dtype).expand(shape) for name, (shape, dtype) in facts.items()}
