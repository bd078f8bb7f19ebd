"""Meeting ``Trainer`` where it makes its optimizer and where it loads a checkpoint to go on from."""

from __future__ import annotations

import functools
from typing import Any, Protocol

from hf_quant.integration.grid_groups import add_groups
from hf_quant.integration.original import ORIGINAL
from hf_quant.integration.prepared import prepared


class MeetsOptimizer(Protocol):
    """A callback that is told of the optimizer."""

    def on_optimizer_made(self, trainer: Any, is_new: bool) -> None:
        """Called by `create_optimizer` of `trainer`, before it is used or loaded; `is_new`: it was made just now."""


class MeetsCheckpoint(Protocol):
    """A callback that is told what training goes on from."""

    def on_checkpoint_load(self, folder: str) -> None:
        """Called before anything of the checkpoint in `folder` is loaded; raises where it does not fit."""


def install() -> None:
    """Extend ``Trainer.create_optimizer`` and ``Trainer._load_from_checkpoint``. Does its work once.

    Transformers has no event between making an optimizer and loading its state, nor one before a checkpoint is loaded,
    and callbacks are not told of their trainer. For a model without quantization in the loop, the class behaves as
    before.
    """
    # Late: whoever does not train need not wait for it.
    from transformers import Trainer

    if hasattr(Trainer.create_optimizer, ORIGINAL):
        return
    _extend_optimizer(Trainer)
    _extend_loading(Trainer)


def _extend_loading(trainer_class: Any) -> None:
    original = trainer_class._load_from_checkpoint

    @functools.wraps(original)
    def load_from_checkpoint(trainer: Any, resume_from_checkpoint: str, *args: Any, **kwargs: Any) -> Any:
        for callback in trainer.callback_handler.callbacks:
            if hasattr(callback, "on_checkpoint_load"):
                callback.on_checkpoint_load(resume_from_checkpoint)
        return original(trainer, resume_from_checkpoint, *args, **kwargs)

    trainer_class._load_from_checkpoint = load_from_checkpoint


def _extend_optimizer(trainer_class: Any) -> None:
    original = trainer_class.create_optimizer

    @functools.wraps(original)
    def create_optimizer(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        is_new = trainer.optimizer is None
        optimizer = original(trainer, *args, **kwargs)
        told = [callback for callback in trainer.callback_handler.callbacks if hasattr(callback, "on_optimizer_made")]
        for callback in told:
            callback.on_optimizer_made(trainer, is_new)
        if is_new and not told and prepared(trainer.model) is not None:
            add_groups(trainer.optimizer, trainer.model, None, trainer.args.learning_rate)
        return optimizer

    setattr(create_optimizer, ORIGINAL, original)
    trainer_class.create_optimizer = create_optimizer
