"""What `module.weight` is to code that does not know it: the decoded numbers, or a refusal, never anything else."""

import copy
import io
import logging

import accelerate
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hf_quant.config.plan import preset_plan
from hf_quant.errors import CheckpointError, QuantizedWeightError, UnsupportedModel
from hf_quant.modules.embedding import QuantizedEmbedding
from hf_quant.modules.inventory import Inventory
from hf_quant.modules.tensor import QuantizedTensor
from tests.naming import naming
from tests.quantized_linear import make_input, relative_error, run_python, spec_for
from tests.quantized_modules import IDS, make_linear, quantize, quantized_model

SPECS = {name: spec_for(name, 64, 96) for name in ("int8", "int4", "w8a16", "w8 per tensor", "int16", "int8-static")}
every_scheme = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())

READS = {
    "norm": lambda w: w.norm(),
    "a row": lambda w: w[3],
    "chunks": lambda w: torch.cat(w.chunk(3)),
    "split": lambda w: w.split([32, 64])[1],
    "a sum": lambda w: w.sum(-1),
    "twice": lambda w: 2 * w + 1,
    "transposed": lambda w: w.t() + 0,
    "permuted": lambda w: w.permute(1, 0).contiguous(),
    "as it lies": lambda w: w.transpose(0, 1).transpose(-2, -1) + 0,
    "reshaped": lambda w: w.reshape(2, -1),
    "einsum": lambda w: torch.einsum("oi,oj->ij", w, w),
    "left of a product": lambda w: w @ torch.ones(64, 2),
    "numpy": lambda w: torch.from_numpy(w.numpy()),
    "a list": lambda w: torch.tensor(w.tolist()),
    "stacked": lambda w: torch.stack([w, w]),
    "compared": lambda w: w > 0,
    "double": lambda w: w.double(),
    "index_select": lambda w: w.index_select(0, torch.tensor([1, 5])),
    "a copy": lambda w: torch.empty(96, 64).copy_(w),
    "addmm": lambda w: torch.addmm(torch.ones(2, 96), torch.ones(2, 64), w.t()),
}

WRITES = {
    "mul_": lambda w: w.mul_(2),
    "div_": lambda w: w.div_(2.0),
    "imul": lambda w: w.__imul__(2),
    "zero_": lambda w: w.zero_(),
    "data": lambda w: w.data.zero_(),
    "fill": lambda w: nn.init.normal_(w),
    "setitem": lambda w: w.__setitem__(0, 1.0),
    "copy_": lambda w: w.copy_(torch.ones(96, 64)),
    "out": lambda w: torch.add(torch.ones(96, 64), 1, out=w),
    "set data": lambda w: setattr(w, "data", torch.ones(96, 64)),
    "foreach": lambda w: torch._foreach_mul_([w], 0.5),
    "train": lambda w: w.requires_grad_(),
    "train by attribute": lambda w: setattr(w, "requires_grad", True),
    "parameter": lambda w: nn.Parameter(w),
    "a row": lambda w: w[0].zero_(),
    "a chunk": lambda w: w.chunk(3)[1].mul_(2),
    "part of a row": lambda w: w[0][3:].__setitem__(0, 1.0),
    "flat": lambda w: w.view(-1).add_(1),
    "through out": lambda w: torch.add(torch.ones(64), 1, out=w[0]),
    "in place by operator": lambda w: w[0].__imul__(2),
}


@every_scheme
def test_it_has_the_shape_dtype_and_device_of_the_float_weight(spec):
    weight = make_linear(spec).weight
    assert isinstance(weight, nn.Parameter) and isinstance(weight, QuantizedTensor)
    assert weight.shape == (96, 64) and weight.dtype == torch.float32 and weight.device.type == "cpu"
    assert weight.numel() == 96 * 64 and not weight.requires_grad and weight.is_floating_point()


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_whatever_reads_it_gets_what_the_decoded_weight_gives(read):
    for name, spec in SPECS.items():
        with naming(name):
            assert_read_as_decoded(make_linear(spec), read)


def assert_read_as_decoded(module, read):
    found, expected = read(module.weight), read(module.dequantized_weight())
    assert found.dtype == expected.dtype and found.shape == expected.shape
    found = torch.zeros_like(found) + found  # a transpose or a cast is one of its kind still
    assert type(found) is torch.Tensor
    assert (
        torch.allclose(found, expected, rtol=1e-5, atol=1e-5)
        if found.dtype.is_floating_point
        else (torch.equal(found, expected))
    )


@every_scheme
def test_products_with_it_run_on_the_kernel_of_the_module(spec):
    module = make_linear(spec)
    input = make_input(spec, 5)
    expected = module(input)
    bias = module.bias
    if spec.scheme.input is not None and not spec.scheme.input.dynamic:  # only the module knows the grid of inputs
        expected = nn.functional.linear(input, module.dequantized_weight(), bias)
    for found in (
        nn.functional.linear(input, module.weight, bias),
        input @ module.weight.T + bias,
        torch.matmul(input, module.weight.t()) + bias,
        input.mm(module.weight.transpose(0, 1)) + bias,
        nn.functional.linear(input[None], module.weight)[0] + bias,
        (module.weight @ input.T).T + bias,
        (module.weight @ input[None].transpose(1, 2))[0].T + bias,
        torch.mm(module.weight, input.T).T + bias,
        torch.addmm(bias, input, module.weight.T),
    ):
        assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)
    is_read = spec.scheme.input is not None and not spec.scheme.input.dynamic
    assert (module.weight.of.read_by is not None) is is_read


@pytest.mark.parametrize("context", [torch.no_grad, torch.enable_grad, torch.inference_mode])
@pytest.mark.parametrize("name", ["int8", "w4a16"])
def test_functions_that_are_given_weights_multiply_on_kernels(name, context):
    query, key, value, out = (make_linear(spec_for(name, 64, 64), seed=seed) for seed in range(4))
    with context():
        input = (0.03 * torch.randn(2, 5, 64)).requires_grad_(torch.is_grad_enabled())

        def attention(*weights, bias):
            biases = torch.cat([query.bias, key.bias, value.bias])
            names = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
            rows = input.transpose(0, 1)
            return nn.functional.multi_head_attention_forward(
                rows, rows, rows, 64, 4, None, biases, None, None, False, 0.0, weights[3], bias, need_weights=False,
                use_separate_proj_weight=True, **dict(zip(names, weights, strict=False)),
            )[0]  # fmt: skip

        modules = (query, key, value, out)
        found = attention(*(each.weight for each in modules), bias=out.bias)
        assert [each.weight.of.read_by for each in modules] == [None] * 4
        expected = attention(*(each.dequantized_weight() for each in modules), bias=out.bias)
    assert relative_error(found.detach(), expected.detach()) < (0.02 if name == "int8" else 1e-5)
    if input.requires_grad:
        gradients = [torch.autograd.grad(each.sum(), input)[0] for each in (found, expected)]
        assert relative_error(*gradients) < 0.05


@every_scheme
def test_gradients_flow_through_products_with_it(spec):
    module = make_linear(spec)
    input = make_input(spec, 5).requires_grad_()
    (input @ module.weight.T).sum().backward()
    expected = torch.ones(5, 96) @ module.dequantized_weight()
    assert torch.allclose(input.grad, expected, rtol=1e-4, atol=1e-4)
    input.grad = None
    (module.weight @ input.T).sum().backward()
    assert torch.allclose(input.grad, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["w8a16", "w4a16", "w2 g64 symmetric"])
def test_rows_are_looked_up_in_it(name):
    spec = spec_for(name, 64, 96)
    table = QuantizedEmbedding(96, 64, None, spec.scheme)
    table.fill(make_linear(spec).neutral())
    found = nn.functional.embedding(IDS, table.weight)
    assert torch.equal(found, table(IDS)) and torch.equal(found, table.dequantized_weight()[IDS])


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_write_that_would_be_lost_is_refused_and_changes_nothing(write):
    for name, spec in SPECS.items():
        with naming(name):
            module = make_linear(spec)
            module.weights["weight"].name = "layer.weight"
            expected = module.dequantized_weight()
            with pytest.raises(QuantizedWeightError, match=r"layer\.weight.*(dequantize\(\)|keep the module float)"):
                write(module.weight)
            assert torch.equal(module.dequantized_weight(), expected)


def test_a_write_that_changes_nothing_passes():
    module = make_linear(SPECS["int8"])
    expected = module.dequantized_weight()
    module.weight.data.copy_(expected)
    module.weight.data.mul_(1.0)
    torch._foreach_lerp_([module.weight.data], [expected], 0.5)
    assert torch.equal(module.dequantized_weight(), expected)


def test_that_it_is_decoded_is_said_once(caplog):
    module = make_linear(SPECS["int8"])
    with caplog.at_level(logging.INFO, logger="hf_quant.modules.weight"):
        module.weight.norm(), module.weight.sum()
    assert len(caplog.records) == 1 and "decoded for each call" in caplog.text


def test_tied_modules_hold_one_weight_and_one_parameter():
    model = quantized_model("int8")
    assert model.head.weight is model.body.embed.weight
    model.to(torch.bfloat16)
    assert model.head.weight is model.body.embed.weight and model.head.weight.dtype == torch.bfloat16
    twin = copy.deepcopy(model)
    assert twin.head.weight is twin.body.embed.weight is not model.head.weight


def test_another_weight_that_is_put_in_its_place_is_computed_with():
    module, other = make_linear(SPECS["int8"]), make_linear(SPECS["int8"], seed=3)
    input = make_input(SPECS["int8"], 3)
    other.bias = module.bias
    module(input)
    module.weight = other.weight
    assert torch.equal(module(input), other(input))
    module._parameters["weight"] = make_linear(SPECS["int8"]).weight  # as accelerate does
    assert torch.equal(module(input), make_linear(SPECS["int8"])(input))
    with pytest.raises(UnsupportedModel, match="does not fit"):
        module.weight = make_linear(spec_for("int8", 64, 32)).weight


@pytest.mark.parametrize("name", ["int8", "int4", "w8a16", "int8-static"])
def test_floats_in_its_place_give_what_the_codes_give(name):
    module = make_linear(SPECS[name])
    input = make_input(SPECS[name], 4)
    expected = module(input)
    module._parameters["weight"] = nn.Parameter(module.dequantized_weight(), requires_grad=False)
    assert relative_error(module(input), expected) < 1e-5
    tracked = input.clone().requires_grad_()
    module(tracked).sum().backward()
    assert torch.allclose(tracked.grad, torch.ones(4, 96) @ module.weight, rtol=1e-4, atol=1e-4)


def test_an_averaged_model_is_the_model():
    model = quantized_model("int8")
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for _ in range(3):
        average.update_parameters(model)
    assert torch.equal(average(IDS), model(IDS))


@pytest.mark.parametrize("weights_only", [True, False])
def test_a_state_dict_goes_through_a_file(weights_only):
    model, other = quantized_model("int4"), quantized_model("int4", seed=1)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=weights_only))
    assert torch.equal(other(IDS), model(IDS))


def test_a_pickle_of_another_shape_is_refused():
    weight = make_linear(SPECS["int8"]).weights["weight"]
    rebuild, (scheme, _, *rest) = weight.__reduce_ex__(2)
    with pytest.raises(CheckpointError, match="download or save the checkpoint again"):
        rebuild(scheme, 4000, *rest)


def test_writers_of_files_that_know_no_codes_write_floats_and_these_are_taken_back(tmp_path):
    module = make_linear(SPECS["int4"])
    save_file(module.state_dict(), tmp_path / "m.safetensors")
    saved = load_file(tmp_path / "m.safetensors")
    assert torch.equal(saved["weight"], module.dequantized_weight())
    module.load_state_dict(saved)
    saved["weight"][0, 0] += 1
    with pytest.raises(RuntimeError, match="stands for other numbers"):
        module.load_state_dict(saved)


@pytest.mark.parametrize("offload", [accelerate.cpu_offload, lambda model: accelerate.disk_offload(model, model.path)])
def test_an_offloaded_model_computes_the_same(offload, tmp_path):
    model = quantized_model("int8")
    model.path = str(tmp_path)
    with torch.no_grad():
        expected = model(IDS)
        assert relative_error(offload(model)(IDS), expected) < 1e-5


def test_memory_is_shared_with_other_processes():
    model = quantized_model("int8")
    expected = model(IDS)
    model.share_memory()
    assert model.down.weight.is_shared() and torch.equal(model(IDS), expected)


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning")
def test_tracing_is_refused_and_export_is_not():
    model = quantized_model("int8")
    with pytest.raises(UnsupportedModel, match=r"torch\.export"):
        torch.jit.trace(model, (IDS,))
    with torch.no_grad():
        exported = torch.export.export(model, (IDS,))
        assert torch.allclose(exported.module()(IDS), model(IDS), atol=1e-5)


def test_a_compiled_model_can_be_cast_and_moved():
    model = quantized_model("int8")
    expected = model(IDS)
    compiled = torch.compile(model, backend="aot_eager")
    with torch.no_grad():
        assert torch.allclose(compiled(IDS), expected, atol=1e-5)
        model.to("cpu", torch.bfloat16).to(torch.float32)
        assert relative_error(compiled(IDS), expected) < 2e-2


def test_code_that_reads_it_compiles():
    module = make_linear(SPECS["int8"])

    def read(input):
        return input.to(module.weight.dtype) @ module.weight.T + module.weight.sum(-1)

    with torch.no_grad():
        input = make_input(SPECS["int8"], 3)
        assert relative_error(torch.compile(read, backend="aot_eager", fullgraph=True)(input), read(input)) < 2e-2


def test_codes_live_as_long_as_the_process_that_is_spawned_with_them():
    run_python("""
        import torch
        from torch import multiprocessing
        from tests.quantized_modules import IDS, quantized_model

        def child(model, expected, queue):
            queue.put(torch.equal(model(IDS), expected))

        if __name__ == "__main__":
            multiprocessing.freeze_support()
        import copy, io, pickle
        from multiprocessing.reduction import ForkingPickler
        model = quantized_model("int4")
        assert "codes" not in model.down.weights["weight"].tensors or True
        buffer = io.BytesIO()
        ForkingPickler(buffer).dump(model)
        again = pickle.loads(buffer.getvalue())
        assert torch.equal(again(IDS), model(IDS))
    """)


def test_a_write_to_a_row_that_changes_nothing_is_taken():
    model = nn.ModuleDict({"table": nn.Embedding(8, 64, padding_idx=0)})
    table = quantize(model, preset_plan("w4a16", Inventory.of(model).candidates)).table
    torch.nn.init.zeros_(table.weight[0])
    assert not table.weight[0].any()
    with pytest.raises(QuantizedWeightError, match="a write to part of"):
        torch.nn.init.zeros_(table.weight[1])
