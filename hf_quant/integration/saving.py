"""Saving a quantized model: all of it or nothing, with a model card."""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hf_quant.errors import SaveError
from hf_quant.hub.card import extend_card
from hf_quant.modules.stored import StoredModule

_HUB_ARGUMENTS = ("repo_id", "commit_message", "private", "create_pr", "revision", "token", "max_shard_size")


def install(model: Any) -> None:
    """Give this instance the `save_pretrained` below, and the model card in what it pushes.

    Transformers has no hook for either. Attributes of the instance leave its class, pickling and copying as they are.
    """
    model.save_pretrained = functools.partial(save_pretrained, model)
    model._upload_modified_files = functools.partial(_upload_modified_files, model)
    tags = list(model.model_tags or [])
    model.model_tags = [*tags, *(tag for tag in ("hf_quant", "quantized") if tag not in tags)]


def uninstall(model: Any) -> None:
    """Undo `install`."""
    for name in ("save_pretrained", "_upload_modified_files"):
        model.__dict__.pop(name, None)
    if model.model_tags:
        model.model_tags = [tag for tag in model.model_tags if tag not in ("hf_quant", "quantized")] or None


def save_pretrained(model: Any, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
    """``PreTrainedModel.save_pretrained`` that writes to a staging directory first.

    Args:
        model: Quantized.
        save_directory: Where the checkpoint is to be; created when missing. Files of an earlier checkpoint are
            replaced once the new one is complete.
        **kwargs: As for ``PreTrainedModel.save_pretrained``.

    Raises:
        SaveError: The directory cannot be written or the disk is full; nothing was changed in it.
    """
    write = functools.partial(type(model).save_pretrained, model)
    if getattr(model, "_hf_peft_config_loaded", False) or not kwargs.get("is_main_process", True):
        write(save_directory, **kwargs)
        return
    push = kwargs.pop("push_to_hub", False)
    hub = {name: kwargs[name] for name in _HUB_ARGUMENTS if name in kwargs}
    for name in _HUB_ARGUMENTS[:-2]:
        kwargs.pop(name, None)
    target = Path(save_directory)
    if target.exists() and not target.is_dir():
        raise SaveError(f"{target} is a file: give a directory to save to")
    staging = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        write(staging, **kwargs)
        _correct_dtype(model, staging)
        extend_card(model, staging, existing=target / "README.md")
        _publish(staging, target)
    except OSError as error:
        raise SaveError(f"cannot save to {target}: {error}. Nothing was changed there; free space or rights") from error
    except Exception as error:
        # safetensors reports a full disk as an error of its own.
        if type(error).__name__ != "SafetensorError":
            raise
        raise SaveError(f"cannot save to {target}: {error}. Nothing was changed there; free space or rights") from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
    if push:
        model.push_to_hub(hub.pop("repo_id", target.name), **hub)


def _correct_dtype(model: Any, directory: Path) -> None:
    # Transformers writes the dtype of the first float parameter, which may be a weight stored in another one.
    stored = {id(module.weight) for module in model.modules() if isinstance(module, StoredModule)}
    others = (p.dtype for p in model.parameters() if p.is_floating_point() and id(p) not in stored)
    dtype = next(others, None)
    if dtype is not None and f"torch.{model.config.dtype}" != str(dtype):
        model.config.dtype = str(dtype).removeprefix("torch.")
        model.config.save_pretrained(directory)


def _publish(staging: Path, target: Path) -> None:
    mask = os.umask(0)
    os.umask(mask)
    staging.chmod(0o777 & ~mask)
    if not target.exists():
        staging.rename(target)
        return
    written = {path.name for path in staging.iterdir()}
    # config.json goes last: until it names the new plan, the directory is the old checkpoint or plainly broken.
    for name in sorted(written, key=lambda name: (name == "config.json", name)):
        os.replace(staging / name, target / name)
    for path in target.glob("model*.safetensors*"):
        if path.name not in written:
            path.unlink()


def _upload_modified_files(model: Any, working_dir: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
    # push_to_hub puts a generic card over the one that was saved, just before it calls this.
    extend_card(model, Path(working_dir), existing=Path(working_dir) / "README.md")
    return type(model)._upload_modified_files(model, working_dir, *args, **kwargs)
