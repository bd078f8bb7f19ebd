"""LoRA layers whose base, in training, rounds the sum of its weight and the adapter."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear

from hf_quant.errors import UnsupportedModel


class MergedInTheLoop(Linear):
    """PEFT's LoRA layer, whose base adds the adapter to its weight itself, before it rounds it."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """What the base computes.

        Raises:
            UnsupportedModel: Adapters are to be mixed within a batch.
        """
        if kwargs.pop("adapter_names", None) is not None:
            raise UnsupportedModel("adapters that are rounded with their weight cannot be mixed within a batch")
        output: torch.Tensor = self.base_layer(x, *args, **kwargs)
        return output
