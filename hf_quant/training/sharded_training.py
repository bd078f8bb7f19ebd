"""What a ``Trainer`` that shards with FSDP2 does otherwise where quantization is in the loop, until training begins."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn


class ShardedTraining:
    """Gathers parameters in their own dtype and computes by autocast; of any other Trainer it changes nothing.

    FSDP2's own mixed precision gathers masters and learned grids in bfloat16. What is rounded then, in training and in
    evaluation, is not what is stored, and no product gets faster, since rounded numbers are float32. Autocast, which is
    what mixed precision is wherever nothing is sharded, casts for products only.

    Args:
        trainer: Has not sharded its model yet.
    """

    def __init__(self, trainer: Any):
        self._plugin = trainer.accelerator.state.fsdp_plugin if trainer.accelerator.is_fsdp2 else None
        self._policy = None if self._plugin is None else self._plugin.mixed_precision_policy
        self._held: list[nn.Parameter] = []
        if self._plugin is not None and self._policy is not None:
            self._plugin.mixed_precision_policy = None
            # The Trainer's own is empty: it leaves autocast to Accelerate, which leaves mixed precision to FSDP2.
            trainer.autocast_smart_context_manager = trainer.accelerator.autocast

    def hold(self, parameters: Iterable[nn.Parameter]) -> None:
        """Let parameters ask for no gradients while a checkpoint is loaded that has no optimizer state of them.

        Loading insists on the state of everything that asks for gradients where parameters are sharded.
        """
        if self._plugin is not None:
            self._held = [parameter for parameter in parameters if parameter.requires_grad]
            for parameter in self._held:
                parameter.requires_grad_(False)

    def begin(self) -> None:
        """Once the model is sharded and loaded: undo `hold`, and give Accelerate its policy, for other Trainers."""
        for parameter in self._held:
            parameter.requires_grad_(True)
        self._held = []
        if self._plugin is not None:
            self._plugin.mixed_precision_policy = self._policy
            self._plugin = None
