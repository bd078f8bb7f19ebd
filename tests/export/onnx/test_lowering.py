"""Nodes that stand for quantized modules, each run in ONNX Runtime beside the module."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hf_quant.algorithms.rtn import RoundToNearest
from hf_quant.config.scheme import Scheme, TensorScheme
from hf_quant.errors import ExportError
from hf_quant.modules.embedding import QuantizedEmbedding
from hf_quant.modules.linear import QuantizedLinear
from tests.quantized_linear import SCHEMES, make_operands, spec_for

onnx_ir = pytest.importorskip("onnx_ir", reason="ONNX is not installed")
pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

from hf_quant.export.onnx.exact import allowed_at_ties, exact_output  # noqa: E402
from hf_quant.export.onnx.lowering import lower  # noqa: E402
from hf_quant.export.onnx.marker import ATTRIBUTE, DOMAIN, OPERATOR  # noqa: E402
from hf_quant.export.onnx.read_back import codes_that_differ  # noqa: E402
from hf_quant.export.onnx.runtime import session  # noqa: E402

EXPORTED = sorted(name for name in SCHEMES if not name.startswith("nf4") and name not in ("int16", "w4a8 g8"))
FLOAT, IDS = onnx_ir.DataType.FLOAT, onnx_ir.DataType.INT64


def linear(name, in_features, out_features, bias=True):
    """A quantized linear with random weights; None where groups do not divide the width."""
    spec = spec_for(name, in_features, out_features)
    if spec is None:
        return None
    operands = make_operands(spec, bias=bias)
    made = QuantizedLinear(in_features, out_features, bias, spec.scheme)
    made.fill(dict(operands.weight))
    if bias:
        made.bias.data = operands.bias
    made.input_scale, made.input_zero_point = operands.input_scale, operands.input_zero_point
    return made


def embedding(scheme, rows, width):
    made = QuantizedEmbedding(rows, width, None, Scheme(scheme))
    weight = torch.randn(rows, width, generator=torch.Generator().manual_seed(0))
    made.fill(RoundToNearest().solve(weight, scheme, "weight"))
    return made


def marked(modules, inputs):
    """A graph with a node for each module, whose inputs are named, of these dtypes and ranks."""
    values = {
        name: onnx_ir.Value(
            name=name, type=onnx_ir.TensorType(dtype), shape=onnx_ir.Shape([f"{name}{i}" for i in range(rank)])
        )
        for name, (dtype, rank) in inputs.items()
    }
    nodes = []
    for name, (module, input) in modules.items():
        node = onnx_ir.node(OPERATOR, [values[input]], {ATTRIBUTE: name}, domain=DOMAIN)
        node.outputs[0].name, node.outputs[0].type = f"of {name}", onnx_ir.TensorType(FLOAT)
        node.outputs[0].shape = onnx_ir.Shape([*values[input].shape[: -1 if module.multiplies else None], None])
        nodes.append(node)
    graph = onnx_ir.Graph(
        list(values.values()), [node.outputs[0] for node in nodes], nodes=nodes, opset_imports={"": 20, DOMAIN: 1}
    )
    return onnx_ir.Model(graph, ir_version=10)


def run(folder: Path, modules, inputs, optimization="ORT_ENABLE_ALL"):
    """What a graph of modules gives in ONNX Runtime, by name, once its codes were found to be theirs."""
    kinds = {name: (IDS if tensor.dtype == torch.int64 else FLOAT, tensor.ndim) for name, tensor in inputs.items()}
    program = marked(modules, kinds)
    model = nn.ModuleDict({name: module for name, (module, _) in modules.items()})
    lower(program, model)
    onnx_ir.save(program, folder / "model.onnx")
    assert codes_that_differ(model, folder / "model.onnx") == []
    found = session(str(folder / "model.onnx"), optimization).run(None, {k: v.numpy() for k, v in inputs.items()})
    return dict(zip(modules, map(torch.from_numpy, found), strict=True)), program


def tokens(width, rows=(2, 3), seed=1):
    made = torch.randn(*rows, width, generator=torch.Generator().manual_seed(seed))
    return made * torch.linspace(0.1, 2.0, rows[-1])[:, None]


def is_close(module, input, found):
    """Whether tokens differ by rounding of float32 sums only, and by codes of numbers at borders."""
    expected = exact_output(module, input).flatten(0, -2)
    allowed = allowed_at_ties(module, input.flatten(0, -2)) if module.multiplies else 0
    return bool(((found.flatten(0, -2) - expected).norm(dim=-1) <= 1e-5 * expected.norm(dim=-1) + allowed).all())


@pytest.mark.parametrize("shape", [(128, 48), (320, 192), (50, 64), (7, 13)], ids=str)
@pytest.mark.parametrize("name", EXPORTED)
def test_a_linear_gives_what_the_module_gives_with_the_codes_of_the_module(name, shape, tmp_path):
    module = linear(name, *shape)
    if module is None:
        pytest.skip("groups do not divide this width")
    input = tokens(shape[0])
    found, _ = run(tmp_path, {"one": (module, "x")}, {"x": input})
    assert is_close(module, input, found["one"])


@pytest.mark.parametrize("name", ["int8", "int4", "w8a8 static asymmetric", "w8a8 asymmetric"])
def test_a_single_token_gives_what_it_gives_among_others(name, tmp_path):
    module, input = linear(name, 256, 64), tokens(256)
    found, _ = run(tmp_path, {"one": (module, "x")}, {"x": input[:1, 1:2]})
    assert is_close(module, input[:1, 1:2], found["one"])


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("form", ["channel", "asymmetric groups", "tensor", "rotated"])
def test_an_embedding_gives_the_rows_that_the_module_gives(bits, form, tmp_path):
    scheme = {
        "channel": TensorScheme(bits=bits),
        "asymmetric groups": TensorScheme(bits=bits, symmetric=False, granularity="group", group_size=32),
        "tensor": TensorScheme(bits=bits, granularity="tensor"),
        "rotated": TensorScheme(bits=bits, rotation=16),
    }[form]
    module, ids = embedding(scheme, 9, 96), torch.tensor([[0, 8, 3], [3, 1, 0]])
    found, _ = run(tmp_path, {"one": (module, "ids")}, {"ids": ids})
    torch.testing.assert_close(found["one"], module(ids), rtol=1e-6, atol=1e-6)


def test_an_embedding_whose_rows_fill_no_byte_is_cut_to_its_width(tmp_path):
    module, ids = embedding(TensorScheme(bits=3), 5, 7), torch.tensor([4, 0])
    found, _ = run(tmp_path, {"one": (module, "ids")}, {"ids": ids})
    torch.testing.assert_close(found["one"], module(ids), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "head", [Scheme(TensorScheme(rotation=32)), Scheme(TensorScheme(rotation=32), SCHEMES["int8"].input)], ids=str
)
def test_a_table_that_a_head_shares_is_stored_once(head, tmp_path):
    table = embedding(head.weight, 40, 64)
    module = QuantizedLinear(64, 40, False, head, tied=True)
    module.share(table)
    input, ids = tokens(64), torch.tensor([[1, 39]])
    found, program = run(tmp_path, {"table": (table, "ids"), "head": (module, "x")}, {"ids": ids, "x": input})
    assert is_close(module, input, found["head"])
    torch.testing.assert_close(found["table"], table(ids), rtol=1e-6, atol=1e-6)
    large = [value.name for value in program.graph.initializers.values() if value.const_value.nbytes >= 40 * 64]
    assert large == ["table.codes", "hadamard_32"]


@pytest.mark.parametrize("width", [64, 36])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_table_in_blocks_is_looked_up_in_and_multiplied_with(bits, width, tmp_path):
    scheme = Scheme(TensorScheme(bits=bits))
    table, module = embedding(scheme.weight, 40, width), QuantizedLinear(width, 40, False, scheme, tied=True)
    module.share(table)
    input, ids = tokens(width), torch.tensor([[1, 39]])
    found, program = run(tmp_path, {"table": (table, "ids"), "head": (module, "x")}, {"ids": ids, "x": input})
    assert is_close(module, input, found["head"])
    torch.testing.assert_close(found["table"], table(ids), rtol=1e-6, atol=1e-6)
    assert sum(name.endswith(("codes", "blocks")) for name in program.graph.initializers) == 1


def test_siblings_share_what_is_done_to_their_input_and_all_share_one_matrix(tmp_path):
    modules = {name: (linear("int8", 64, 16), "y" if name == "d" else "x") for name in "abcd"}
    inputs = {"x": tokens(64), "y": tokens(64, seed=2)}
    found, program = run(tmp_path, modules, inputs)
    assert all(is_close(module, inputs[input], found[name]) for name, (module, input) in modules.items())
    operators = [node.op_type for node in program.graph]
    assert operators.count("Round") == 2 * 2 and operators.count("MatMulInteger") == 4
    assert sum(name.startswith("hadamard") for name in program.graph.initializers) == 1


def test_a_token_that_is_not_a_number_spoils_no_other_and_is_none_in_the_output(tmp_path):
    module, input = linear("int8", 64, 16), tokens(64)
    input[0, 1, 5] = np.nan
    found, _ = run(tmp_path, {"one": (module, "x")}, {"x": input})
    assert not found["one"][0, 1].isfinite().any()
    assert is_close(module, input[1:], found["one"][1:])


@pytest.mark.parametrize("name", ["nf4 g32", "int16", "w4a8 g8"])
def test_what_no_operator_takes_is_refused_and_what_to_take_is_named(name):
    module = linear(name, 64, 16)
    model = nn.ModuleDict({"layer": nn.ModuleDict({"one": module})})
    with pytest.raises(ExportError, match=r"layer\.one .*quantize it"):
        lower(marked({"layer.one": (module, "x")}, {"x": (FLOAT, 3)}), model)


def test_levels_of_level_4_are_said_and_floats_stay_floats(tmp_path):
    found = {}
    for name in ("int4", "w4a16", "w4a8 g32 symmetric"):
        _, program = run(tmp_path, {"one": (linear(name, 128, 16), "x")}, {"x": tokens(128)})
        node = next(node for node in program.graph if node.op_type == "MatMulNBits")
        found[name] = node.attributes["accuracy_level"].as_int()
    assert found == {"int4": 4, "w4a16": 0, "w4a8 g32 symmetric": 0}
