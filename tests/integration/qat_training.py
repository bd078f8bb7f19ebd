"""Tiny runs of the Trainer with quantization in the loop."""

import torch
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_quant import Scheme, TensorScheme
from hf_quant.workflows.qat_callback import QATCallback
from tests.integration.tiny import tiny_model, token_ids

STATIC = Scheme(TensorScheme(bits=4), TensorScheme(granularity="tensor", symmetric=False))
"""W4A8 per channel, static inputs."""


class Rows(Dataset):
    """Rows of token ids that are their own labels."""

    def __init__(self, rows=16, seed=0):
        self.ids = token_ids(rows, seed=seed)

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        return {"input_ids": self.ids[index], "labels": self.ids[index]}


class Watch(TrainerCallback):
    """Calls a function before each step."""

    def __init__(self, function):
        self.function = function

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        self.function(state.global_step, model, kwargs["optimizer"])


def arguments(directory, **changes):
    """Eight steps of four rows."""
    options = {
        "report_to": [],
        "use_cpu": True,
        "max_steps": 8,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_strategy": "no",
        "dataloader_pin_memory": False,
    }
    return TrainingArguments(str(directory), **{**options, **changes})


def trainer(
    directory, config="int4", name="bert", callbacks=(), trainer_class=Trainer, model=None, more=None, **changes
):
    """A Trainer with a `QATCallback`, whose options are those of `changes` that it has."""
    names = QATCallback.__init__.__kwdefaults__
    callback = QATCallback(config, **{key: changes.pop(key) for key in list(changes) if key in names})
    return trainer_class(
        tiny_model(name) if model is None else model,
        arguments(directory, **changes),
        train_dataset=Rows(),
        eval_dataset=Rows(8, seed=1),
        callbacks=[*callbacks, callback],
        **(more or {}),
    )


def state(model):
    """A copy of everything that a model holds."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(first, second):
    """Whether two states are equal bit for bit."""
    return first.keys() == second.keys() and all(
        torch.equal(tensor, second[name]) or bool(tensor.isnan().all() and second[name].isnan().all())
        for name, tensor in first.items()
    )
