"""A written program against the model that it was made of, in ExecuTorch's own runtime."""

from __future__ import annotations

import mmap
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hf_quant.export.comparing import allowed_error, main_output, relative_error, sample
from hf_quant.export.executorch.modules import Product, Table, stand_in
from hf_quant.export.executorch.runtime import Program
from hf_quant.export.executorch.write import FILE
from hf_quant.export.target import Comparison
from hf_quant.modules.swap import quantized_modules


@torch.no_grad()
def verify(model: Any, directory: Path) -> Comparison:
    """Codes and scales byte for byte in the file, and the outputs of the whole model, also for fewer tokens.

    Args:
        model: Quantized, in eval mode; not changed.
        directory: Holds what `write` wrote.
    """
    inputs, expected = sample(model)
    program = Program(directory)
    taken = program.takes
    given = {name: value for name, value in inputs.items() if name in taken}
    if "attention_mask" in taken:
        given.setdefault("attention_mask", torch.ones_like(inputs["input_ids"]))
    if "token_type_ids" in taken:
        given.setdefault("token_type_ids", torch.zeros_like(inputs["input_ids"]))
    differing = codes_that_differ(model, directory / FILE)
    whole = torch.cat([main_output(program(**rows)) for rows in _rows(given)])
    fewer = {name: value[:, : value.shape[1] // 2] for name, value in given.items()}
    halves = torch.cat([main_output(program(**rows)) for rows in _rows(fewer)])
    figures = {
        "modules with other codes": float(len(differing)),
        "outputs": relative_error(whole, expected),
        "outputs for fewer tokens": relative_error(halves, main_output(model(**fewer)).float()),
        "allowed": allowed_error(model, inputs, expected),
    }
    error = max(figures["outputs"], figures["outputs for fewer tokens"])
    note = f"first of them: {differing[0]}" if differing else ""
    is_right = not differing and error <= figures["allowed"]
    return Comparison(f"executorch {version('executorch')}", figures, is_right, note)


def codes_that_differ(model: Any, path: Path) -> list[str]:
    """Names of quantized modules whose codes or scales are not in a file, as its runtime reads them."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stored:
        return [
            name
            for name, module in quantized_modules(model)
            if any(stored.find(each) < 0 for each in _bytes_of(stand_in(name, module)))
        ]


def _rows(inputs: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    count = len(next(iter(inputs.values())))
    return [{name: value[row : row + 1] for name, value in inputs.items()} for row in range(count)]


def _bytes_of(made: Any) -> list[bytes]:
    codes, scale = made.codes, made.scale
    if isinstance(made, Product) and made.group_size:
        # Two in a byte, the first in the lower bits, from 0 on; scales have 16 bits.
        halves = (codes.to(torch.int16) + 8).unflatten(-1, (-1, 2))
        codes, scale = (halves[..., 0] + 16 * halves[..., 1]).to(torch.uint8), scale.bfloat16().view(torch.int16)
    assert isinstance(made, Product | Table)
    return [each.contiguous().numpy().tobytes() for each in (codes, scale)]
