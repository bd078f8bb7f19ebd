"""A Transformers model as it comes, in a float dtype."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.runners.base import Generated
from benchmarks.runners.clock import timed_generation


class TransformersModel:
    """Calls the model's `forward` as ``generate`` does, without what that does around each token."""

    bits: float | None = None

    def __init__(self, model: Any):
        self.model = model.eval()

    @torch.inference_mode()
    def encode(self, ids: np.ndarray) -> tuple[float, np.ndarray]:
        """As the contract says."""
        tokens = torch.from_numpy(ids)
        mask = torch.ones_like(tokens)
        start = time.perf_counter()
        hidden = self.model(input_ids=tokens, attention_mask=mask).last_hidden_state
        return time.perf_counter() - start, hidden.float().numpy()

    @torch.inference_mode()
    def generate(self, ids: np.ndarray, steps: int, budget: float) -> Generated:
        """As the contract says."""
        self.cache = self.new_cache(ids.shape[1] + steps)
        return timed_generation(self.first, self.step, ids, steps, budget)

    def new_cache(self, length: int) -> Any:
        """An empty cache for at least `length` tokens."""
        from transformers import DynamicCache

        return DynamicCache()

    def first(self, ids: np.ndarray, position: int) -> np.ndarray:
        """The prompt."""
        return self.call(self.model, ids)

    def step(self, ids: np.ndarray, position: int) -> np.ndarray:
        """One token."""
        return self.call(self.model, ids)

    def call(self, forward: Any, ids: np.ndarray) -> np.ndarray:
        """Logits of the last of `ids`."""
        tokens = torch.from_numpy(ids)
        output = forward(input_ids=tokens, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        return output.logits[0, -1].float().numpy()

    def read_bytes(self) -> int | None:
        """Of everything but tables that rows are looked up in; of experts, a token's share."""
        if self.bits is not None:
            return None
        from hf_quant.modules.experts import expert_layers
        from hf_quant.opening.open import opened
        from hf_quant.planner.cost.routing import routings

        with opened(self.model):
            routed = routings(self.model)
            shares = {
                id(module): routed[name].chosen / routed[name].experts
                for name, layer in expert_layers(self.model)
                for module in layer.modules()
            }
        storages: dict[int, float] = {}
        for module in self.model.modules():
            if isinstance(module, nn.Embedding):
                continue
            share = shares.get(id(module), 1.0)
            own = [*module.parameters(recurse=False), *module.buffers(recurse=False), *getattr(module, "packed", ())]
            for tensor in own:
                # Codes that a kernel's layout took the place of have a shape, but no memory.
                storages[tensor.untyped_storage().data_ptr()] = share * tensor.untyped_storage().nbytes()
        return round(sum(storages.values()))


def load_float(folder: Path, dtype: str = "float32", **options: Any) -> Any:
    """The model of `folder`."""
    from transformers import AutoModel, AutoModelForCausalLM

    kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    auto_class = AutoModel if kind == "bert" else AutoModelForCausalLM
    return auto_class.from_pretrained(folder, dtype=getattr(torch, dtype), **options)


def linears_for_conv1d(model: nn.Module) -> None:
    """Put an ``nn.Linear`` in the place of each ``Conv1D``: other libraries' quantizers pass over those of GPT-2."""
    from transformers.pytorch_utils import Conv1D

    for name in [name for name, module in model.named_modules() if isinstance(module, Conv1D)]:
        replaced: Any = model.get_submodule(name)
        inputs, outputs = replaced.weight.shape
        linear = nn.Linear(inputs, outputs, device="meta")
        linear.weight = nn.Parameter(replaced.weight.detach().t().contiguous(), requires_grad=False)
        linear.bias = nn.Parameter(replaced.bias.detach(), requires_grad=False)
        model.set_submodule(name, linear)


def load(folder: Path, work: Path, dtype: str) -> TransformersModel:
    """The model in `dtype`."""
    return TransformersModel(load_float(folder, dtype))
