"""Checkpoints by path or repository id, whatever task they are for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer

from hf_quant.errors import CheckpointError, ConfigError, UnsupportedModel
from hf_quant.quantizing.config import HfQuantConfig
from hf_quant.registry import unknown

DTYPES = ("auto", "float32", "bfloat16", "float16")

_TOKENIZER_FILES = ("tokenizer*", "vocab*", "merges.txt", "spiece.model", "sentencepiece*", "*.tiktoken", "tekken.json")


def load_model(source: str, config: HfQuantConfig | None = None, dtype: str = "auto") -> Any:
    """Load a checkpoint as the class that it was saved as, quantizing it if a config is given.

    Args:
        source: Directory or repository id of the checkpoint.
        config: Config to quantize by while loading; None loads the checkpoint as it is.
        dtype: Dtype to load in: ``"auto"``, ``"float32"``, ``"bfloat16"`` or ``"float16"``.

    Raises:
        ConfigError: The dtype is unknown, the directory does not exist, or ``config.json`` names no architecture that
            Transformers has.
        UnsupportedModel: The checkpoint is to be quantized, and is already.
        CheckpointError: A file of weights is damaged.
    """
    check_source(source, dtype)
    try:
        model_config = AutoConfig.from_pretrained(source)
    except ValueError as error:
        raise ConfigError(f"config.json of {source} is of no model that Transformers knows: {error}") from error
    if config is not None and getattr(model_config, "quantization_config", None) is not None:
        # Transformers would load it as it is, with a warning.
        raise UnsupportedModel(f"{source} is quantized already: give the float checkpoint that it was made of")
    names = model_config.architectures or []
    model_class = getattr(transformers, names[0], None) if names else None
    if model_class is None:
        raise ConfigError(
            f"config.json of {source} names no architecture that Transformers has ({names}); "
            "load the model in Python with its own class and call hf_quant.quantize(model, config)"
        )
    try:
        return model_class.from_pretrained(source, dtype=dtype, quantization_config=config)
    except SafetensorError as error:
        raise CheckpointError(
            f"a file of weights of {source} is damaged ({error}): copy or download it anew"
        ) from error


def check_source(source: str, dtype: str = "auto") -> None:
    """Raise ConfigError if a checkpoint's dtype is unknown, or its path leads nowhere."""
    is_path = source.startswith((".", "/", "~")) or source.count("/") > 1 or Path(source).exists()
    if is_path and not Path(source).is_dir():
        # No repository id; Transformers would only say what is wrong with it as one.
        raise ConfigError(f"there is no directory {source}: give that of a checkpoint, or a repository id, user/name")
    if dtype not in DTYPES:
        raise ConfigError(unknown("dtype", dtype, DTYPES))


def check_output(output: Path, source: str) -> None:
    """Raise ConfigError if a quantized model cannot be saved to `output`, or would overwrite its source."""
    if output.exists() and not output.is_dir():
        raise ConfigError(f"--output {output} is a file: give a directory to save to")
    if Path(source).is_dir() and output.resolve() == Path(source).resolve():
        raise ConfigError("--output is where the float checkpoint lies, which would be lost: give another directory")


def checked_device(device: str) -> torch.device:
    """The device of a name; raises ConfigError if it does not exist."""
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"no device {device!r} here: {str(error).splitlines()[0]}") from error
    return place


def load_tokenizer(source: str) -> Any:
    """Load the tokenizer of a checkpoint; None if there is none."""
    folder = Path(source)
    if folder.is_dir() and not any(any(folder.glob(pattern)) for pattern in _TOKENIZER_FILES):
        return None  # Transformers would make up one that knows hardly a word
    try:
        return AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError):
        return None


def copy_tokenizer(source: str, directory: Path) -> bool:
    """Copy a checkpoint's tokenizer to another directory; False if there is none."""
    tokenizer = load_tokenizer(source)
    if tokenizer is None:
        return False
    tokenizer.save_pretrained(directory)
    return True
