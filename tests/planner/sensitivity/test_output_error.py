"""Output errors are those of the outputs, and need no loss."""

import pytest
import torch

from hf_quant.algorithms.rounding import rounded_input
from hf_quant.config.plan import fit
from hf_quant.modules.inventory import Inventory
from hf_quant.planner.offered import SCHEMES
from hf_quant.planner.sensitivity.analysis import analyse
from hf_quant.planner.sensitivity.rounded import quantized_weight
from tests.integration.tiny import tiny_model, token_ids


@pytest.mark.parametrize(
    ("name", "module"), [("llama", "model.layers.1.mlp.down_proj"), ("gpt2", "transformer.h.0.mlp.c_fc")]
)
def test_the_error_is_that_of_the_output(name, module):
    model, scheme, ids = tiny_model(name).eval(), SCHEMES["3 bits"], token_ids(rows=3)
    table = analyse(model, [{"input_ids": ids}], (scheme,), "output-error", progress=False)
    seen = []
    linear = model.get_submodule(module)
    handle = linear.register_forward_pre_hook(lambda module, args: seen.append(args[0].flatten(0, -2)))
    with torch.no_grad():
        model(input_ids=ids)
    handle.remove()
    inputs = torch.cat(seen)
    weight = (linear.weight.T if name == "gpt2" else linear.weight).detach()
    real = inputs @ weight.T
    fitted = fit(scheme, Inventory.of(model).candidates[module], module)
    rounded = rounded_input(inputs, fitted, inputs.abs().amax(0)) @ quantized_weight(linear, fitted, module).T
    expected = ((rounded - real).square().sum() / real.square().sum()).item()
    assert table.loss(module, scheme) == pytest.approx(expected, rel=0.1)


def test_rows_that_are_not_looked_up_do_not_count():
    model, ids = tiny_model("llama"), token_ids(rows=2)
    unseen = next(token for token in range(model.config.vocab_size) if token not in ids)
    scheme = SCHEMES["2 bits"]
    before = analyse(model, [{"input_ids": ids}], (scheme,), "output-error", progress=False)
    with torch.no_grad():
        model.model.embed_tokens.weight[unseen] *= 100
    after = analyse(model, [{"input_ids": ids}], (scheme,), "output-error", progress=False)
    assert after.loss("model.embed_tokens", scheme) == before.loss("model.embed_tokens", scheme)


def test_padding_does_not_count():
    model, ids = tiny_model("llama"), token_ids(rows=2)
    padded = torch.cat([ids, torch.full((2, 5), 7)], dim=1)
    mask = torch.cat([torch.ones_like(ids), torch.zeros(2, 5, dtype=torch.int64)], dim=1)
    scheme, module = SCHEMES["2 bits"], "model.layers.1.mlp.up_proj"
    alone, filled = (
        analyse(model, [batch], (scheme,), "output-error", progress=False).loss(module, scheme)
        for batch in ({"input_ids": ids}, {"input_ids": padded, "attention_mask": mask})
    )
    assert filled == pytest.approx(alone, rel=1e-4)
