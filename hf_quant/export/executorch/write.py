"""A program for phones: one file that ExecuTorch loads, its matrix products computed by XNNPACK."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim

from hf_quant.errors import ConfigError, ExportError, MissingDependency
from hf_quant.export.comparing import main_output
from hf_quant.export.executorch.modules import stand_in
from hf_quant.export.executorch.runtime import quiet, require_operators
from hf_quant.export.onnx.inputs import plain_inputs
from hf_quant.export.skeleton import skeleton

FILE = "model.pte"
_LEAST, _TOKENS = 2, 128


def write(model: Any, directory: Path, tokenizer: Any = None, *, tokens: int | str = _TOKENS) -> None:
    """Write ``model.pte``, ``export.json`` and ``config.json``, after the program was loaded and run once.

    The program takes one sequence of 2 to `tokens` tokens and keeps no cache.

    Args:
        model: Quantized Transformers model, in memory and in eval mode; not changed.
        directory: An empty folder.
        tokenizer: Not used: who calls this saves it.
        tokens: Most tokens of a sequence, for which the program sets memory aside.

    Raises:
        ConfigError: `tokens` is no whole number from 4 on, or more than the model has positions for.
        ExportError: The model cannot be traced or lowered, or ExecuTorch does not load or run the program.
        MissingDependency: Transformers is too old.
    """
    most = _checked(model, tokens)
    traced = plain_inputs(model)
    require_operators()
    if find_spec("transformers.exporters") is None:
        raise MissingDependency('exporting takes the exporters of Transformers: pip install "transformers>=5.23"')
    with quiet():
        from transformers.exporters import ExecutorchConfig, ExecutorchExporter
    twin = skeleton(model, stand_in)
    inputs = {name: value[:1] if isinstance(value, torch.Tensor) else value for name, value in traced.values.items()}
    axes = {kind: Dim(f"{kind}tokens", min=_LEAST, max=most) for kind in ("", "decoder_")}
    dynamic = {name: {1: axes["decoder_" if name.startswith("decoder_") else ""]} for name in traced.dynamic}
    try:
        with quiet():
            program = ExecutorchExporter().export(twin, inputs, ExecutorchConfig(dynamic_shapes=dynamic))
            # Some of what XNNPACK does not take is found only when a program is loaded.
            found = main_output(program(**{name: inputs[name] for name in traced.dynamic}))
    except Exception as error:  # of any kind: torch's, ExecuTorch's, or the model's own
        raise ExportError(
            f"{type(model).__name__} cannot be lowered to XNNPACK: {type(error).__name__}: {str(error)[:400]}. "
            "Take another target, such as onnx"
        ) from error
    if not torch.isfinite(found).all():
        raise ExportError(
            f"the program of {type(model).__name__} gives NaN: the model reads the weight of a quantized module "
            "itself; take another target, such as onnx"
        )
    program.save_pretrained(directory)


def _checked(model: Any, tokens: int | str) -> int:
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    try:
        most = int(tokens)
    except ValueError:
        most = 0
    if most < 2 * _LEAST:
        raise ConfigError(f"tokens is a whole number from {2 * _LEAST} on, not {tokens!r}")
    if positions and most > positions:
        if tokens == _TOKENS:
            return int(positions)
        raise ConfigError(f"the model has positions for {positions} tokens, not for {most}: give tokens={positions}")
    return most
