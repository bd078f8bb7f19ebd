"""FSDP2 of a Trainer on CPUs, as Accelerate has it on accelerators."""

from contextlib import contextmanager

from accelerate.state import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback


def fsdp(**config):
    """Arguments of the Trainer, as docs/qat.md has them."""
    return {"fsdp": True, "fsdp_config": {"version": 2, "auto_wrap_policy": "TRANSFORMER_BASED_WRAP", **config}}


class IsSharded(TrainerCallback):
    """Makes sure that a test is one of FSDP2."""

    def on_step_end(self, args, state, control, model=None, **kwargs):
        assert any(isinstance(parameter, DTensor) for parameter in model.parameters())


@contextmanager
def sharding(training):
    """Let `training` cut parameters as its arguments ask for: Accelerate takes FSDP for DDP on CPUs, and says nothing.

    Accelerate copies the state of processes over its own again and again, so both have to say so.
    """
    state = training.accelerator.state
    state.fsdp_plugin = FullyShardedDataParallelPlugin(**training.args.fsdp_plugin_args)
    if state.mixed_precision != "no":
        state.fsdp_plugin.set_mixed_precision(state.mixed_precision)
    policy = state.fsdp_plugin.mixed_precision_policy
    training.is_fsdp_enabled = True
    training.add_callback(IsSharded())
    both, before = (state._shared_state, PartialState._shared_state), state.distributed_type
    for values in both:
        values["distributed_type"] = DistributedType.FSDP
    try:
        yield
        assert state.fsdp_plugin.mixed_precision_policy is policy  # another Trainer would go on with it
    finally:
        for values in both:
            values["distributed_type"] = before
