"""Meeting ``Trainer`` where it makes its optimizer and where it loads a checkpoint to go on from."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

from hf_quant.errors import ConfigError
from hf_quant.extending.original import ORIGINAL
from hf_quant.qat.schedule import unknown_ranges
from hf_quant.training.grid_groups import add_groups, base_rate
from hf_quant.training.prepared import prepared

_METHOD = "create_optimizer"

_TELLS = "hf_quant_tells"
"""Attribute of a method of one trainer, after which callbacks are told of the optimizer."""


class MeetsOptimizer(Protocol):
    """A callback that is told of the optimizer."""

    def on_optimizer_made(self, trainer: Any, is_new: bool) -> None:
        """Called by `create_optimizer` of `trainer`, before it is used or loaded; `is_new`: it was made just now."""


class MeetsCheckpoint(Protocol):
    """A callback that is told what training goes on from."""

    def on_checkpoint_load(self, folder: str) -> None:
        """Called before anything of the checkpoint in `folder` is loaded; raises where it does not fit."""


def install() -> None:
    """Extend ``Trainer.create_optimizer``, and what calls it and loads checkpoints. Does its work once.

    Transformers has no event between making an optimizer and loading its state, nor one before a checkpoint is loaded,
    and callbacks are not told of their trainer. For a model without quantization in the loop, the class behaves as
    before.
    """
    # Late: whoever does not train need not wait for it.
    from transformers import Trainer

    if hasattr(Trainer.create_optimizer, ORIGINAL):
        return
    _extend_optimizer(Trainer)
    _extend_preparing(Trainer)
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


def _extend_preparing(trainer_class: Any) -> None:
    """Meet optimizers of subclasses, too, whose `create_optimizer` need not call that of ``Trainer``."""
    original = getattr(trainer_class, "_prepare_for_training", None)
    if original is None:  # of another version: subclasses have to call it
        return

    @functools.wraps(original)
    def prepare_for_training(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        own = vars(trainer).get(_METHOD)
        setattr(trainer, _METHOD, _telling(trainer, getattr(trainer, _METHOD)))
        try:
            return original(trainer, *args, **kwargs)
        finally:
            if own is None:
                delattr(trainer, _METHOD)
            else:
                setattr(trainer, _METHOD, own)

    trainer_class._prepare_for_training = prepare_for_training


def _extend_optimizer(trainer_class: Any) -> None:
    original = trainer_class.create_optimizer

    @functools.wraps(original)
    def create_optimizer(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        if hasattr(vars(trainer).get(_METHOD), _TELLS):
            return original(trainer, *args, **kwargs)  # what called this tells
        return _telling(trainer, functools.partial(original, trainer))(*args, **kwargs)

    setattr(create_optimizer, ORIGINAL, original)
    trainer_class.create_optimizer = create_optimizer


def _telling(trainer: Any, method: Callable[..., Any]) -> Callable[..., Any]:
    """`method`, which makes the optimizer of `trainer`, and callbacks are told of it."""

    def create_optimizer(*args: Any, **kwargs: Any) -> Any:
        before = trainer.optimizer
        optimizer = method(*args, **kwargs)
        _tell(trainer, trainer.optimizer is not before)
        return optimizer

    setattr(create_optimizer, _TELLS, True)
    return create_optimizer


def _tell(trainer: Any, is_new: bool) -> None:
    told = [callback for callback in trainer.callback_handler.callbacks if hasattr(callback, "on_optimizer_made")]
    for callback in told:
        callback.on_optimizer_made(trainer, is_new)
    if told or prepared(trainer.model) is None:
        return
    unknown = unknown_ranges(trainer.model)
    if unknown:
        raise ConfigError(
            f"the static input of {unknown[0]} has no range, and nothing in this Trainer observes it: give it "
            "callbacks=[hf_quant.QATCallback()]"
        )
    if is_new:
        add_groups(trainer.optimizer, trainer.model, None, base_rate(trainer.optimizer, trainer.args))
