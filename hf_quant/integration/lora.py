"""LoRA layers whose base is a quantized linear."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from peft.tuners.tuners_utils import check_adapters_to_merge

from hf_quant.algorithms import SOLVERS
from hf_quant.errors import UnsupportedModel, WeightError
from hf_quant.modules.base import QuantizedModule
from hf_quant.modules.linear import QuantizedLinear


class LoraOnQuantized(Linear):
    """PEFT's LoRA layer; `merge` adds the adapter to the decoded weight and quantizes the sum with the same scheme."""

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Merge adapters into the codes. Rounding makes this approximate; it cannot be undone.

        Args:
            safe_merge: Accepted for PEFT; sums are always checked for NaN and Inf before codes change.
            adapter_names: Adapters to merge; None for the active ones.

        Raises:
            WeightError: The sum holds NaN or Inf; the layer is as it was.
            UnsupportedModel: The adapter is a variant (DoRA and the like), or its base is tied to another module.
        """
        for adapter in check_adapters_to_merge(self, adapter_names):
            if adapter not in self.lora_A:
                continue
            base = self._mergeable_base(adapter)
            warnings.warn(
                "merging an adapter into quantized weights rounds them again; for an exact merge call "
                "model.dequantize() on the base model first",
                stacklevel=2,
            )
            delta = self.get_delta_weight(adapter).to(torch.float32)
            solved = SOLVERS["rtn"]().solve(base.dequantized_weight() + delta, base.spec.scheme.weight, "merged weight")
            bias = self.lora_bias[adapter]
            if bias and base.bias is None:
                raise WeightError("the adapter has a bias but its base layer has none: train it with lora_bias=False")
            base.weights["weight"].replace(solved)
            if bias:
                base.bias.data += self.lora_B[adapter].bias.data * self.scaling[adapter]
            base.prepare()
            self.merged_adapters.append(adapter)

    def unmerge(self) -> None:
        """Refused: the codes before the merge are gone.

        Raises:
            UnsupportedModel: Something was merged.
        """
        if self.merged:
            raise UnsupportedModel("a merge into quantized weights cannot be undone: load the base model again")

    def _mergeable_base(self, adapter: str) -> QuantizedLinear:
        base: Any = self.get_base_layer()
        if adapter in self.lora_variant:
            raise UnsupportedModel(
                "only plain LoRA adapters merge into quantized weights: call model.dequantize() on the base model, "
                "then load the adapter and merge"
            )
        if sum(isinstance(reader, QuantizedModule) for reader in base.weights["weight"].readers) > 1:
            raise UnsupportedModel("this layer shares its codes with an embedding: dequantize the base model to merge")
        return base
