"""Memory that is reported is memory that was taken."""

import subprocess
import sys
import time

import pytest
import torch
from torch import nn

import hf_quant
from hf_quant.evaluation.memory import PeakAnonymous, anonymous_bytes, device_peak, resident_bytes, weight_bytes
from hf_quant.modules.swap import quantized_modules
from tests.integration.tiny import tiny_model

MB = 1 << 20
linux = pytest.mark.skipif(sys.platform != "linux", reason="RssAnon is only reported on Linux")


@linux
def test_the_peak_is_seen_though_the_memory_is_given_back():
    before = anonymous_bytes()
    with PeakAnonymous() as peak:
        block = torch.ones(64 * MB, dtype=torch.uint8)
        time.sleep(0.05)
        del block
    assert 60 * MB < peak.bytes - before < 90 * MB


@linux
def test_the_peak_of_another_process_is_seen():
    code = (
        "import sys, time; block = bytearray(b'1') * (64 << 20); time.sleep(0.05); del block; "
        "print('done', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        with PeakAnonymous(process.pid) as peak:
            assert process.stdout.readline()
        process.communicate()
    assert peak.bytes > 60 * MB


@linux
def test_resident_memory_holds_the_anonymous():
    assert resident_bytes() > anonymous_bytes() > 0


def test_a_process_that_is_gone_has_no_memory():
    assert anonymous_bytes(2**22 + 1) is None


def test_weights_are_counted_once_and_only_where_they_take_memory():
    model = nn.Sequential(nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False), nn.Linear(8, 8, device="meta"))
    assert weight_bytes(model) == 2 * 4 * 64 * 64
    model[1].weight = model[0].weight
    assert weight_bytes(model) == 4 * 64 * 64


@pytest.mark.parametrize("preset", ["int8", "int4"])
def test_weights_of_a_quantized_model_are_those_of_its_kernels(preset):
    model = hf_quant.quantize(tiny_model("llama"), preset, progress=False)
    # A tied embedding and head share one.
    tensors = [tensor for _, module in quantized_modules(model) for tensor in module.packed]
    packed = sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values())
    assert 0 < packed <= weight_bytes(model) < weight_bytes(tiny_model("llama")) / 2


def test_only_cuda_tells_a_peak_of_the_device():
    assert device_peak(torch.device("cpu")) is None
