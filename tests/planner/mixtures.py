"""Tiny mixtures of experts to plan for."""

import torch
from transformers import MixtralConfig, MixtralForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from tests.integration.tiny import HIDDEN, LAYERS, VOCABULARY, outputs

SIZES = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": VOCABULARY,
    "intermediate_size": 128,
    "max_position_embeddings": 128,
}
MIXTURES = ("mixtral", "qwen3-moe")
EXPERTS = {"mixtral": 4, "qwen3-moe": 8}
PARTS = ("gate_proj", "up_proj", "down_proj")


def mixture(name="mixtral", seed=0, **changes):
    """A float32 model in eval mode of which each token goes to two experts; its weights are drawn large."""
    torch.manual_seed(seed)
    if name == "mixtral":
        model = MixtralForCausalLM(MixtralConfig(**SIZES | {"num_local_experts": EXPERTS[name]} | changes))
    else:
        own = {"num_experts": EXPERTS[name], "num_experts_per_tok": 2, "moe_intermediate_size": 32}
        model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**SIZES | own | changes))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=HIDDEN**-0.5)
    return model.eval()


def experts_of(layer, part, name="mixtral", count=None):
    """Names of one linear of all experts of a layer."""
    return [f"model.layers.{layer}.mlp.experts.{e}.{part}" for e in range(count or EXPERTS[name])]


class Untouched:
    """Context that ends with the model being what it was: classes, names, numbers, and outputs to the last bit."""

    def __init__(self, model):
        self.model = model

    def facts(self):
        model = self.model
        classes = {name: (type(module), module.training) for name, module in model.named_modules()}
        hooks = [m for m in model.modules() if m._forward_pre_hooks or m._forward_hooks]
        places = {name: (id(p), p.requires_grad, p.grad) for name, p in model.named_parameters()}
        return classes, hooks, places

    def __enter__(self):
        self.before = self.facts()
        self.state = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.outputs = outputs(self.model)

    def __exit__(self, *error):
        if any(error):
            return
        assert self.facts() == self.before
        state = self.model.state_dict()
        assert list(state) == list(self.state) and all(torch.equal(state[name], self.state[name]) for name in state)
        assert torch.equal(outputs(self.model), self.outputs)
