"""The estimate of activations is that of what a forward pass keeps alive, within half as much again."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hf_quant.errors import ConfigError
from hf_quant.opening.open import opened
from hf_quant.planner.cost.activations import activation_bytes
from tests.integration.tiny import FAMILIES, tiny_model, token_ids
from tests.naming import naming
from tests.planner.mixtures import MIXTURES, mixture


class LiveBytes(TorchDispatchMode):
    """Bytes of all storages that operations made and something still holds, at their peak."""

    def __init__(self):
        super().__init__()
        self.live, self.peak, self.seen = 0, 0, set()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        # What an operation gives back a view of was there before.
        given = {a.untyped_storage()._cdata for a in arguments if isinstance(a, torch.Tensor)}
        outputs = function(*arguments, **(keywords or {}))
        for output in outputs if isinstance(outputs, tuple | list) else (outputs,):
            if isinstance(output, torch.Tensor):
                self.add(output, given)
        return outputs

    def add(self, output, given):
        storage = output.untyped_storage()
        key = storage._cdata
        if key in self.seen or key in given:
            return
        self.seen.add(key)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self.drop, key, storage.nbytes())

    def drop(self, key, size):
        self.seen.discard(key)
        self.live -= size


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("length", [32, 100])
@torch.no_grad()
def test_it_is_near_what_a_forward_pass_keeps(name, length):
    model = tiny_model(name)
    ids = token_ids(4, length)
    options = {} if name == "bert" else {"use_cache": False}
    model(ids, **options)
    with LiveBytes() as live:
        model(ids, **options)
    estimate = activation_bytes(model, length, batch=4)
    assert live.peak / 1.5 < estimate < 1.5 * live.peak


@torch.no_grad()
def test_it_is_near_what_experts_keep():
    for name in MIXTURES:
        model, ids = mixture(name), token_ids(4, 100)
        with naming(name), opened(model):
            model(ids, use_cache=False)
            with LiveBytes() as live:
                model(ids, use_cache=False)
            estimate = activation_bytes(model, 100, batch=4)
            assert live.peak / 1.5 < estimate < 1.5 * live.peak


def test_logits_of_one_position_take_less_and_half_precision_half():
    model = tiny_model("gpt2", vocab_size=4096)
    assert activation_bytes(model, 64, logits=1) < activation_bytes(model, 64) / 3
    assert 2 * activation_bytes(model, 64, dtype=torch.float16) == activation_bytes(model, 64)


def test_sizes_that_are_none_are_refused():
    with pytest.raises(ConfigError, match="length"):
        activation_bytes(tiny_model("bert"), 0)
    with pytest.raises(ConfigError, match="no linears"):
        activation_bytes(torch.nn.Sequential(), 4)
