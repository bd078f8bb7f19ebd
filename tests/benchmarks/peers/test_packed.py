"""What peers save is decoded to the very weights that were packed."""

import json

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.peers.packed import most_levels, read

ROWS, WIDTH, GROUP = 16, 128, 64


@pytest.fixture
def grid():
    """Codes ``[rows, width]``, zero points and float16 scales ``[rows, groups]``, and what they stand for."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 16, (ROWS, WIDTH), generator=generator)
    zeros = torch.randint(1, 16, (ROWS, WIDTH // GROUP), generator=generator)
    scales = torch.rand(ROWS, WIDTH // GROUP, generator=generator).half() + 0.5
    wide_zeros, wide_scales = (each.repeat_interleave(GROUP, 1) for each in (zeros, scales.float()))
    return codes, zeros, scales, (codes - wide_zeros) * wide_scales


def packed(codes):
    """int32 ``[rows, width / 8]``, one code after the other from the lowest bits up."""
    words = []
    for row in codes.tolist():
        words.append([])
        for start in range(0, len(row), 8):
            word = sum(code << 4 * place for place, code in enumerate(row[start : start + 8]))
            words[-1].append(word - 2**32 if word >= 2**31 else word)
    return torch.tensor(words, dtype=torch.int32)


def checkpoint(folder, config, **tensors):
    others = {"norm.weight": torch.ones(WIDTH)}
    fields = {f"layer.proj.{name}": tensor.contiguous() for name, tensor in tensors.items()}
    save_file({**fields, **others}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"quantization_config": config}))
    return folder


def as_gptq(folder, grid, less, **config):
    codes, zeros, scales, _ = grid
    tensors = {"qweight": packed(codes).T, "qzeros": packed(zeros.T - less), "scales": scales.T}
    return checkpoint(folder, {"quant_method": "gptq", **config}, **tensors)


@pytest.mark.parametrize(("version", "less"), [("gptq", 1), ("gptq_v2", 0)])
def test_gptq_is_decoded_to_what_was_packed(tmp_path, grid, version, less):
    linears, others = read(as_gptq(tmp_path, grid, less, checkpoint_format=version))
    torch.testing.assert_close(linears["layer.proj"].weight, grid[3], rtol=0, atol=0)
    assert list(others) == ["norm.weight"]


def test_compressed_tensors_are_decoded_to_what_was_packed(tmp_path, grid):
    codes, zeros, scales, weight = grid
    folder = checkpoint(
        tmp_path,
        {"quant_method": "compressed-tensors"},
        weight_packed=packed(codes),
        weight_scale=scales,
        weight_zero_point=packed(zeros.T).T,
        weight_shape=torch.tensor([ROWS, WIDTH]),
    )
    torch.testing.assert_close(read(folder)[0]["layer.proj"].weight, weight, rtol=0, atol=0)


def test_compressed_tensors_without_zero_points_are_centred(tmp_path, grid):
    codes, _, scales, _ = grid
    folder = checkpoint(
        tmp_path, {"quant_method": "compressed-tensors"}, weight_packed=packed(codes), weight_scale=scales
    )
    expected = (codes - 8) * scales.float().repeat_interleave(GROUP, 1)
    torch.testing.assert_close(read(folder)[0]["layer.proj"].weight, expected, rtol=0, atol=0)


def test_codes_scales_and_zero_points_are_counted(tmp_path, grid):
    linear = read(as_gptq(tmp_path, grid, 1))[0]["layer.proj"]
    assert 8 * linear.stored / linear.weight.numel() == 4 + 16 / GROUP + 4 / GROUP
    assert linear.levels <= 16


def test_groups_in_another_order_are_followed(tmp_path, grid):
    codes, zeros, scales, weight = grid
    order = torch.randperm(WIDTH, generator=torch.Generator().manual_seed(1))
    folder = checkpoint(
        tmp_path,
        {"quant_method": "gptq", "checkpoint_format": "gptq_v2"},
        qweight=packed(codes[:, order]).T,
        qzeros=packed(zeros.T),
        scales=scales.T,
        g_idx=(order // GROUP).to(torch.int32),
    )
    torch.testing.assert_close(read(folder)[0]["layer.proj"].weight, weight[:, order], rtol=0, atol=0)


def test_a_zero_point_that_cannot_be_told_is_refused(tmp_path, grid):
    grid[1][0, 0] = 16
    with pytest.raises(ValueError, match="zero point of 0"):
        read(as_gptq(tmp_path, grid, 1))


def test_an_unknown_packing_is_refused(tmp_path, grid):
    with pytest.raises(ValueError, match="'awq'"):
        read(checkpoint(tmp_path, {"quant_method": "awq"}, qweight=packed(grid[0])))


def test_levels_are_counted_group_by_group():
    weight = torch.tensor([[0.0, 0.0, 1.0, 1.0, 2.0, 3.0], [0.0, 0.0, 0.0, 5.0, 5.0, 5.0]])
    assert most_levels(weight, 3) == 3
