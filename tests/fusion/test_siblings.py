"""Query, key and value on one input are computed by one call, and by no other input's."""

import pytest
import torch
from torch import nn
from torch._dynamo.backends.common import aot_autograd

import hf_quant
from hf_quant.fusion import siblings as module_under_test
from hf_quant.fusion.siblings import Siblings, find_siblings
from hf_quant.kernels.native import library
from tests.integration.tiny import outputs, tiny_model
from tests.quantized_linear import make_input, spec_for
from tests.quantized_modules import make_linear

pytestmark = pytest.mark.skipif(library.load() is None, reason="installed without a compiler")


def trio(name="int8", count=3):
    members = [make_linear(spec_for(name, 64, outputs), seed=seed) for seed, outputs in enumerate((64, 48, 32)[:count])]
    together = Siblings(members)
    for member in members:
        member.siblings = together
    return members


@pytest.fixture
def calls(monkeypatch):
    """How often all members were computed at once."""
    made = []
    original = module_under_test._linears_op
    monkeypatch.setattr(module_under_test, "_linears_op", lambda *a: (made.append(1), original(*a))[1])
    return made


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("name", ["int8", "int4", "w4a16"])
def test_one_call_serves_all_members(name, count, calls):
    members = trio(name, count)
    input = make_input(members[0].spec, 5)
    with torch.no_grad():
        found = [member(input) for member in members]
    assert len(calls) == 1
    for member in members:
        member.siblings = None
    assert all(torch.equal(output, member(input)) for output, member in zip(found, members, strict=True))


def test_each_input_is_computed_anew(calls):
    members = trio()
    with torch.no_grad():
        for seed in range(3):
            input = make_input(members[0].spec, 5, seed=seed)
            for member in members:
                expected = make_linear(member.spec, seed=members.index(member))(input)
                assert torch.equal(member(input), expected)
    assert len(calls) == 3


def test_members_called_on_different_inputs_are_separated_for_good(calls):
    members = trio()
    first, second = (make_input(members[0].spec, 5, seed=seed) for seed in (0, 1))
    expected = [make_linear(member.spec, seed=i)(second) for i, member in enumerate(members)]
    with torch.no_grad():
        members[0](first)
        assert torch.equal(members[1](second), expected[1])
        assert torch.equal(members[2](second), expected[2])
    assert len(calls) == 1 and all(member.siblings is None for member in members)


def test_tensors_that_come_with_the_call_of_a_member_are_waited_for(calls):
    # As accelerate brings them: a bias that is on meta until its own module is called.
    members = trio()
    input = make_input(members[0].spec, 5)
    expected = [member(input) for member in members]
    calls.clear()
    for member in members:
        bias, member.bias = member.bias, nn.Parameter(member.bias.detach().to("meta"), requires_grad=False)
        member.register_forward_pre_hook(lambda module, args, bias=bias: setattr(module, "bias", bias))
    with torch.no_grad():
        assert all(torch.equal(member(input), output) for member, output in zip(members, expected, strict=True))
    assert not calls


def test_an_input_that_was_written_to_is_not_the_same(calls):
    members = trio()
    input = make_input(members[0].spec, 5)
    with torch.no_grad():
        members[0](input)
        input.mul_(2)
        assert torch.equal(members[1](input), make_linear(members[1].spec, seed=1)(input))


def test_inference_tensors_which_do_not_count_writes_are_compared(calls):
    members = trio()
    with torch.inference_mode():
        input = make_input(members[0].spec, 5)
        expected = [make_linear(member.spec, seed=i)(input) for i, member in enumerate(members)]
        for _ in range(2):
            assert all(map(torch.equal, [member(input) for member in members], expected))
    assert len(calls) == 2


@pytest.mark.parametrize("earlier", [0, 1, 3])
def test_an_inference_tensor_that_was_written_to_is_not_the_same(earlier, calls):
    members = trio()
    with torch.inference_mode():
        for seed in range(earlier):
            before = make_input(members[0].spec, 5, seed=seed)
            assert all(torch.isfinite(member(before)).all() for member in members)
        input = make_input(members[0].spec, 5)
        members[0](input)
        input.mul_(2)
        assert torch.equal(members[1](input), make_linear(members[1].spec, seed=1)(input))
    assert len(calls) == 1 + earlier and all(member.siblings is None for member in members)


def test_nothing_is_held_once_all_members_were_served():
    members = trio()
    input = make_input(members[0].spec, 5)
    with torch.no_grad():
        for member in members:
            member(input)
    assert members[0].siblings.pending is None


def test_linears_of_other_widths_or_formats_are_no_siblings():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = make_linear(spec_for("int8", 64, 64)), make_linear(spec_for("int8", 128, 64))
            self.c, self.d = make_linear(spec_for("int4", 64, 64)), make_linear(spec_for("w4a16", 64, 64))

    assert find_siblings(Mixed()) == []


def test_a_linear_that_follows_another_is_not_taken_for_its_sibling(calls):
    model = hf_quant.quantize(tiny_model("gpt2"), "int8", progress=False)
    outputs(model)
    assert not calls and not any(getattr(module, "siblings", None) for module in model.modules())


@pytest.mark.parametrize(("name", "count"), [("llama-gqa", 3), ("bert", 3)])
def test_query_key_and_value_of_a_model_are_siblings(name, count, calls):
    model = hf_quant.quantize(tiny_model(name), "int8", progress=False)
    outputs(model)
    assert len(calls) == model.config.num_hidden_layers
    together = next(module.siblings for module in model.modules() if getattr(module, "siblings", None))
    assert len(together.members) == count


class Attention(nn.Module):
    """Query, key and value, with a write to their input after the first."""

    def __init__(self, write):
        super().__init__()
        self.query, self.key, self.value = trio()
        self.write = write

    def forward(self, input):
        input = input + 1
        query = self.query(input)
        self.write(input)
        return query, self.key(input), self.value(input)


def break_and_write(input):
    torch._dynamo.graph_break()
    input.mul_(2)


WRITES = {
    "itself": lambda input: input.mul_(2),
    "a view": lambda input: input.view(-1).mul_(2),
    "an alias": lambda input: input.detach().mul_(2),
    "a row": lambda input: input[0].fill_(1),
    "an output": lambda input: torch.add(input, 1, out=input),
    "between graphs": break_and_write,
}
compiling = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning:torch")


@compiling
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("write", WRITES)
def test_in_a_compiled_graph_too_an_input_that_was_written_to_is_not_the_same(write, backend, mode):
    torch.compiler.reset()
    attention = Attention(WRITES[write])
    input = make_input(attention.query.spec, 5)
    with mode():
        compiled = torch.compile(attention, backend=backend, fullgraph=write != "between graphs", dynamic=True)
        found = [compiled(input) for _ in range(2)]
        for member in attention.children():
            member.siblings = None
        expected = attention(input)
    assert all(all(map(torch.allclose, outputs, expected)) for outputs in found)


@compiling
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("write", [name for name in WRITES if name != "between graphs"])
def test_in_an_exported_graph_too_an_input_that_was_written_to_is_not_the_same(write, strict):
    attention = Attention(WRITES[write])
    input = make_input(attention.query.spec, 5)
    with torch.no_grad():
        exported = torch.export.export(attention, (input,), strict=strict).module()
        found = exported(input)
        for member in attention.children():
            member.siblings = None
        assert all(map(torch.allclose, found, attention(input)))


@compiling
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_compiler_gets_one_call_for_all_and_nothing_that_counts_writes(mode):
    torch.compiler.reset()
    attention, graphs = Attention(lambda input: input.view(-1)), []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph

    with mode():
        torch.compile(attention, backend=aot_autograd(fw_compiler=keep), fullgraph=True)(
            make_input(attention.query.spec, 5)
        )
    names = [str(node.target) for node in graphs[-1].graph.nodes if "hf_quant" in str(node.target)]
    assert names == ["hf_quant.native_linears.default"]
