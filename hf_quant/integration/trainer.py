"""Meeting ``Trainer`` where it makes its optimizer: learned grids get groups of their own."""

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


def install() -> None:
    """Extend ``Trainer.create_optimizer``. Does its work once.

    Transformers has no event between making an optimizer and loading its state, and callbacks are not told of their
    trainer. For a model without quantization in the loop, the class behaves as before.
    """
    # Late: whoever does not train need not wait for it.
    from transformers import Trainer

    original = Trainer.create_optimizer
    if hasattr(original, ORIGINAL):
        return

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
    Trainer.create_optimizer = create_optimizer
