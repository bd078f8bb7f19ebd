import pytest
import torch

from hf_quant.config.scheme import TensorScheme
from hf_quant.errors import ExportError
from hf_quant.formats import format_of
from hf_quant.formats.base import Matrix
from hf_quant.layouts.gguf_blocks import kind_of, to_blocks
from tests.naming import naming

KINDS = {
    (2, True): "Q4_0",
    (3, True): "Q4_0",
    (4, True): "Q4_0",
    (5, True): "Q5_0",
    (6, True): "Q8_0",
    (7, True): "Q8_0",
    (8, True): "Q8_0",
    (2, False): "Q4_1",
    (3, False): "Q4_1",
    (4, False): "Q4_1",
    (5, False): "Q5_1",
}
GRIDS = (
    {"granularity": "group", "group_size": 32},
    {"granularity": "group", "group_size": 96},
    {"granularity": "channel"},
    {"granularity": "tensor"},
)
SCHEMES = {
    TensorScheme(bits=bits, symmetric=symmetric, **grid): kind
    for (bits, symmetric), kind in KINDS.items()
    for grid in GRIDS
}


def stored(scheme, rows=6, width=192, dtype=torch.float32):
    """A weight that uses all codes and zero points of a scheme, its signed codes, and its grid for each number."""
    generator = torch.Generator().manual_seed(0)
    matrix, kind = Matrix(scheme, rows, width), format_of(scheme)
    half = 2 ** (scheme.bits - 1)
    codes = torch.randint(-half, half, (rows, width), generator=generator, dtype=kind.dtype)
    zeros = torch.randint(-half, half, matrix.scale_shape, generator=generator, dtype=kind.dtype)
    scale = ((torch.rand(matrix.scale_shape, generator=generator) + 0.1) / half).to(dtype).float()
    if scheme.symmetric and scheme.bits < 8:
        scale[::2] *= -1
    tensors = kind.stored(kind.pack(codes), (scale, None if scheme.symmetric else zeros), "w")
    grids = tensors["scale"].float(), zeros  # groups have scales of bfloat16
    wide = [values.expand(rows, matrix.groups).repeat_interleave(matrix.group_size, 1) for values in grids]
    return tensors, matrix, codes, wide[0], torch.zeros(()) if scheme.symmetric else wide[1]


def decoded(blocks):
    gguf = pytest.importorskip("gguf", reason='needs pip install "hf-quant[gguf]"')
    return torch.from_numpy(gguf.quants.dequantize(blocks.rows.numpy(), gguf.GGMLQuantizationType[blocks.kind]))


def test_gguf_itself_decodes_the_same_codes_with_scales_in_float16():
    for scheme, kind in SCHEMES.items():
        with naming(scheme):
            tensors, matrix, codes, scale, zeros = stored(scheme)
            blocks = to_blocks(tensors, matrix)
            found = decoded(blocks)
            assert blocks.kind == kind and torch.equal(found, blocks.values)
            assert torch.equal((found / scale + zeros).round().to(codes.dtype), codes)
            expected = (codes - zeros) * scale
            assert (found - expected).abs().max() <= 1.5e-3 * expected.abs().max()


def test_symmetric_blocks_are_exact_where_float16_holds_the_scales():
    for scheme in SCHEMES:
        if scheme.symmetric:
            with naming(scheme):
                tensors, matrix, codes, scale, _ = stored(scheme, dtype=torch.float16)
                assert torch.equal(decoded(to_blocks(tensors, matrix)), codes * scale)


def test_zero_stays_near_zero_where_there_are_minima():
    tensors, matrix, codes, scale, zeros = stored(TensorScheme(bits=4, symmetric=False))
    found = decoded(to_blocks(tensors, matrix))[codes == zeros]
    assert len(found) and found.abs().max() <= 2**-11 * 16 * scale.max()


def test_rows_are_written_in_the_order_that_is_asked_for():
    order = torch.tensor([5, 3, 1, 0, 2, 4])
    for scheme in SCHEMES:
        with naming(scheme):
            tensors, matrix, *_ = stored(scheme)
            assert torch.equal(to_blocks(tensors, matrix, order).rows, to_blocks(tensors, matrix).rows[order])


@pytest.mark.parametrize(
    "scheme",
    [
        TensorScheme(symmetric=False),
        TensorScheme(bits=6, symmetric=False),
        TensorScheme(bits=16),
        TensorScheme(format="nf4", bits=4, granularity="group", group_size=32),
    ],
    ids=str,
)
def test_what_no_block_holds_is_refused(scheme):
    with pytest.raises(ExportError, match="no block of GGUF holds"):
        kind_of(scheme)


def test_groups_that_are_no_whole_blocks_are_refused():
    tensors, matrix, *_ = stored(TensorScheme(bits=4, granularity="group", group_size=48))
    with pytest.raises(ExportError, match="multiple of 32"):
        to_blocks(tensors, matrix)


@pytest.mark.parametrize("factor", [1e7, 1e-8])
def test_scales_that_float16_does_not_hold_are_refused(factor):
    tensors, matrix, *_ = stored(TensorScheme())
    with pytest.raises(ExportError, match="float16"):
        to_blocks({**tensors, "scale": tensors["scale"] * factor}, matrix)


def test_rows_without_numbers_are_no_reason_to_refuse():
    tensors, matrix, *_ = stored(TensorScheme())
    scale = tensors["scale"].clone()
    codes = tensors["codes"].clone()
    scale[0], codes[0] = torch.finfo(torch.float32).tiny, 0
    assert (decoded(to_blocks({"codes": codes, "scale": scale}, matrix))[0] == 0).all()
