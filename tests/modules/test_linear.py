"""Quantized linears as modules: casts, copies, state dicts, and inputs of every shape."""

import copy
import io
import pickle
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from hf_quant.config.scheme import Scheme, TensorScheme
from hf_quant.errors import CheckpointError
from hf_quant.kernels import ops
from hf_quant.kernels.base import LinearSpec
from hf_quant.kernels.dispatch import KERNEL_VARIABLE, KERNELS, get_kernel
from hf_quant.modules.linear import QuantizedLinear
from hf_quant.modules.state import stored_state
from tests.naming import naming
from tests.quantized_linear import (
    CPU,
    DTYPES,
    SCHEMES,
    make_input,
    make_operands,
    reference_output,
    relative_error,
    spec_for,
)
from tests.quantized_modules import COPIES, make_linear

SPECS = {name: spec_for(name, 64, 64) for name in SCHEMES}
every_scheme = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
REPLACING = [name for name in KERNELS if get_kernel(name).replaces_weight]


def scales(module):
    own = {name: tensor.clone() for name, tensor in module.named_buffers() if name.endswith("scale")}
    return {**own, "weight_scale": module.neutral()["scale"].clone()}


def on_disk(module):
    return stored_state(module, module.state_dict())


@every_scheme
def test_a_module_computes_what_its_scheme_says(spec):
    for dtype in DTYPES:
        with naming(dtype):
            module = make_linear(spec, dtype=dtype)
            input = make_input(spec, 6, dtype)
            expected = reference_output(input, make_operands(spec, dtype=dtype), spec)
            assert relative_error(module(input), expected) <= 1e-2


@every_scheme
def test_casting_leaves_scales_as_they_are(spec):
    for dtype in (torch.bfloat16, torch.float16):
        with naming(dtype):
            module = make_linear(spec)
            before, words = scales(module), module.neutral()["codes"].clone()
            module.to(dtype)
            assert module.bias.dtype == dtype
            after = scales(module)
            assert all(after[name].dtype == old.dtype and torch.equal(after[name], old) for name, old in before.items())
            assert torch.equal(module.neutral()["codes"], words) and module.weight.dtype == dtype
            assert module(make_input(spec, 2, dtype)).dtype == dtype


@every_scheme
def test_casting_there_and_back_changes_no_output(spec):
    module = make_linear(spec)
    module.bias.data = module.bias.data.bfloat16().float()
    input = make_input(spec, 6)
    expected = module(input)
    for cast in (
        nn.Module.bfloat16,
        nn.Module.float,
        lambda m: m.to("cpu", torch.bfloat16),
        lambda m: m.to(CPU).float(),
    ):
        module = cast(module)
    assert torch.equal(module(input), expected)


@every_scheme
def test_copies_give_identical_outputs(spec):
    for prepare, way in product((True, False), COPIES):
        with naming(way, f"prepare={prepare}"):
            module = make_linear(spec, prepare)
            twin = COPIES[way](module)
            for tokens in (2, 70):
                input = make_input(spec, tokens)
                module.prepare()
                assert torch.equal(twin(input), module(input)), f"{tokens} tokens"
            assert twin.kernel == module.kernel and twin.spec == module.spec


@every_scheme
def test_a_deep_copy_shares_no_memory(spec):
    module = make_linear(spec)
    input = make_input(spec, 2)
    expected = module(input)
    twin = copy.deepcopy(module)
    weight = twin.weights["weight"]
    weight.release()
    for tensor in (*weight.tensors.values(), *twin.buffers()):
        tensor.zero_()
    assert torch.equal(module(input), expected)


@every_scheme
def test_pickles_hold_neutral_codes(spec):
    module = make_linear(spec)
    assert "packed" not in module.__getstate__()
    weight = pickle.loads(pickle.dumps(module.weights["weight"]))
    assert weight.layout is None and torch.equal(weight.tensors["codes"], make_operands(spec).weight["codes"])
    assert weight.products == (spec,)


@every_scheme
def test_torch_load_reads_a_saved_state_dict_without_unpickling_code(spec):
    source, target, file = make_linear(spec), make_linear(spec, seed=5), io.BytesIO()
    torch.save(source.state_dict(), file)
    file.seek(0)
    target.load_state_dict(torch.load(file, weights_only=True))
    input = make_input(spec, 6)
    assert torch.equal(target(input), source(input))


def test_a_pickled_weight_that_no_quantizer_writes_is_refused():
    module, file = make_linear(spec_for("int8", 64, 64)), io.BytesIO()
    module.weights["weight"].tensors["scale"][0] = float("nan")
    torch.save(module.state_dict(), file)
    file.seek(0)
    with pytest.raises(CheckpointError, match="not finite and positive"):
        torch.load(file, weights_only=True)


@every_scheme
def test_state_dicts_hold_neutral_codes_before_and_after_prepacking(spec):
    module = make_linear(spec, prepare=False)
    before = {name: tensor.clone() for name, tensor in on_disk(module).items()}
    module.prepare()
    after = on_disk(module)
    assert set(after) == set(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in after.items() if name != "bias"} == (
        module.saved_tensors()
    )


@every_scheme
def test_loading_a_state_dict_gives_identical_outputs(spec):
    for prepare, assign in product((True, False), repeat=2):
        with naming(f"prepare={prepare}", f"assign={assign}"):
            source, target = make_linear(spec), make_linear(spec, prepare, seed=5)
            target.load_state_dict(source.state_dict(), assign=assign)
            target.prepare()
            for tokens in (2, 70):
                input = make_input(spec, tokens)
                assert torch.equal(target(input), source(input)), f"{tokens} tokens"


@every_scheme
def test_a_module_on_meta_takes_a_state_dict_by_assignment(spec):
    source = make_linear(spec)
    target = QuantizedLinear(64, 64, True, spec.scheme, device="meta")
    target.prepare()
    assert target.kernel is None and target.weights == {}
    target.load_state_dict(source.state_dict(), assign=True)
    target.prepare()
    input = make_input(spec, 3)
    assert torch.equal(target(input), source(input))


@every_scheme
def test_a_checkpoint_that_is_mapped_into_memory_serves_as_it_is(spec, tmp_path):
    source = make_linear(spec)
    # One byte first, so that whatever follows lies at an odd address.
    save_file({"a": torch.zeros(1, dtype=torch.uint8), **on_disk(source)}, Path(tmp_path) / "model.safetensors")
    tensors = load_file(Path(tmp_path) / "model.safetensors")
    del tensors["a"]
    target = QuantizedLinear(64, 64, True, spec.scheme, device="meta")
    target.load_state_dict(tensors, assign=True)
    target.check_values("linear")
    input = make_input(spec, 3)
    assert torch.equal(target(input), source(input))


@every_scheme
def test_prepacking_twice_does_nothing_and_releasing_brings_the_codes_back(spec):
    module = make_linear(spec)
    kernel, packed = module.kernel, module.packed
    module.prepare()
    assert module.kernel == kernel and module.packed is packed
    module.weights["weight"].release()
    assert module.kernel is None and module.packed == ()
    assert torch.equal(module.weights["weight"].tensors["codes"], make_operands(spec).weight["codes"])


@pytest.mark.parametrize("kernel", REPLACING)
def test_a_kernel_with_a_layout_of_its_own_takes_the_memory_of_the_codes(kernel, monkeypatch):
    monkeypatch.setenv(KERNEL_VARIABLE, kernel)
    fitting = [spec for spec in SPECS.values() if get_kernel(kernel).unsupported(spec, CPU) is None]
    for spec in fitting:
        assert "codes" not in make_linear(spec).weights["weight"].tensors


@every_scheme
def test_a_module_that_was_not_prepared_is_when_it_is_called(spec):
    module, prepared = make_linear(spec, prepare=False), make_linear(spec)
    input = make_input(spec, 3)
    assert torch.equal(module(input), prepared(input)) and module.kernel == prepared.kernel


@every_scheme
def test_inputs_may_have_any_number_of_dimensions(spec):
    if spec.scheme.input is not None and spec.scheme.input.granularity == "tensor" and spec.scheme.input.dynamic:
        pytest.skip("one scale for the whole tensor: tokens do depend on each other")
    module = make_linear(spec)
    for shape in ((64,), (1, 64), (2, 3, 64), (2, 1, 3, 64)):
        with naming(shape):
            input = make_input(spec, 6)[: torch.Size(shape).numel() // 64].reshape(shape)
            output = module(input)
            assert output.shape == (*shape[:-1], 64)
            assert torch.allclose(output.reshape(-1, 64), module(input.reshape(-1, 64)), rtol=1e-5, atol=1e-5)


@every_scheme
def test_empty_inputs_give_empty_outputs(spec):
    for shape in ((0, 64), (2, 0, 64)):
        with naming(shape):
            module = make_linear(spec)
            output = module(torch.empty(shape))
            assert output.shape == (*shape[:-1], 64) and output.dtype == torch.float32
            assert module(torch.empty(shape, requires_grad=True)).shape == output.shape


@every_scheme
def test_gradients_reach_the_input_and_nothing_else(spec):
    module = make_linear(spec)
    input = make_input(spec, 6).requires_grad_()
    module(input).sum().backward()
    expected = torch.ones(6, 64) @ module.dequantized_weight()
    assert torch.allclose(input.grad, expected, rtol=1e-5, atol=1e-5)
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in module.parameters())


@every_scheme
def test_the_decoded_weight_is_the_same_before_and_after_prepacking(spec):
    expected = ops.dequantize(make_operands(spec), spec, None)
    assert torch.equal(make_linear(spec, prepare=False).dequantized_weight(), expected)
    assert torch.equal(make_linear(spec).dequantized_weight(), expected)


@every_scheme
def test_what_a_quantizer_writes_passes_the_check(spec):
    make_linear(spec).check_values("linear")
    make_linear(spec, prepare=False).check_values("linear")


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["int8", "int4"])
def test_a_scale_that_is_not_finite_and_positive_is_refused(name, value):
    module = make_linear(SPECS[name], prepare=False)
    module.weight_scale[3, 0] = value
    with pytest.raises(CheckpointError, match=r"linear\.weight_scale holds values that are not finite and positive"):
        module.check_values("linear")


def test_symmetric_weights_below_8_bits_may_have_negative_scales_but_none_of_zero():
    module = make_linear(SPECS["w4a8 g32 symmetric"], prepare=False)
    module.weight_scale[3, 0] = -1.0
    module.check_values("linear")
    for value in (0.0, -0.0, float("nan"), float("-inf")):
        module.weight_scale[3, 0] = value
        with pytest.raises(CheckpointError, match=r"linear\.weight_scale holds values that are not finite, or zero"):
            module.check_values("linear")


def test_a_bit_set_after_the_last_zero_point_is_refused():
    scheme = Scheme(TensorScheme(bits=3, symmetric=False, granularity="group", group_size=32))
    module = make_linear(LinearSpec(scheme, 96, 7), prepare=False)
    module.check_values("linear")
    assert module.weight_zero_point.shape == (2,)  # 21 of 3 bits: the last bit of the second word is none of theirs
    module.weight_zero_point[1] |= -(1 << 31)
    with pytest.raises(CheckpointError, match=r"linear\.weight_zero_point has bits set after its last one"):
        module.check_values("linear")


def test_a_code_that_symmetric_quantization_never_writes_is_refused():
    module = make_linear(SPECS["int8"], prepare=False)
    module.weight.data.view(torch.int8)[3, 7] = -128
    with pytest.raises(CheckpointError, match=r"linear\.weight holds a code below -127"):
        module.check_values("linear")


def test_a_bit_after_the_last_code_is_refused():
    module = make_linear(spec_for("w8a8 symmetric", 33, 5), prepare=False)
    module.weight.data[2, -1] |= 1 << 9
    with pytest.raises(CheckpointError, match=r"linear\.weight has bits set after its last code"):
        module.check_values("linear")


def test_a_module_shows_its_scheme_and_kernel():
    module = make_linear(SPECS["int8"])
    assert f"in_features=64, out_features=64, bias=True, scheme=W8A8 rot64, kernel={module.kernel}" in repr(module)


def test_the_forced_kernel_is_the_one_that_runs(monkeypatch):
    monkeypatch.setenv(KERNEL_VARIABLE, "reference")
    for spec in SPECS.values():
        module = make_linear(spec)
        input = make_input(spec, 5)
        assert module.kernel == "reference"
        assert torch.equal(module(input), reference_output(input, make_operands(spec), spec))
