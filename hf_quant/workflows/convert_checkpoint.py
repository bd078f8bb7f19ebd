"""`convert_checkpoint`: a checkpoint of another program becomes one of ours, bit for bit and one module at a time."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from hf_quant.errors import CheckpointError, ConfigError, SaveError
from hf_quant.importing.described import Described
from hf_quant.importing.gguf import open_gguf
from hf_quant.importing.headers import Headers
from hf_quant.importing.source import Source, folder_of, read_json
from hf_quant.importing.streamed import shards, streamed_file
from hf_quant.integration.readable import check_readable
from hf_quant.quantizing.config import HfQuantConfig
from hf_quant.staging import publish, staging

logger = logging.getLogger(__name__)

SHARD_BYTES = 5 * 10**9
"""Most bytes of one file of weights."""
_LEFT = (
    *("config.json", "quantize_config.json", "quant_config.json", "model.safetensors.index.json", "recipe.yaml"),
    *("README.md", ".gitattributes"),
)
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx")


def convert_checkpoint(
    source: str | Path, output: str | Path, progress: Callable[[str], None] = lambda module: None
) -> HfQuantConfig:
    """Write a checkpoint of GPTQ, AWQ, compressed-tensors, NF4 or GGUF as one that ``from_pretrained`` opens here.

    Every weight decodes to the very float32 numbers that the program's own codes, zero points and scales stand for.

    Args:
        source: Folder or repository id of the checkpoint, or a GGUF file.
        output: New or empty folder.
        progress: Called with the name of each module before it is converted.

    Returns:
        The config that was written: its plan has the scheme of each module.

    Raises:
        ConfigError: `source` is no checkpoint of a program that is known, or of a model that is not.
        LayoutError: Our formats cannot hold it bit for bit; the message says what to take instead.
        CheckpointError: A file is damaged, or tensors do not belong together.
        SaveError: `output` holds something, or cannot be written. Nothing was written, whatever is raised.
    """
    output = Path(output)
    _check_output(output)
    is_gguf = Path(source).is_file() and Path(source).suffix == ".gguf"
    opened = open_gguf(Path(source)) if is_gguf else Source.open(folder_of(source))
    described = Described.of(opened)
    config = HfQuantConfig.of_described(described)
    said = _config_of_gguf(Path(source)) if is_gguf else _config_without(read_json(opened.folder / "config.json"))
    model_class = _model_class(said, opened.folder)
    try:
        with staging(output) as folder:
            _write_weights(described, folder, progress)
            said["quantization_config"] = config.to_dict()
            (folder / "config.json").write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
            if is_gguf:
                _save_tokenizer(Path(source), folder)
            for path in [] if is_gguf else sorted(opened.folder.iterdir()):
                if path.is_file() and path.name not in _LEFT and path.suffix not in _WEIGHTS:
                    shutil.copy(path, folder)
            files = [str(path) for path in sorted(folder.glob("*.safetensors"))]
            check_readable(model_class, model_class.config_class, folder, files)
            publish(folder, output, (), last="config.json")
    except OSError as error:
        raise SaveError(f"cannot write to {output}: {error}. Nothing was written; free space or rights") from error
    return config


def _check_output(output: Path) -> None:
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise SaveError(f"{output} is there and holds something: give a new or an empty folder")


def _config_of_gguf(path: Path) -> dict[str, Any]:
    try:
        config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
        causal = AutoModelForCausalLM._model_mapping[type(config)]
    except Exception as error:  # Transformers trips over numbers of the file in any way
        raise CheckpointError(f"Transformers makes no config of {path} ({type(error).__name__}: {error})") from error
    config.architectures, config.dtype = [causal.__name__], "float32"
    said: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return _config_without(said)


def _save_tokenizer(path: Path, folder: Path) -> None:
    try:
        AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(folder)
    except Exception as error:  # likewise
        logger.warning("no tokenizer can be made of %s (%s): the checkpoint has none", path, error)


def _config_without(said: dict[str, Any]) -> dict[str, Any]:
    inner = said.get("text_config")
    if isinstance(inner, dict):
        said = {**said, "text_config": {key: value for key, value in inner.items() if key != "quantization_config"}}
    return {key: value for key, value in said.items() if key != "quantization_config"}


def _model_class(said: dict[str, Any], folder: Path) -> Any:
    names = said.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    found = getattr(transformers, name, None) if isinstance(name, str) else None
    if found is None or getattr(found, "config_class", None) is None:
        raise ConfigError(f"config.json of {folder} names no architecture that Transformers has ({names})")
    return found


def _write_weights(described: Described, folder: Path, progress: Callable[[str], None]) -> None:
    source = described.source
    groups: dict[str, Headers] = {name: {name: described.headers[name]} for name in source.rest()}
    for full, facts in described.headers.items():
        owner = full.rpartition(".")[0]
        if full not in groups and owner in source.modules:
            groups.setdefault(f"{owner}.", {})[full] = facts
    parts = shards(groups, SHARD_BYTES)
    index: dict[str, str] = {}
    with source.reader() as reader:
        for number, part in enumerate(parts, 1):
            name = "model.safetensors" if len(parts) == 1 else f"model-{number:05}-of-{len(parts):05}.safetensors"
            headers = {full: facts for group in part.values() for full, facts in group.items()}
            index |= dict.fromkeys(headers, name)
            with streamed_file(folder / name, headers) as file:
                for group in part:
                    if not group.endswith("."):
                        file.put(group, reader.tensor(group))
                        continue
                    progress(module := group.removesuffix("."))
                    scheme, tensors = reader.converted(module)
                    if scheme != described.schemes[module]:
                        raise CheckpointError(f"{module} changed while it was read: convert again")
                    for key, tensor in tensors.items():
                        file.put(f"{module}.{key}", tensor)
    if len(parts) > 1:
        text = json.dumps({"metadata": {}, "weight_map": index}, indent=2)
        (folder / "model.safetensors.index.json").write_text(text + "\n", encoding="utf-8")
