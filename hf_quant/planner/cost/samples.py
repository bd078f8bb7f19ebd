"""How many rows the linears of a model that reads no tokens get for each image or sound."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from hf_quant.errors import EvaluationError
from hf_quant.evaluation.random_inputs import run_on_random_inputs

logger = logging.getLogger(__name__)


def reads_tokens(model: Any) -> bool:
    """Whether the main input of a model is token ids."""
    return getattr(model, "main_input_name", "input_ids") in ("input_ids", "decoder_input_ids")


def rows_of_samples(model: Any) -> dict[str, int] | None:
    """Rows that each linear gets for one sample, by its name; filters of convolutions get one for each output.

    Seen in a pass of a sample as large as the config says that samples are.

    Args:
        model: Opened, float or quantized, on any device: the meta device serves.

    Returns:
        None for models that read tokens; a linear that is not called is absent.
    """
    if reads_tokens(model):
        return None
    found: dict[str, int] = {}

    device = next(model.parameters()).device

    def run(inputs: dict[str, torch.Tensor]) -> int:
        found.clear()
        model(**{name: tensor.to(device) for name, tensor in inputs.items()})
        return len(next(iter(inputs.values())))

    handles = [
        module.register_forward_pre_hook(_counting(name, found))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    training = model.training
    try:
        with torch.no_grad():
            _, samples = run_on_random_inputs(model.eval(), run)
    except EvaluationError as error:
        logger.warning("how many rows linears get is not known, predicted times are those of one each: %s", error)
        return {}
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return {name: max(1, rows // samples) for name, rows in found.items()}


def _counting(name: str, found: dict[str, int]) -> Any:
    def count(module: nn.Module, args: tuple[Any, ...]) -> None:
        if args:
            found[name] = found.get(name, 0) + args[0].numel() // args[0].shape[-1]

    return count
