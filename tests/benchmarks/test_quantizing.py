"""What is timed of quantizing and packing does its work."""

import pytest
import torch

from benchmarks.quantizing import OPS, cases
from hf_quant.kernels.native.library import load


@pytest.mark.skipif(load() is None, reason="the native library is not installed")
@pytest.mark.parametrize("op", OPS)
def test_every_op_runs_on_tensors_that_it_takes(op):
    (case,) = cases(op, "128x128", (0,), 1 << 16)
    done = case.run()
    assert isinstance(done, torch.Tensor) if op.startswith("pack") else done is True
