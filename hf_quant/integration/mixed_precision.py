"""Mixed precision of a ``Trainer`` that shards with FSDP2, where quantization is in the loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def gather_as_stored(trainer: Any) -> Callable[[], None]:
    """Let `trainer`, which has not sharded its model yet, gather parameters in their own dtype and compute by autocast.

    FSDP2's own mixed precision gathers masters and learned grids in bfloat16. What is rounded then, in training and in
    evaluation, is not what is stored, and no product gets faster, since rounded numbers are float32. Autocast, which is
    what mixed precision is wherever nothing is sharded, casts for products only.

    Returns:
        What gives Accelerate, whose settings outlive a Trainer, its policy back; to be called once the model is
        sharded.
    """
    if not trainer.accelerator.is_fsdp2 or trainer.accelerator.state.fsdp_plugin.mixed_precision_policy is None:
        return lambda: None
    plugin = trainer.accelerator.state.fsdp_plugin
    policy, plugin.mixed_precision_policy = plugin.mixed_precision_policy, None
    # The Trainer's own is empty: it leaves autocast to Accelerate, which leaves mixed precision to FSDP2.
    trainer.autocast_smart_context_manager = trainer.accelerator.autocast
    return lambda: setattr(plugin, "mixed_precision_policy", policy)
