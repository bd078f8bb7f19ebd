"""Calibration data as a model is called with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, distributed

from hf_quant.calibration.data import Calibration
from hf_quant.errors import CalibrationError


def model_batches(model: Any, calibration: Calibration) -> list[dict[str, Tensor]]:
    """This process's batches: on the model's device, floats in its dtype, with what a decoder reads.

    Raises:
        CalibrationError: The data is not usable.
    """
    if distributed.is_available() and distributed.is_initialized():
        calibration = calibration.shard(distributed.get_rank(), distributed.get_world_size())
    device = next(model.parameters()).device
    batches = calibration.batches(model)
    if getattr(model.config, "is_encoder_decoder", False):
        batches = [{**_decoder_inputs(model, batch), **batch} for batch in batches]
    return [{name: tensor.to(device) for name, tensor in batch.items()} for batch in batches]


def _decoder_inputs(model: Any, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a decoder reads that is to write what its encoder reads: the same tokens, one to the right."""
    if not hasattr(model, "prepare_decoder_input_ids_from_labels") or "input_ids" not in batch:
        return {}
    try:
        ids: Tensor = model.prepare_decoder_input_ids_from_labels(labels=batch["input_ids"])
    except (AttributeError, ValueError) as error:  # models say so in their own ways
        raise CalibrationError(
            f"{type(model).__name__} does not say which token its decoder starts with: set "
            "model.config.decoder_start_token_id and pad_token_id"
        ) from error
    return {"decoder_input_ids": ids}
