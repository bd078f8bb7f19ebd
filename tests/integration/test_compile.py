"""`torch.compile`: one graph, and the logits of eager mode."""

from types import SimpleNamespace

import pytest
import torch
from transformers import StaticCache

import hf_quant
from hf_quant.integration.compile import guards_on_inputs
from hf_quant.kernels.native import library as native
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
    ids = token_ids(rows=8)
    found, expected = outputs(torch.compile(model, fullgraph=True), ids), outputs(model, ids)
    # Sums in another order may tip an input over to the next code, which its whole sequence then shows a little.
    errors = sorted(error(*rows) for rows in zip(found, expected, strict=True))
    assert errors[3] < 1e-5
    assert errors[-1] < 3e-2


def decoder(model, cache_length=32):
    """A static cache that holds a prompt, and what its next token is."""
    cache = StaticCache(config=model.config, max_cache_len=cache_length)
    with torch.no_grad():
        logits = model(input_ids=token_ids(rows=1), past_key_values=cache, use_cache=True).logits
    return cache, logits[:, -1:].argmax(-1)


@torch.no_grad()
def decode(forward, cache, token, steps=4):
    """Logits of greedy steps."""
    found = []
    for _ in range(steps):
        logits = forward(input_ids=token, past_key_values=cache, use_cache=True).logits
        found.append(logits)
        token = logits.argmax(-1)
    return torch.cat(found)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning:torch")
@pytest.mark.parametrize("preset", ["int8", "int4"])
@pytest.mark.parametrize("name", ["gpt2", "llama-gqa"])
def test_compiled_decoding_computes_what_eager_does_in_fewer_calls_and_guards(name, preset, load):
    model = load(name, preset)
    kept, nodes, given = [], [], []

    def backend(graph, inputs):
        given.extend(inputs)
        nodes.extend(node.target for node in graph.graph.nodes if node.op == "call_function")
        return graph

    def keep(guards):
        flags = guards_on_inputs(guards)
        kept.extend(zip(flags, [guard.name for guard in guards], strict=True))
        return flags

    compiled = hf_quant.compile(model, backend=backend, options={"guard_filter_fn": keep})
    assert error(decode(compiled, *decoder(model)), decode(model, *decoder(model))) < 5e-3
    names = {name for flag, name in kept if flag}
    assert len(names) < 0.1 * len(kept)
    # The token and, per layer, keys, values and how many there are: no weights.
    assert len(given) <= 1 + 4 * model.config.num_hidden_layers
    assert not torch._dynamo.config.install_free_tensors
    assert any("input_ids" in name for name in names) and any("layers[0].keys" in name for name in names)
    if native.load() is not None:
        # Per layer: query, key and value, attention, the projection after it, and the feed-forward block. What counts
        # writes while a graph is traced is not computed: compilers drop it.
        calls = [str(target).split(".")[1] for target in nodes if str(target).startswith("hf_quant.native_")]
        each = {"llama-gqa": ["native_linears", "native_attention", "native_linear", "native_block"]}.get(name)
        if each is not None:
            assert calls == ["native_embedding", *each * model.config.num_hidden_layers, "native_linear"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning:torch")
def test_a_compiled_model_is_never_run_on_what_it_was_not_compiled_for(load):
    model = load("llama", "int8")
    compiled = hf_quant.compile(model, backend="aot_eager")
    for length, cache_length in ((1, 32), (3, 32), (1, 48)):
        cache, _ = decoder(model, cache_length)
        other, _ = decoder(model, cache_length)
        ids = token_ids(rows=1, length=length, seed=length)
        with torch.no_grad():
            found = compiled(input_ids=ids, past_key_values=cache, use_cache=True).logits
            expected = model(input_ids=ids, past_key_values=other, use_cache=True).logits
        assert found.shape == expected.shape and error(found, expected) < 5e-3


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning:torch")
def test_generate_compiles_on_the_cpu_and_says_the_same(load):
    model = load("llama", "int8")
    expected = model.generate(token_ids(rows=1), max_new_tokens=8, do_sample=False)
    config = hf_quant.compile_config()
    config.backend = "aot_eager"
    found = model.generate(
        token_ids(rows=1), max_new_tokens=8, do_sample=False, cache_implementation="static", compile_config=config
    )
    assert torch.equal(found, expected)
    assert hasattr(model, "_compiled_call")


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("kwargs['input_ids']", True),
        ("kwargs['past_key_values'].layers[0].keys", True),
        ("kwargs['past_key_values'].layers[1].keys", False),
        ("self.training", True),
        ("self.model.layers", False),
        ("G['__import_torch'].compiler", False),
        ("dict(type(G['ALL_MASK_ATTENTION_FUNCTIONS']).__dict__)['_global_mapping']", False),
    ],
)
def test_guards_are_kept_on_what_can_change_from_call_to_call(name, kept):
    assert guards_on_inputs([SimpleNamespace(name=name)]) == [kept]
