"""Models whose weights accelerate brings for each call, from memory or from disk."""

import pytest
from accelerate import cpu_offload, disk_offload

from tests.integration.tiny import CHECKPOINTS, error, outputs

ROUNDED = 1e-2
"""Sums of separate calls are in another order than those of fused ones, which may round an input to another code."""


@pytest.mark.parametrize("preset", ["int8", "int4", "w8a16"])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_weights_that_come_from_memory_compute_what_they_did(name, preset, load):
    model = load(name, preset)
    expected = outputs(model)
    cpu_offload(model, execution_device="cpu")
    for _ in range(2):
        assert error(outputs(model), expected) < ROUNDED


@pytest.mark.parametrize("preset", ["int8", "int4", "w8a16"])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_weights_that_accelerate_puts_on_disk_compute_what_they_did(name, preset, load, tmp_path):
    # It writes them as the floats that they decode to.
    model = load(name, preset)
    expected = outputs(model)
    disk_offload(model, str(tmp_path), execution_device="cpu")
    for _ in range(2):
        assert error(outputs(model), expected) < ROUNDED
