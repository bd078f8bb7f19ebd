"""Saving a quantized model: all of it or nothing, with a model card."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import distributed
from transformers.utils.hub import PushToHubMixin

from hf_quant.errors import HfQuantError, SaveError
from hf_quant.extending.original import original_method
from hf_quant.hub.card import extend_card
from hf_quant.importing.headers import read_headers
from hf_quant.integration.described import described, drop_unfounded, is_quantized, is_unfounded, says_quantized
from hf_quant.integration.readable import check_readable
from hf_quant.modules.state import stored_state
from hf_quant.modules.stored import StoredModule
from hf_quant.staging import publish, staging
from hf_quant.training.prepared import prepared

_SHARED_ARGUMENTS = ("token", "max_shard_size")
"""Arguments of both `save_pretrained` and `push_to_hub`."""


def save_pretrained(
    model: Any,
    save_directory: str | os.PathLike[str],
    is_main_process: bool = True,
    state_dict: dict[str, Any] | None = None,
    **kwargs: Any,
) -> None:
    """``PreTrainedModel.save_pretrained`` that writes to a staging directory first, and sees that it can be loaded.

    The plan in ``config.json`` names the modules that are quantized now, whatever was replaced since.

    Args:
        model: Quantized; or float, with a config that says otherwise, which it loses.
        save_directory: Where the checkpoint is to be; created when missing. Files of an earlier checkpoint are
            replaced once the new one is complete.
        is_main_process: Whether this process is the one that writes. Of several in ``torch.distributed``, only the
            first does, as in Transformers.
        state_dict: Tensors to save instead of the model's own, under the same names.
        **kwargs: Further arguments of ``PreTrainedModel.save_pretrained``.

    Raises:
        SaveError: The directory cannot be written, the disk is full, or `from_pretrained` would refuse what was
            written; nothing was changed in it.
    """
    if is_unfounded(model):
        drop_unfounded(model)
    write = functools.partial(original_method("save_pretrained"), model, is_main_process=is_main_process)
    is_float = not (is_quantized(model) or says_quantized(model.config))
    if prepared(model) is not None:
        # Trainer loads checkpoints under the names that the model has.
        kwargs["save_original_format"] = False
    if is_float or getattr(model, "_hf_peft_config_loaded", False) or not _writes(is_main_process):
        write(save_directory, state_dict=state_dict, **kwargs)
        return
    push = kwargs.pop("push_to_hub", False)
    hub_names = inspect.signature(PushToHubMixin.push_to_hub).parameters
    hub = {name: kwargs[name] for name in kwargs if name in hub_names}
    kwargs = {name: value for name, value in kwargs.items() if name not in hub or name in _SHARED_ARGUMENTS}
    target = Path(save_directory)
    variant = kwargs.get("variant")
    try:
        with staging(target) as folder:
            with described(model):
                with _tensors_to_save(model, state_dict) as state:
                    # Other libraries' names mean tensors that are converted, which codes cannot be.
                    write(folder, state_dict=state, **{**kwargs, "save_original_format": False})
                _correct_dtype(model, folder)
                _check(model, folder, target, variant)
                extend_card(model, folder, existing=target / "README.md", source=target.name)
            publish(folder, target, _stale(target, variant), last="config.json")
    except SaveError:
        raise
    except (OSError, SafetensorError) as error:
        # safetensors reports a full disk as an error of its own.
        raise SaveError(f"cannot save to {target}: {error}. Nothing was changed there; free space or rights") from error
    if push:
        model.push_to_hub(hub.pop("repo_id", target.name), **hub)


def _writes(is_main_process: bool) -> bool:
    return is_main_process and not (
        distributed.is_available() and distributed.is_initialized() and distributed.get_rank() > 0
    )


def _check(model: Any, staging: Path, target: Path, variant: str | None) -> None:
    files = [str(path) for path in sorted(staging.glob("*.safetensors"))]
    try:
        check_readable(type(model), type(model.config), staging, files)
    except HfQuantError as error:
        raise SaveError(
            f"cannot save to {target}: what was to be saved could not be loaded again: {error}. Nothing was changed "
            "there; save the tensors that the model has, and modules and a config that the class makes"
        ) from error
    for other, paths in _other_variants(target, variant).items():
        try:
            read_headers(paths)
        except HfQuantError:
            continue  # no weights, whatever the name says
        try:
            check_readable(type(model), type(model.config), staging, paths)
        except HfQuantError as error:
            raise SaveError(
                f"cannot save to {target}: {Path(paths[0]).name} there is {other}, which the config.json of this model "
                f"does not describe ({error}). Nothing was changed; save to another directory, or move it away"
            ) from error


def _other_variants(target: Path, variant: str | None) -> dict[str, list[str]]:
    """Files of weights in `target` that stay there, by words for the variant that they are of."""
    found: dict[str, list[str]] = {}
    for path in sorted(target.glob("model*.safetensors")):
        match = re.fullmatch(r"model(?:\.(.+?))?(-\d{5}-of-\d{5})?\.safetensors", path.name)
        if match is not None and match[1] != variant:
            found.setdefault("the default" if match[1] is None else f"variant {match[1]!r}", []).append(str(path))
    return found


@contextlib.contextmanager
def _tensors_to_save(model: Any, state_dict: dict[str, Any] | None) -> Iterator[dict[str, Any] | None]:
    # Transformers asks the quantizer of a quantized model for the tensors, and forgets those it was given. A part of
    # one, such as its base model, has no quantizer.
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is None:
        yield stored_state(model, model.state_dict() if state_dict is None else state_dict)
        return
    if state_dict is None:
        yield None
        return
    split = stored_state(model, state_dict)
    quantizer.get_state_dict_and_metadata = lambda model: (split, {})
    try:
        yield None
    finally:
        del quantizer.get_state_dict_and_metadata


def _correct_dtype(model: Any, directory: Path) -> None:
    # Transformers writes the dtype of the first float parameter, which may be a weight stored in another one.
    stored = {id(module.weight) for module in model.modules() if isinstance(module, StoredModule)}
    others = (p.dtype for p in model.parameters() if p.is_floating_point() and id(p) not in stored)
    dtype = next(others, None)
    if dtype is not None and f"torch.{model.config.dtype}" != str(dtype):
        model.config.dtype = str(dtype).removeprefix("torch.")
        model.config.save_pretrained(directory)


def _stale(target: Path, variant: str | None) -> list[str]:
    return [path.name for path in target.glob("*") if not path.is_dir() and _is_weights(path.name, variant)]


def _is_weights(name: str, variant: str | None) -> bool:
    # What an earlier save with this variant wrote; everything else in the directory is somebody's own.
    infix = f".{re.escape(variant)}" if variant else ""
    return (
        re.fullmatch(rf"model{infix}(-\d{{5}}-of-\d{{5}})?\.safetensors|model\.safetensors\.index{infix}\.json", name)
        is not None
    )


def upload_modified_files(
    model: Any, working_dir: str | os.PathLike[str], repo_id: str, *args: Any, **kwargs: Any
) -> Any:
    """Extend the card of what is about to be uploaded: ``push_to_hub`` has just put a generic one over ours."""
    with described(model):
        extend_card(model, Path(working_dir), existing=Path(working_dir) / "README.md", source=repo_id)
    return original_method("_upload_modified_files")(model, working_dir, repo_id, *args, **kwargs)
