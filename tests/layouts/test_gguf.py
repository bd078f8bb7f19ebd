"""Blocks of GGUF decode to what the package gguf decodes them to, bit for bit; other types are refused."""

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, dequantize, quantize

from hf_quant.errors import CheckpointError, LayoutError
from hf_quant.formats import format_of
from hf_quant.layouts import gguf

ROWS, WIDTH = 6, 512


def decoded(found):
    format = format_of(found.scheme)
    format.check(found.tensors, found.matrix, "weight")
    return format.decode_rows(found.tensors, found.matrix, slice(None))


def random_blocks(kind, seed=0):
    """Any bits, with scales that are numbers."""
    _, numbers, size, _ = gguf.BLOCKS[kind]
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (ROWS, WIDTH // numbers, size), dtype=np.uint8)
    at = {"Q6_K": 208, "Q3_K": 108}.get(kind, 0)
    scale = rng.standard_normal((ROWS, WIDTH // numbers, 1)).astype(np.float16)
    scale[0, 0] = 0
    blocks[..., at : at + 2] = scale.view(np.uint8)
    if kind.endswith("_1"):
        steps = rng.integers(0, 2 ** int(kind[1]), scale.shape)
        # Only few bits, so that their multiples are halves.
        few = (np.round(scale * 8) / 8).astype(np.float16)
        blocks[..., :2], blocks[..., 2:4] = few.view(np.uint8), (-few * steps).astype(np.float16).view(np.uint8)
    return blocks.reshape(ROWS, -1)


@pytest.mark.parametrize("kind", gguf.BLOCKS)
def test_blocks_decode_as_the_package_decodes_them(kind):
    blocks = random_blocks(kind)
    expected = dequantize(blocks, GGMLQuantizationType[kind])
    assert torch.equal(decoded(gguf.read(torch.from_numpy(blocks), kind, WIDTH)), torch.from_numpy(expected))


@pytest.mark.parametrize("kind", ["Q4_0", "Q5_0", "Q8_0"])
def test_blocks_that_the_package_writes_are_read(kind):
    real = np.random.default_rng(1).standard_normal((ROWS, WIDTH)).astype(np.float32)
    blocks = quantize(real, GGMLQuantizationType[kind])
    found = gguf.read(torch.from_numpy(blocks), kind, WIDTH)
    assert torch.equal(decoded(found), torch.from_numpy(dequantize(blocks, GGMLQuantizationType[kind])))
    assert found.scheme.group_size == 32 and found.scheme.scale_dtype == "float16" and found.scheme.symmetric


@pytest.mark.parametrize("kind", ["Q4_1", "Q5_1"])
def test_minima_between_the_steps_are_refused(kind):
    real = np.random.default_rng(1).standard_normal((ROWS, WIDTH)).astype(np.float32)
    blocks = torch.from_numpy(quantize(real, GGMLQuantizationType[kind]))
    with pytest.raises(LayoutError, match="whole multiples"):
        gguf.read(blocks, kind, WIDTH)


@pytest.mark.parametrize("kind", ["Q4_K", "Q5_K", "Q2_K", "IQ2_XS", "MXFP4"])
def test_types_without_a_counterpart_are_refused(kind):
    with pytest.raises(LayoutError, match=f"{kind} .*Q4_0"):
        gguf.read(torch.zeros(2, 144, dtype=torch.uint8), kind, 256)


@pytest.mark.parametrize(("shape", "width"), [((2, 17), 32), ((2, 36), 32), ((2, 18), 33), ((36,), 32)])
def test_bytes_that_are_no_rows_of_blocks_are_refused(shape, width):
    with pytest.raises(CheckpointError):
        gguf.read(torch.zeros(shape, dtype=torch.uint8), "Q4_0", width)
