"""Whether a checkpoint can be loaded again, found out from its config and headers by what loading itself does."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter

from hf_quant.errors import CheckpointError
from hf_quant.importing.headers import read_headers
from hf_quant.integration import checkpoint
from hf_quant.integration.quantizer import HfQuantQuantizer
from hf_quant.quantizing.config import HfQuantConfig


def check_readable(model_class: type[Any], config_class: type[Any], directory: Path, files: Sequence[str]) -> None:
    """Go through all of loading but the tensors, for the class that saved the checkpoint.

    Args:
        model_class: Class of the model that was saved.
        config_class: Class of that model's config.
        directory: Holds ``config.json``.
        files: Paths of the weights.

    Raises:
        CheckpointError: Loading would refuse the checkpoint, or leave a tensor of the model to chance.
        ConfigError: Likewise, for what ``config.json`` says.
    """
    config = config_class.from_pretrained(directory)
    said = config.quantization_config
    said = HfQuantConfig.from_dict(said) if isinstance(said, dict) else said
    quantizer = HfQuantQuantizer(said, pre_quantized=True)
    dtype = config.dtype or torch.get_default_dtype()
    dtype = quantizer.update_dtype(getattr(torch, dtype) if isinstance(dtype, str) else dtype)
    model = _empty(model_class, config, dtype)
    quantizer.preprocess_model(model, dtype=dtype, device_map=None, checkpoint_files=list(files), use_kernels=False)
    _check_complete(model, read_headers(files), quantizer.names_are_own)


def _empty(model_class: type[Any], config: Any, dtype: torch.dtype) -> Any:
    """A model as ``from_pretrained`` makes it before it loads anything: without memory for its weights."""
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices=[]))
            for context in model_class.get_init_context(dtype, True, False, None):
                stack.enter_context(context)
            return model_class(config)
    except Exception as error:  # whatever the code of a model raises here, it raises in from_pretrained, too
        raise CheckpointError(
            f"{model_class.__name__} cannot be made from the config alone ({type(error).__name__}: {error})"
        ) from error


def _check_complete(model: Any, headers: checkpoint.Headers, are_own: bool) -> None:
    # Transformers draws at random what is missing, and says so only in its report on loading.
    names = checkpoint.model_names(model, headers, converted=not are_own)
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    ignored = [*(model._keys_to_ignore_on_load_missing or ()), *map(re.escape, model._keys_to_ignore_on_save or ())]
    transforms = [] if are_own else get_model_conversion_mapping(model)
    is_converted = any(isinstance(entry, WeightConverter) for entry in transforms)
    for name, tensor in model.state_dict().items():
        if name not in names:
            if name not in tied and not any(re.search(pattern, name) for pattern in ignored):
                raise CheckpointError(f"{name} of {type(model).__name__} is missing from the tensors to save")
        elif name in headers and not is_converted and headers[name][0] != tuple(tensor.shape):
            raise CheckpointError(
                f"{name} of {type(model).__name__} is {list(tensor.shape)} by the config, but {list(headers[name][0])} "
                "in the tensors to save"
            )
