"""The conversion that turns one float tensor of a checkpoint into codes while it is loaded."""

from __future__ import annotations

from typing import Any

import torch
from transformers.core_model_loading import ConversionOps
from transformers.quantizers.quantizers_utils import get_module_from_name

from hf_quant.algorithms.base import Solver
from hf_quant.errors import HfQuantError, WeightError
from hf_quant.formats import weight_facts
from hf_quant.modules.base import QuantizedModule
from hf_quant.modules.conv1d import QuantizedConv1D
from hf_quant.modules.opened import Opened
from hf_quant.modules.weight import stored_name


class QuantizeOnLoad(ConversionOps):
    """Float weight in; the tensors of its format out, under the names of the quantized module.

    Transformers turns whatever an operation raises into text of a report, so the first typed error is put into
    `failures` for the quantizer to raise once loading ends, and later tensors are not worked on in vain.
    """

    def __init__(self, ties: dict[str, str], in_checkpoint: set[str], failures: list[HfQuantError], solver: Solver):
        self.ties = ties
        self.in_checkpoint = in_checkpoint
        self.failures = failures
        self.solver = solver

    def convert(
        self, input_dict: dict[str, Any], *, full_layer_name: str, model: Any, **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        """Codes and scales of one weight, or of several that one tensor of the checkpoint was split into."""
        converted: dict[str, torch.Tensor] = {}
        for name, value in input_dict.items():
            # Of a single tensor the name may be a pattern still.
            full = full_layer_name if len(input_dict) == 1 else name
            weight = value[0] if isinstance(value, list) else value
            module, tensor_name = get_module_from_name(model, full)
            if isinstance(module, Opened):
                if (missing := kwargs.get("missing_keys")) is not None:
                    missing.discard(full)
                converted |= self._parts(module, tensor_name, weight, full.removesuffix(tensor_name))
            elif isinstance(module, QuantizedModule) and tensor_name == "weight":
                converted |= self._converted(module, weight, full.removesuffix(".weight"))
            else:
                converted[full] = weight.to(getattr(module, tensor_name).dtype)
        return converted

    def _parts(self, module: Opened, stacked: str, whole: torch.Tensor, prefix: str) -> dict[str, torch.Tensor]:
        (stack,) = (stack for stack in module.stacks if stack.name == stacked)
        if tuple(whole.shape) != stack.shape:
            self.failures.append(_misfit(f"{prefix}{stacked}", whole, stack.shape))
            whole = torch.zeros(1, dtype=whole.dtype).expand(stack.shape)
        converted: dict[str, torch.Tensor] = {}
        for name, view in module.read(stack, whole):
            linear, _, tensor = name.rpartition(".")
            child = module.get_submodule(linear)
            if tensor == "weight" and isinstance(child, QuantizedModule):
                converted |= self._converted(child, view, prefix + linear)
            else:
                dtype = getattr(child, tensor).dtype
                converted[prefix + name] = view.to(dtype, copy=True, memory_format=torch.contiguous_format)
        return converted

    def _converted(self, module: QuantizedModule, weight: torch.Tensor, name: str) -> dict[str, torch.Tensor]:
        try:
            tensors = self._tensors(module, weight, name)
        except HfQuantError as error:
            self.failures.append(error)
            tensors = _placeholders(module)
        converted = {f"{name}.{stored_name('weight', key)}": tensor for key, tensor in tensors.items()}
        source = self.ties.get(name)
        if source is not None and f"{source}.weight" not in self.in_checkpoint:
            converted.update({f"{source}.{stored_name('weight', key)}": value for key, value in tensors.items()})
        return converted

    def _tensors(self, module: QuantizedModule, weight: torch.Tensor, name: str) -> dict[str, torch.Tensor]:
        if self.failures:
            return _placeholders(module)
        if isinstance(module, QuantizedConv1D):
            weight = weight.t()
        expected = (module.spec.out_features, module.spec.in_features)
        if tuple(weight.shape) != expected:
            raise _misfit(f"{name}.weight", weight, expected)
        return self.solver.solve(weight, module.spec.scheme.weight, f"{name}.weight")


def _placeholders(module: QuantizedModule) -> dict[str, torch.Tensor]:
    facts = weight_facts(module.spec.scheme.weight, module.spec.out_features, module.spec.in_features)
    return {name: torch.ones(1, dtype=dtype).expand(shape) for name, (shape, dtype) in facts.items()}


def _misfit(name: str, tensor: torch.Tensor, expected: tuple[int, ...]) -> WeightError:
    return WeightError(
        f"{name} has shape {tuple(tensor.shape)} in the checkpoint, but the model expects {expected}: "
        "do config.json and checkpoint belong together?"
    )
