"""Threads: those of torch and as many, results that do not depend on their number, and callers on several at once."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from hf_quant.config.scheme import TensorScheme
from hf_quant.formats import scale_dtype
from hf_quant.formats.packing import words_per_row
from hf_quant.kernels.native import layout, library, structs
from hf_quant.kernels.native.linear import step_spec
from hf_quant.kernels.native.weights import quantize_rows
from tests.convolutions import laid_out
from tests.kernels.native.test_ops import (
    KERNEL,
    NONE,
    OPS,
    block_arguments,
    convolution_arguments,
    grouped_arguments,
    linears_arguments,
    packed,
    program,
)
from tests.quantized_linear import CPU, SCHEMES, make_input, run_python, spec_for

pytestmark = pytest.mark.skipif(library.load() is None, reason="installed without a compiler")

THREADS = (1, 2, 3, 7)
UNMASKED = torch.empty((), dtype=torch.bool)


@pytest.fixture
def with_threads():
    """`with_threads(n, function)`: what it returns while torch computes with n threads."""
    before = torch.get_num_threads()

    def run(count, function):
        torch.set_num_threads(count)
        return function()

    yield run
    torch.set_num_threads(before)


def linear_calls():
    for name in SCHEMES:
        for width, channels in ((352, 200), (33, 5)):
            spec = spec_for(name, width, channels)
            if spec is None or KERNEL.unsupported(spec, CPU) is not None:
                continue
            spec, operands, blocks, bias = packed(name, width, channels)
            whole = program(step_spec(operands, spec))
            for tokens in (1, 5, 13, 40):
                input = make_input(spec, tokens)
                yield f"{name} {width} {tokens}", lambda a=(input, blocks, whole, bias, channels): OPS.native_linear(*a)


def fused_calls():
    for name in ("int8", "int4", "w4a16", "w6 g32"):
        for tokens in (3, 17, 300):
            for count in (2, 3):
                arguments = linears_arguments(name, count)[0]
                input = make_input(spec_for(name, 64, 48), tokens)
                yield f"linears {name} {count} {tokens}", lambda a=(input, *arguments[1:]): OPS.native_linears(*a)
            for gated in (True, False):
                for norm in (0, structs.RMS_NORM, structs.LAYER_NORM):
                    arguments = list(block_arguments(name, gated, norm=norm)[0])
                    arguments[0] = make_input(spec_for(name, 64, 48), tokens)
                    arguments[8] = torch.randn(tokens, 64)
                    yield f"block {name} {gated} {norm} {tokens}", lambda a=arguments: OPS.native_block(*a)


def convolution_calls():
    for name in ("int8", "int4", "w4a16", "w8a8 static asymmetric"):
        for groups in (1, 2):
            for last in (False, True):
                arguments = list(convolution_arguments(name, groups, last))
                yield f"small {name} {groups} {last}", lambda a=tuple(arguments): OPS.native_convolution(*a)
                large = torch.randn(2, 64, 45, 44)
                arguments[0], arguments[-2:] = laid_out(large, "channels last" if last else "contiguous"), (22, 44)
                yield f"large {name} {groups} {last}", lambda a=tuple(arguments): OPS.native_convolution(*a)


def grouped_calls():
    for dims in (1, 2):
        for static in (False, True):
            arguments = grouped_arguments(dims, static)
            yield f"grouped {dims} {static}", lambda a=arguments: OPS.native_grouped_convolution(*a)
            large = (torch.randn(3, 16, *(500, 60)[:dims]), *arguments[1:-dims])
            yield f"grouped large {dims} {static}", lambda a=large: OPS.native_grouped_convolution(*a)


def row_calls():
    # More than 65,536 numbers: fewer are left to one thread.
    rows, weight, bias = torch.randn(201, 333), torch.randn(333), torch.randn(333)
    for kind in (structs.RMS_NORM, structs.LAYER_NORM):
        yield f"norm {kind}", lambda kind=kind: OPS.native_norm(rows, weight, bias, kind, 1e-6)
    for name in ("w8a16", "w3a8 g32", "w7a8 per channel asymmetric"):
        spec, operands, blocks, _ = packed(name, 128, 48)
        arguments = (torch.randint(48, (7, 101)), blocks, program(step_spec(operands, spec)), NONE, 128)
        yield f"embedding {name}", lambda a=arguments: OPS.native_embedding(*a)
    for queries, keys in ((2, 1500), (70, 200)):
        query = torch.randn(2, 6, queries, 48)
        key, value = torch.randn(2, 2, 3, keys, 48)
        seen = torch.rand(2, 1, queries, keys) > 0.3
        for mask, causal in ((UNMASKED, False), (UNMASKED, True), (seen, False)):
            arguments = (query, key, value, mask, 0.2, causal)
            yield f"attention {queries} {mask.ndim} {causal}", lambda a=arguments: OPS.native_attention(*a)


def quantized_rows(weight, scheme, trials):
    rows, width = weight.shape
    groups = width // (scheme.group_size or width)
    codes = torch.zeros(rows, words_per_row(width, scheme.bits), dtype=torch.int32)
    scale = torch.zeros(rows, groups, dtype=scale_dtype(scheme))
    zero_point = None if scheme.symmetric else torch.zeros(rows, groups, dtype=torch.int8)
    assert quantize_rows(weight, scheme, codes, scale, zero_point, trials, 0.6)
    return codes, scale, *(() if zero_point is None else (zero_point,))


def weight_calls():
    weight = torch.randn(53, 96)
    for bits in range(2, 9):
        for group in (None, 32, 48):
            for symmetric in (True, False):
                scheme = TensorScheme(
                    bits=bits, symmetric=symmetric, granularity="group" if group else "channel", group_size=group
                )
                for trials in (0, 5):
                    yield f"quantize {scheme} {trials}", lambda a=(weight, scheme, trials): quantized_rows(*a)
    for name in SCHEMES:
        spec = spec_for(name, 96, 77)
        if spec is not None and KERNEL.unsupported(spec, CPU) is None:
            spec, operands, blocks, _ = packed(name, 96, 77)
            yield f"pack {name}", lambda a=(operands, spec): layout.pack(*a)
            yield f"unpack {name}", lambda a=(blocks, spec): layout.unpack(*a)


CALLS = {
    "linear": linear_calls,
    "fused": fused_calls,
    "convolution": convolution_calls,
    "grouped": grouped_calls,
    "rows": row_calls,
    "weights": weight_calls,
}


def tensors(result):
    return result if isinstance(result, tuple) else (result,)


def same(one, other):
    return all(torch.equal(*pair) for pair in zip(tensors(one), tensors(other), strict=True))


@pytest.mark.parametrize("kind", CALLS)
def test_results_do_not_depend_on_the_number_of_threads(kind, with_threads):
    torch.manual_seed(0)
    for name, call in CALLS[kind]():
        alone = with_threads(1, call)
        assert all(same(alone, with_threads(count, call)) for count in THREADS[1:]), name


def test_callers_on_several_threads_get_what_each_gets_alone(with_threads):
    torch.manual_seed(0)
    torch.set_num_threads(2)
    calls = [call for kind in CALLS.values() for _, call in list(kind())[::17]]
    expected = [call() for call in calls]
    start = threading.Barrier(3)

    def caller(offset):
        start.wait()
        order = [(index + offset) % len(calls) for index in range(len(calls))]
        return all(same(calls[index](), expected[index]) for index in order)

    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(caller, (0, 0, 31)))


POOL = """
    import json, os, re, threading
    import torch
    from hf_quant.kernels.native import layout
    from tests.kernels.native.test_threads import CALLS

    layout.end_threads = lambda: None  # unpacking ends the pool it ran in, which is to be counted first

    def tasks():
        return set(os.listdir("/proc/self/task"))

    torch.manual_seed(0)
    calls = [call for kind in CALLS.values() for _, call in list(kind())[::7]]
    calls += [call for _, call in CALLS["rows"]()]
    large = torch.randn(400, 400)

    def of_torch():
        (large @ large).relu_().sum()

    def native():
        for call in calls:
            call()

    def started(work):
        before = tasks()
        work()
        return len(tasks() - before)

    report = {"torch": [], "native after torch": [], "native": [], "torch after native": [], "alternating": 0}
    torch.set_num_threads(1)
    report["one thread"] = started(native)
    for threads in (3, 4):
        torch.set_num_threads(threads)
        report["torch"].append(started(of_torch))
        report["native after torch"].append(started(native))
    for threads in (6, 7):
        torch.set_num_threads(threads)
        report["native"].append(started(native))
        report["torch after native"].append(started(of_torch))
    for _ in range(5):
        report["alternating"] += started(native) + started(of_torch)

    # A thread that torch has not seen: the number holds there, too, and its pool is its own.
    for threads in (1, 3):
        torch.set_num_threads(threads)
        caller = threading.Thread(target=lambda: report.__setitem__(f"new thread, {threads}", started(native)))
        caller.start()
        caller.join()

    maps = open("/proc/self/maps").read()
    report["runtimes"] = sorted(set(re.findall(r"/\\S*lib(?:g|i)?omp\\d?\\b\\S*", maps)))
    report["mapped"] = "libhf_quant_kernels.so" in maps
    print(json.dumps(report))
"""


def test_threads_are_those_of_torch_and_as_many():
    if not Path("/proc/self/task").exists():
        pytest.skip("threads are counted in /proc")
    # Whatever other libraries the tests use would bring runtimes of their own: a process that has torch alone.
    report = json.loads(run_python(POOL))
    assert report["mapped"] and len(report["runtimes"]) == 1, report
    assert report["one thread"] == 0
    assert report["torch"] == [2, 1] and report["native after torch"] == [0, 0]
    assert report["native"] == [2, 1] and report["torch after native"] == [0, 0]
    assert report["alternating"] == 0
    assert report["new thread, 1"] == 0 and report["new thread, 3"] == 2
