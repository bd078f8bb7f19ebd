"""Arguments that nobody should give to native ops: a typed error or a result of the right shape, never a crash."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_quant.config.scheme import TensorScheme
from hf_quant.errors import KernelError
from hf_quant.kernels.native import layout, library
from hf_quant.kernels.native.weights import quantize_rows
from tests.kernels.native.test_ops import ARGUMENTS, NONE, OPS, linear_arguments, op_of, packed

if library.load() is None:
    pytest.skip("installed without a compiler", allow_module_level=True)

REFUSALS = (RuntimeError, ValueError, IndexError, TypeError)
"""NotImplementedError, for a device or layout that an op is not for, is a RuntimeError."""


def freed(tensor):
    other = tensor.clone()
    other.untyped_storage().resize_(0)
    return other


def part_of_freed(tensor):
    whole = torch.zeros(tensor.numel() + 8, dtype=tensor.dtype)
    part = whole[8:].view(tensor.shape)
    whole.untyped_storage().resize_(0)
    return part


CHANGES = {
    "None": lambda t: None,
    "a number": lambda t: 3,
    "on the meta device": lambda t: t.to("meta"),
    "sparse": lambda t: t.to_sparse(),
    "float64": lambda t: t.double(),
    "complex": lambda t: t.to(torch.complex64),
    "int16": lambda t: t.to(torch.int16),
    "uint8": lambda t: t.to(torch.uint8),
    "empty": lambda t: t.new_empty(0),
    "without dimensions": lambda t: t.new_zeros(()),
    "flat": lambda t: t.reshape(-1),
    "one short": lambda t: t[..., :-1],
    "one over": lambda t: torch.cat([t, t[..., :1]], -1),
    "one row short": lambda t: t[:-1],
    "every other": lambda t: torch.stack([t, t], -1)[..., 0],
    "turned": lambda t: t.unsqueeze(0).transpose(0, -1),
    "repeated without end": lambda t: t.unsqueeze(0).expand(1 << 40, *t.shape),
    "of many dimensions": lambda t: t.reshape([1] * 20 + list(t.shape)),
    "without memory": freed,
    "without memory, in part": part_of_freed,
    "rubbish": lambda t: torch.randint(256, (t.nbytes,), dtype=torch.uint8).view(t.dtype).view(t.shape),
}
NEVER_RUN = {"None", "a number", "on the meta device", "sparse", "complex", "without memory", "without memory, in part"}
"""Changes of an argument that holds something which no op can overlook."""


def shapes(result):
    return [tensor.shape for tensor in (result if isinstance(result, tuple) else (result,))]


TENSORS = [
    (name, index)
    for name, make in ARGUMENTS.items()
    for index, argument in enumerate(make())
    if isinstance(argument, torch.Tensor)
]


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize(("name", "index"), TENSORS)
def test_a_tensor_of_another_kind_is_refused_or_harmless(name, index):
    torch.manual_seed(0)
    arguments = list(ARGUMENTS[name]())
    expected = op_of(name)(*arguments)
    for change, function in CHANGES.items():
        try:
            changed = function(arguments[index])
        except (RuntimeError, IndexError):
            continue  # there is no such tensor
        try:
            op_of(name)(*arguments[:index], changed, *arguments[index + 1 :])
        except REFUSALS:
            continue
        stands_for_nothing = arguments[index].numel() == 0 or arguments[index].ndim == 0
        assert change not in NEVER_RUN or stands_for_nothing, change
    # It still does what it did.
    found = op_of(name)(*arguments)
    pairs = zip(*((r if isinstance(r, tuple) else (r,)) for r in (found, expected)), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


NUMBERS = [
    (name, index)
    for name, make in ARGUMENTS.items()
    for index, argument in enumerate(make())
    if isinstance(argument, int | float) and not isinstance(argument, bool)
]


@pytest.mark.parametrize(("name", "index"), NUMBERS)
def test_a_number_of_another_size_is_refused_or_changes_numbers_only(name, index):
    torch.manual_seed(0)
    arguments = list(ARGUMENTS[name]())
    usual = shapes(op_of(name)(*arguments))
    values = [-1, 0, 1, 3, 2**31, 2**62, -(2**63)]
    if isinstance(arguments[index], float):
        values += [float("nan"), float("inf"), -1.0, 1e300]
    for value in values:
        try:
            found = op_of(name)(*arguments[:index], value, *arguments[index + 1 :])
        except REFUSALS:
            continue
        assert shapes(found) == usual


SPEC_AT = {"native_linear": 2, "native_linears": 4, "native_block": 4, "native_embedding": 2}
WITH_SPEC = {name: make() for name, make in ARGUMENTS.items() if name.split()[0] in SPEC_AT}
WORDS = 54
"""Numbers of 32 bits in a spec."""

numbers = st.one_of(
    st.sampled_from([0, 1, 2, 3, 4, 5, 7, 8, 9, 16, 31, 32, 33, 48, 64, 65, 96, 128, 256, -1, 2**31 - 1, -(2**31)]),
    st.integers(-(2**31), 2**31 - 1),
)


@settings(max_examples=400, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(sorted(WITH_SPEC)),
    st.lists(st.tuples(st.integers(0, WORDS - 1), numbers), max_size=4),
    st.lists(st.tuples(st.integers(0, 4 * WORDS - 1), st.integers(0, 255)), max_size=3),
    st.sampled_from([None] * 9 + [0, 1, 4 * WORDS - 1]),
)
def test_a_spec_that_was_tampered_with_is_refused_or_changes_numbers_only(name, words, bytes, length):
    arguments, at = WITH_SPEC[name], SPEC_AT[name.split()[0]]
    spec = arguments[at].clone()
    assert spec.numel() == 4 * WORDS
    for index, value in words:
        spec.view(torch.int32)[index] = value
    for index, value in bytes:
        spec[index] = value
    try:
        found = op_of(name)(*arguments[:at], spec[:length], *arguments[at + 1 :])
    except REFUSALS:
        return
    assert shapes(found) == shapes(op_of(name)(*arguments))


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory in use is read from /proc")
def test_what_was_refused_is_given_back():
    _, blocks, spec, bias, channels = linear_arguments("w8a16")
    indices = torch.zeros(16_000, dtype=torch.int64)
    indices[-1] = channels
    refused = [
        lambda: OPS.native_linear(torch.ones([1] * 16 + [16_000, 64]), blocks, spec, bias, channels),
        lambda: OPS.native_linear(torch.ones(1, 65), torch.ones(1_000_000), spec, bias, channels),
        lambda: OPS.native_linear(torch.ones(16_000, 64, dtype=torch.float64), blocks, spec, bias, channels),
        lambda: OPS.native_embedding(indices, blocks, spec, NONE, 64),  # seen when the output is half full
    ]
    for call in refused:
        for repetition in range(30):
            with pytest.raises((RuntimeError, IndexError)):
                call()
            if repetition == 4:
                before = resident()
        # Each held 4 MB.
        assert resident() - before < 32 << 20


def test_layouts_and_rounding_refuse_what_is_not_in_memory():
    spec, operands, blocks, _ = packed("int4")
    for change in (CHANGES["on the meta device"], CHANGES["one row short"], CHANGES["int16"]):
        for name, tensor in operands.weight.items():
            with pytest.raises(KernelError):
                layout.pack(replace(operands, weight={**operands.weight, name: change(tensor)}), spec)
        with pytest.raises(KernelError):
            layout.unpack(change(blocks), spec)
    scheme = TensorScheme(symmetric=False)
    weight, zero_point = torch.ones(3, 64), torch.zeros(3, 1, dtype=torch.int8)
    written = [torch.zeros(3, 16, dtype=torch.int32), torch.ones(3, 1), zero_point]
    for index in range(3):
        for change in (CHANGES["on the meta device"], CHANGES["one row short"], CHANGES["int16"]):
            with pytest.raises(KernelError):
                quantize_rows(weight, scheme, *written[:index], change(written[index]), *written[index + 1 :])
    assert quantize_rows(weight[:0], scheme, *(tensor[:0] for tensor in written))
