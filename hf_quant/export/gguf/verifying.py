"""A GGUF file against the model that it was made of: read back, and run in llama.cpp where that is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hf_quant.errors import ExportError
from hf_quant.export.comparing import main_output, relative_error, sample
from hf_quant.export.gguf import llama_cpp
from hf_quant.export.gguf.architecture import architecture_of
from hf_quant.export.gguf.tensors import entries
from hf_quant.export.target import Comparison
from hf_quant.layouts.gguf_blocks import BLOCK
from hf_quant.modules.base import QuantizedModule
from hf_quant.modules.swap import quantized_modules

VARIABLE = "HF_QUANT_LLAMA_CPP"
"""Environment variable with the folder of llama.cpp's shared libraries; else those of the package llama-cpp-python."""
TEXTS = (
    "The quick brown fox jumps over the lazy dog, doesn't it?",
    "In 1984, 3.14159 and 1000000 were numbers; so is 42.",
    "Größe, naïve café, Москва, 東京, 안녕, 🙂 and 👩‍🚀.",
    "def f(x):\n    return {'a': [x ** 2 for _ in range(3)]}\n\n\n\tpass  # end",
    "  two spaces before, three   within, and some after  ",
)
_STEPS = 12
_FLOORS = 2
_DEVIATIONS = 5
"""How many standard deviations of its error a logit may be off, where the likeliest of many is chosen."""
_HALF = 2e-3
"""Relative error that keys and values as float16, and activations from a table, make of logits."""

_ROUNDINGS = 4
"""How often floats of 16 bits may be off by a last bit."""


@torch.no_grad()
def verify(model: Any, directory: Path) -> Comparison:
    """Read codes and values back by ``gguf``, and compare logits, greedy tokens and tokens of texts by llama.cpp.

    llama.cpp rounds the inputs of a quantized weight to 8 bits in blocks of 32: logits may differ twice as much as
    they do where the model itself has its inputs rounded so, rather than as floats. What it finds likeliest may be,
    for the model, by as much less likely than another token.

    Raises:
        ExportError: llama.cpp cannot open the file.
        EvaluationError: What the model reads is not known.
    """
    (file,) = directory.glob("*.gguf")
    differing, error = read_back(model, file)
    figures: dict[str, float] = {"values that differ": differing, "error of weights": error}
    folder = libraries()
    if folder is None:
        note = f"not run: name the folder of llama.cpp's shared libraries by {VARIABLE}"
        return Comparison("gguf", figures, differing == 0, note)
    inputs, own = sample(model)
    ids = inputs["input_ids"]
    with computing_with(model, to_q8):
        rounded = main_output(model(**inputs)).float()
    tokenizer = _tokenizer(directory, file)
    texts = () if tokenizer is None else TEXTS
    found = run(folder, file, ids.tolist(), _STEPS, texts)
    logits = torch.from_numpy(found["logits"]).to(own.device)
    with computing_with(model, lambda floats: floats):
        expected = main_output(model(**inputs)).float()
        lag, spread = _greedy_lag(model, ids[:1], found["greedy"])
    error = relative_error(logits, expected)
    allowed = _FLOORS * relative_error(rounded, expected) + _HALF + _ROUNDINGS * _coarsest(model)
    figures["relative error of logits"], figures["allowed"] = error, allowed
    if any(module.spec.scheme.input is not None for _, module in quantized_modules(model)):
        figures["with inputs quantized by the plan"] = relative_error(logits, own)
    figures["lag of greedy tokens"] = lag
    is_right = differing == 0 and error <= allowed and lag <= _DEVIATIONS * allowed * spread
    if tokenizer is not None:
        same = [made == tokenizer(text)["input_ids"] for made, text in zip(found["tokens"], texts, strict=True)]
        figures["texts of other tokens"] = same.count(False)
        is_right = is_right and all(same)
    return Comparison("llama.cpp", figures, is_right)


def _coarsest(model: Any) -> float:
    """Relative rounding of the floats that have the fewest bits: here of activations, there of inputs of a weight."""
    floats = [
        entry.source.dtype for entry in entries(model, architecture_of(model)) if isinstance(entry.source, Tensor)
    ]
    return max(torch.finfo(dtype).eps for dtype in (model.dtype, *floats))


def _greedy_lag(model: Any, prompt: Tensor, greedy: list[int]) -> tuple[float, float]:
    """How far logits of tokens that follow a prompt lag behind the largest ones at most, and the spread of logits."""
    following = torch.tensor([greedy], device=prompt.device)
    logits = main_output(model(input_ids=torch.cat([prompt, following], 1))).float()[0, prompt.shape[1] - 1 : -1]
    chosen = logits.gather(-1, following.T)[:, 0]
    return float((logits.amax(-1) - chosen).max()), float(logits.std(-1).max())


def read_back(model: Any, file: Path) -> tuple[int, float]:
    """What ``gguf`` itself decodes of each quantized weight.

    Returns:
        How many numbers differ from our codes times their scales in float16, and the largest error against the scales
        as they are, relative to the largest number of each weight.
    """
    from gguf import GGUFReader
    from gguf.quants import dequantize

    stored = {tensor.name: tensor for tensor in GGUFReader(file).tensors}
    differing, error = 0, 0.0
    for entry in entries(model, architecture_of(model)):
        if not isinstance(entry.source, QuantizedModule):
            continue
        tensor, blocks = stored[entry.name], entry.blocks()
        found = torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type)))
        own = entry.source.dequantized_weight().cpu()
        own = own if entry.order is None else own[entry.order]
        differing += int((found != blocks.values.cpu()).sum()) + (tensor.tensor_type.name != blocks.kind)
        error = max(error, float((found - own).abs().max() / own.abs().max().clamp_min(1e-30)))
    return differing, error


def libraries() -> Path | None:
    """The folder of llama.cpp's shared libraries; None where there are none."""
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser()
    package = find_spec("llama_cpp")
    places = [] if package is None else package.submodule_search_locations or []
    return next((folder for place in places if (folder := Path(place) / "lib").is_dir()), None)


def run(folder: Path, file: Path, ids: list[list[int]], steps: int, texts: tuple[str, ...] = ()) -> dict[str, Any]:
    """Run a file in llama.cpp, in a process of its own.

    Args:
        folder: That of the shared libraries.
        file: The GGUF file.
        ids: Rows of token ids, of one length.
        steps: Tokens to generate after the first row.
        texts: What to make tokens of.

    Returns:
        ``logits`` float32 ``[rows, tokens, vocabulary]``, ``greedy`` the ids generated, ``tokens`` those of each text.

    Raises:
        ExportError: It cannot.
    """
    with tempfile.TemporaryDirectory() as place:
        request, result = Path(place, "request.json"), Path(place, "result.json")
        asked = {"ids": ids, "steps": steps, "texts": texts, "threads": torch.get_num_threads()}
        request.write_text(json.dumps(asked), encoding="utf-8")
        paths = [str(each.absolute()) for each in (folder, file, request, result)]
        command = [sys.executable, str(Path(llama_cpp.__file__)), *paths]
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if line.strip()][-3:]
            raise ExportError(
                f"llama.cpp cannot run what was written: {' / '.join(lines) or done.returncode}; verify=False writes "
                "it still"
            )
        found = json.loads(result.read_text(encoding="utf-8"))
        found["logits"] = np.load(Path(place, found["logits"]))
        return dict(found)


@contextmanager
def computing_with(model: nn.Module, inputs: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Let quantized linears compute with float weights meanwhile, and with what a function makes of float inputs."""

    def replacing(module: QuantizedModule) -> Any:
        def compute(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            bias: Any = None if module.bias is None else module.bias.float()
            made = nn.functional.linear(inputs(args[0].float()), module.dequantized_weight(), bias)
            return made.to(output.dtype)

        return compute

    linears = [module for _, module in quantized_modules(model) if module.multiplies]
    handles = [module.register_forward_hook(replacing(module)) for module in linears]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def to_q8(inputs: Tensor) -> Tensor:
    """Inputs rounded to 8 bits in blocks of 32, as llama.cpp does it; float32 of the same shape."""
    blocks = inputs.unflatten(-1, (-1, BLOCK))
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    codes = torch.where(scale == 0, 0.0, blocks / scale).round()
    return (codes * scale.half().float()).flatten(-2)


def _tokenizer(directory: Path, file: Path) -> Any:
    """The tokenizer beside a file that has one."""
    from gguf import GGUFReader
    from transformers import AutoTokenizer

    field = GGUFReader(file).fields["tokenizer.ggml.model"]
    return None if field.contents() == "no_vocab" else AutoTokenizer.from_pretrained(directory)
