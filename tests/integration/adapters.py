"""LoRA on tiny models: where adapters go, and a few steps of training."""

import torch
from peft import LoraConfig

from hf_quant.modules.base import QuantizedModule
from tests.integration.tiny import token_ids

TARGETS = {
    "bert": ["query", "value", "intermediate.dense"],
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "llama": ["q_proj", "v_proj", "down_proj"],
}


def lora_config(name, **changes):
    """Rank 4 on the attention and MLP of a family, initialised so that a fresh adapter is the identity."""
    return LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": TARGETS.get(name), **changes})


def train(model, steps=8):
    """Losses of `steps` steps of Adam on one batch that is its own label."""
    torch.manual_seed(0)
    ids = token_ids()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(steps):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def codes(model):
    """Copies of codes, scales and zero points of every quantized module."""
    return [
        tensor.clone()
        for module in model.modules()
        if isinstance(module, QuantizedModule)
        for tensor in module.neutral().values()
    ]


def same(before, after):
    """Whether two lists of tensors are equal bit for bit."""
    return len(before) == len(after) and all(map(torch.equal, before, after))
