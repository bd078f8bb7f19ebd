"""Whole quantized models on native kernels: compiled, copied, called from several threads, and without the library."""

import copy
import json
import pickle
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import hf_quant
from hf_quant.fusion.siblings import Siblings
from hf_quant.kernels.native import library
from hf_quant.modules.tensor import QuantizedTensor
from tests.integration.tiny import FAMILIES, error, outputs, run_python, tiny_model, token_ids
from tests.quantized_modules import saved_and_loaded

native = pytest.mark.skipif(library.load() is None, reason="installed without a compiler")
compiling = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning:torch")

MODELS = (*FAMILIES, "llama-gqa")
IN_A_LAYER = {
    # Projections of the attention, and the feed-forward part; in BERT, also what comes after attention, with its norm.
    "bert": {"native_linears": 1, "native_attention": 1, "native_block": 2},
    "gpt2": {"native_attention": 1, "native_block": 1},
    "llama": {"native_linears": 1, "native_attention": 1, "native_block": 1},
    "llama-gqa": {"native_linears": 1, "native_attention": 1, "native_block": 1},
}
"""Native calls in the compiled graph, beside single linears."""


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def quantized(name, preset="int8"):
    return hf_quant.quantize(tiny_model(name), preset, progress=False)


class Graphs:
    """A backend that keeps the graphs it is given."""

    def __init__(self):
        self.graphs = []

    def __call__(self, graph, inputs):
        self.graphs.append(graph)
        return graph

    def calls(self):
        """How often each native op is in the last graph."""
        targets = (str(node.target).split(".") for node in self.graphs[-1].graph.nodes if node.op == "call_function")
        return Counter(parts[1] for parts in targets if parts[0] == "hf_quant" and parts[1].startswith("native_"))


@native
@compiling
@pytest.mark.parametrize(
    ("name", "preset"), [("bert", "int8"), ("gpt2", "int8"), ("llama", "int4"), ("llama-gqa", "w4a16")]
)
def test_a_compiled_model_is_one_graph_of_fused_calls_for_any_number_of_tokens(name, preset):
    model, backend = quantized(name, preset), Graphs()
    inputs = [token_ids(rows, length) for rows, length in ((2, 16), (3, 5), (2, 1))]
    expected = [outputs(model, ids) for ids in inputs]
    compiled = torch.compile(model, fullgraph=True, backend=backend, dynamic=True)
    for ids, wanted in zip(inputs, expected, strict=True):
        assert error(outputs(compiled, ids), wanted) < 5e-3
        calls, layers = backend.calls(), model.config.num_hidden_layers
        assert {op: calls[op] for op in IN_A_LAYER[name]} == {
            op: layers * count for op, count in IN_A_LAYER[name].items()
        }
    # One token is a graph of its own.
    assert len(backend.graphs) == 2
    for rows, length in ((5, 7), (7, 50)):
        outputs(compiled, token_ids(rows, length))
    assert len(backend.graphs) == 2


@native
@compiling
@pytest.mark.parametrize("name", MODELS)
def test_copies_share_nothing_and_compile(name):
    model = quantized(name)
    expected = outputs(model)
    twin = saved_and_loaded(model)
    assert torch.equal(outputs(twin), expected)
    ours = {id(module) for module in model.modules()}
    for module in twin.modules():
        siblings = getattr(module, "siblings", None)
        assert siblings is None or ours.isdisjoint(map(id, siblings.members))
    for module in model.modules():
        for weight in getattr(module, "weights", {}).values():
            weight.replace({name: torch.zeros_like(tensor) for name, tensor in weight.neutral().items()})
    for parameter in model.parameters():
        if not isinstance(parameter, QuantizedTensor):
            parameter.data.zero_()
    assert torch.equal(outputs(twin), expected)
    if name == "llama-gqa":
        assert error(outputs(torch.compile(twin, fullgraph=True, backend="aot_eager")), expected) < 5e-3


@native
def test_a_model_is_copied_between_the_calls_of_siblings():
    model = quantized("llama")
    attention = model.model.layers[0].self_attn
    input = torch.randn(1, 3, 64)
    with torch.no_grad():
        query = attention.q_proj(input)
        assert isinstance(attention.q_proj.siblings, Siblings) and attention.q_proj.siblings.pending is not None
        twin = pickle.loads(pickle.dumps(attention.q_proj.siblings.members[1]))
        other = copy.deepcopy(attention)
        assert torch.equal(other.k_proj(input), twin(input)) and torch.equal(other.q_proj(input), query)
        assert torch.equal(attention.k_proj(input), twin(input))


@native
@pytest.mark.parametrize("preset", ["int8", "w4a16"])
@pytest.mark.parametrize("name", MODELS)
def test_several_threads_may_call_one_model(name, preset):
    model = quantized(name, preset)
    inputs = [token_ids(2, length, seed=length) for length in (5, 9, 14, 33)]
    expected = [outputs(model, ids) for ids in inputs]
    start = threading.Barrier(3)

    def caller(offset):
        start.wait()
        order = [(offset + turn) % len(inputs) for turn in range(8)]
        return all(torch.equal(outputs(model, inputs[index]), expected[index]) for index in order)

    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(caller, range(3)))


WITHOUT = """
    import json, sys, tempfile
    import torch, hf_quant
    from hf_quant.fusion.mixin import Fused
    from hf_quant.modules.swap import quantized_modules
    from tests.integration.tiny import *

    report = {}
    for name in (*FAMILIES, "llama-gqa"):
        for preset in ("int8", "int4", "w4a16"):
            model = hf_quant.quantize(tiny_model(name), preset, progress=False)
            assert not any(isinstance(module, Fused) for module in model.modules())
            assert model.config._attn_implementation == "sdpa"
            assert all("native" != module.kernel for _, module in quantized_modules(model))
            found = outputs(model)
            report[f"{name} {preset}"] = found.flatten()[::7].tolist()
            if name == "llama" and preset == "int8":
                with tempfile.TemporaryDirectory() as directory:
                    model.save_pretrained(directory)
                    again = auto_class(name).from_pretrained(directory)
                assert torch.equal(outputs(again), found)
                compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
                assert error(outputs(compiled), found) < 5e-3
    model.generate(token_ids(1), max_new_tokens=4, do_sample=False)
    try:
        torch.ops.hf_quant.native_norm(torch.ones(2, 4), torch.ones(4), torch.empty(0), 1, 1e-6)
    except NotImplementedError:
        print(json.dumps(report))
"""


@native
def test_without_the_library_everything_runs_on_aten_and_says_so_once(monkeypatch):
    monkeypatch.setenv(library.ISA_VARIABLE, "none")
    result = run_python(WITHOUT)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("hf_quant runs on torch's own kernels, which are slower") == 1
    assert result.stderr.count(f"{library.ISA_VARIABLE}=none: unset it") == 1
    for case, numbers in json.loads(result.stdout.splitlines()[-1]).items():
        found = outputs(quantized(*case.split())).flatten()[::7]
        # Four bits and floats are multiplied in bfloat16 by ATen.
        assert error(torch.tensor(numbers), found) < 3e-2, case
