"""`torch.compile`: one graph, and the logits of eager mode."""

import pytest
import torch

from tests.integration.tiny import FAMILIES, error, outputs, token_ids


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning:torch")
@pytest.mark.parametrize("preset", ["int8", "int4", "bf16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_whole_model_is_one_graph_that_computes_what_eager_does(name, preset, load):
    model = load(name, preset)
    expected = outputs(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    # Decompositions of norms and activations sum in another order; an activation's code may flip.
    assert error(outputs(compiled), expected) < 5e-3
    assert torch.equal(outputs(model), expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning:torch")
def test_another_length_needs_no_other_weights(load):
    model = load("llama", "int8")
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=True)
    for length in (5, 9, 33):
        ids = token_ids(length=length)
        assert error(outputs(compiled, ids), outputs(model, ids)) < 5e-3


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning:torch")
@pytest.mark.parametrize(
    ("name", "preset"),
    [
        ("bert", "int8"),
        *(
            pytest.param(name, preset, marks=pytest.mark.slow)
            for name in FAMILIES
            for preset in ("int8", "int4")
            if (name, preset) != ("bert", "int8")
        ),
    ],
)
def test_inductor_computes_what_eager_does(name, preset, load):
    model = load(name, preset)
    expected = outputs(model)
    assert error(outputs(torch.compile(model, fullgraph=True)), expected) < 5e-3
