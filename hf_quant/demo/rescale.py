"""Rescaling the channels of a Llama model without changing what it computes.

A weight read from a 4-bit file lies on that file's grid, so quantizing it to 4 bits again looks nearly free. Scaling
the input channels of every linear layer by unequal factors moves the weights off the grid, while the layer before
absorbs the inverse factors and the model's function stays the same.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def rescale_channels(
    state: Mapping[str, Tensor], heads: int, key_value_heads: int, seed: int = 0, spread: float = 1.25
) -> dict[str, Tensor]:
    """A state dict of the same function whose every linear layer has rescaled input channels.

    With ``s`` positive and drawn log-uniformly from ``[1 / spread, spread]``, each pair below is exact in real
    arithmetic, so outputs differ from the original's by float rounding only:

    - ``input_layernorm * s`` feeds ``q_proj, k_proj, v_proj`` columns ``/ s``;
    - ``post_attention_layernorm * s`` feeds ``gate_proj, up_proj`` columns ``/ s``;
    - ``v_proj`` rows ``* s`` feed ``o_proj`` columns ``/ s`` (attention mixes tokens, never channels), each factor
      repeated for the query heads that share its key-value head;
    - ``up_proj`` rows ``* s`` feed ``down_proj`` columns ``/ s`` (the gate multiplies channel by channel).

    The final norm is left alone, for its consumer may be tied to the embedding.

    Args:
        state: a `LlamaForCausalLM` state dict with ``[out, in]`` linear weights; not mutated.
        heads: query heads per layer.
        key_value_heads: key-value heads per layer; divides `heads`.
        seed: fixes the factors.
        spread: greatest factor, at least 1.

    Returns:
        New tensors where changed, the given ones elsewhere; dtypes and shapes as in `state`.
    """
    if spread < 1:
        raise ValueError(f"spread is the greatest factor and must be at least 1, got {spread}")
    rescaled = dict(state)
    generator = torch.Generator().manual_seed(seed)

    def factors(count: int) -> Tensor:
        exponent = torch.rand(count, generator=generator, dtype=torch.float64) * 2 - 1
        return torch.as_tensor(spread, dtype=torch.float64).pow(exponent)

    def multiply(name: str, scale: Tensor) -> None:
        weight = rescaled[name]
        # In float64, so that each product is rounded once, to the weight's own type.
        rescaled[name] = (weight.double() * scale.to(weight.device)).to(weight.dtype)

    def multiply_rows(layer: str, scale: Tensor) -> None:
        multiply(f"{layer}.weight", scale[:, None])
        if f"{layer}.bias" in rescaled:
            multiply(f"{layer}.bias", scale)

    for block in _blocks(state):
        for norm, consumers in _NORM_CONSUMERS.items():
            scale = factors(len(state[f"{block}.{norm}.weight"]))
            multiply(f"{block}.{norm}.weight", scale)
            for consumer in consumers:
                multiply(f"{block}.{consumer}.weight", scale.reciprocal())

        value = f"{block}.self_attn.v_proj"
        scale = factors(len(state[f"{value}.weight"]))
        multiply_rows(value, scale)
        by_head = scale.view(key_value_heads, 1, -1)
        repeated = by_head.expand(-1, heads // key_value_heads, -1).reshape(-1)
        multiply(f"{block}.self_attn.o_proj.weight", repeated.reciprocal())

        scale = factors(len(state[f"{block}.mlp.up_proj.weight"]))
        multiply_rows(f"{block}.mlp.up_proj", scale)
        multiply(f"{block}.mlp.down_proj.weight", scale.reciprocal())
    return rescaled


_NORM_CONSUMERS = {
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
}


def _blocks(state: Mapping[str, Tensor]) -> list[str]:
    """The prefixes ``model.layers.0``, ``model.layers.1``, ... in order."""
    ending = ".input_layernorm.weight"
    blocks = [name.removesuffix(ending) for name in state if name.endswith(ending)]
    return sorted(blocks, key=lambda block: int(block.rsplit(".", 1)[1]))
