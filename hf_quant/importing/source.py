"""A checkpoint of another program: its config, its files, and the modules in it that are quantized."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open

from hf_quant.config.scheme import Scheme
from hf_quant.errors import CheckpointError, ConfigError, LayoutError
from hf_quant.importing.headers import Headers, read_headers
from hf_quant.importing.module import ForeignModule
from hf_quant.registry import Registry, unknown

METHODS = Registry(
    "method of quantization",
    {
        "gptq": "hf_quant.importing.gptq:modules",
        "auto-round": "hf_quant.importing.gptq:rounded_modules",
        "awq": "hf_quant.importing.gptq:awq_modules",
        "compressed-tensors": "hf_quant.importing.compressed_tensors:modules",
        "bitsandbytes": "hf_quant.importing.bitsandbytes:modules",
    },
)
"""``quant_method`` of a config to what finds the quantized modules of a checkpoint."""

_CONFIGS = ("quantize_config.json", "quant_config.json")
"""Where older releases keep what ``quantization_config`` says now."""
_CODES = ("I8", "U8", "I32", "F8_E4M3", "F8_E5M2")


@dataclass(frozen=True)
class Source:
    """A checkpoint of another program. Call `open`.

    Args:
        folder: Where it lies.
        method: Its ``quant_method``.
        files: Files of weights.
        where: File of each tensor.
        headers: Tensor name to shape and dtype.
        modules: Quantized modules by name.
        ties: Module that reads the weight of another, and has none in the files, to that other.
    """

    folder: Path
    method: str
    files: Sequence[str]
    where: Mapping[str, str]
    headers: Headers
    modules: Mapping[str, ForeignModule]
    ties: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path) -> Source:
        """Read config and headers of a checkpoint in a folder; no tensor is read.

        Raises:
            ConfigError: Its config says of no program that it quantized the weights, or of one that is not known.
            CheckpointError: A file is missing or damaged, or tensors do not belong together.
            LayoutError: Our formats cannot hold it bit for bit.
        """
        config = quantization_of(folder)
        method = config.get("quant_method", "")
        if method == "hf_quant":
            raise ConfigError(f"{folder} is a checkpoint of hf_quant: from_pretrained opens it as it is")
        if not isinstance(method, str) or method not in METHODS:
            raise ConfigError(f"{folder}: " + unknown("quant_method", method, METHODS))
        files = weight_files(folder)
        where: dict[str, str] = {}
        headers: Headers = {}
        for path in files:
            found = read_headers([path])
            if doubled := next((name for name in found if name in headers), None):
                raise CheckpointError(f"{doubled} is in two files of {folder}: which one holds is not known")
            headers |= found
            where |= dict.fromkeys(found, path)
        modules = METHODS[method](config, headers)
        if not modules:
            raise CheckpointError(f"{folder} holds no weight of {method}: its config and its tensors differ")
        _check_rest(headers, modules)
        return cls(folder, method, files, where, headers, modules)

    @contextmanager
    def reader(self) -> Iterator[Reader]:
        """Context in which tensors can be read."""
        with ExitStack() as stack:
            yield Reader(self, {path: stack.enter_context(_opened(path)) for path in self.files})

    def rest(self) -> list[str]:
        """Names of the tensors that are of no quantized module, and stay as they are."""
        taken = {full for module in self.modules.values() for full in module.tensors.values()}
        return [name for name in self.headers if name not in taken]


class Reader:
    """Tensors of a `Source` while its files are open.

    Args:
        source: Whose they are.
        handles: Open file by its path.
    """

    def __init__(self, source: Source, handles: Mapping[str, Any]):
        self.source = source
        self.handles = handles

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor as it is in the files."""
        try:
            found: torch.Tensor = self.handles[self.source.where[name]].get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{name} cannot be read ({error}): download the checkpoint again") from error
        return found

    def converted(self, name: str) -> tuple[Scheme, dict[str, torch.Tensor]]:
        """Scheme and tensors of one quantized module, as our checkpoints hold them: see `ForeignModule.converted`."""
        module = self.source.modules[name]
        return module.converted({short: self.tensor(full) for short, full in module.tensors.items()})


def folder_of(source: str | Path) -> Path:
    """Where a checkpoint lies: the folder itself, or that of a repository, which is downloaded.

    Raises:
        ConfigError: There is no such folder, and no such repository can be had.
    """
    if (folder := Path(source)).is_dir():
        return folder
    text = str(source)
    if folder.suffix == ".gguf" and folder.is_file():
        raise ConfigError(f"{text} is a GGUF file, which is not opened on the fly: hf-quant convert-checkpoint {text}")
    if text.startswith((".", "/", "~")) or text.count("/") > 1:
        raise ConfigError(f"there is no directory {text}: give that of a checkpoint, or a repository id, user/name")
    try:
        return Path(snapshot_download(text, ignore_patterns=["*.bin", "*.pt", "*.pth", "*.gguf", "*.h5", "*.onnx"]))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{text} is no directory, and cannot be downloaded: {error}") from error


def quantization_of(folder: Path) -> dict[str, Any]:
    """What the files of a checkpoint say of its quantization.

    Raises:
        ConfigError: They say nothing.
        CheckpointError: ``config.json`` is missing or damaged.
    """
    config = read_json(folder / "config.json")
    for said in (config, config.get("text_config")):
        if isinstance(said, dict) and isinstance(said.get("quantization_config"), dict):
            found: dict[str, Any] = said["quantization_config"]
            return found
    for name in _CONFIGS:
        if (folder / name).is_file():
            return {"quant_method": "gptq" if name == _CONFIGS[0] else "awq", **read_json(folder / name)}
    raise ConfigError(f"config.json of {folder} has no quantization_config: is it float? hf-quant quantize")


def read_json(path: Path) -> dict[str, Any]:
    """An object in a JSON file.

    Raises:
        CheckpointError: The file is missing, or holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): download the checkpoint again") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds no object: download the checkpoint again")
    return found


def weight_files(folder: Path) -> list[str]:
    """Paths of the files of weights in a folder: those of the index, or the only one that there is.

    Raises:
        CheckpointError: There is none, or there are several without an index.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        named = read_json(index).get("weight_map")
        names = sorted({str(each) for each in named.values()}) if isinstance(named, dict) else []
        if not names or any(Path(name).name != name for name in names):
            raise CheckpointError(f"{index} names no files of the folder: download the checkpoint again")
    elif (folder / "model.safetensors").is_file():
        names = ["model.safetensors"]
    else:
        names = sorted(path.name for path in folder.glob("*.safetensors"))
        if len(names) != 1:
            raise CheckpointError(
                f"{folder} has {len(names)} files of safetensors, and no index of them: hf_quant reads "
                "model.safetensors, or what model.safetensors.index.json names"
            )
    return [str(folder / name) for name in names]


def _opened(path: str) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): download the checkpoint again") from error


def _check_rest(headers: Headers, modules: Mapping[str, ForeignModule]) -> None:
    taken = {full for module in modules.values() for full in module.tensors.values()}
    for full, (_, dtype) in headers.items():
        owner, _, short = full.rpartition(".")
        if full in taken:
            continue
        if owner in modules and short != "bias":
            raise LayoutError(f"{full} beside a quantized weight means something that is not read: take another file")
        if dtype in _CODES and short not in ("position_ids", "token_type_ids"):
            raise CheckpointError(f"{full} holds {dtype}, and belongs to no quantized module: the config lacks it")
