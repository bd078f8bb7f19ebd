"""Subclasses of Trainer that make their optimizer themselves."""

import pytest
import torch
from transformers import Trainer, TrainerCallback

from hf_quant.errors import ConfigError
from hf_quant.training import trainer as meeting
from hf_quant.training.grid_groups import KEY, learned_grids, relative_rate
from hf_quant.workflows.qat import prepare
from tests.integration.qat_training import Rows, Watch, arguments, trainer
from tests.integration.tiny import tiny_model


class OwnOptimizer(Trainer):
    """Never calls `create_optimizer` of Trainer."""

    def create_optimizer(self, model=None):
        if self.optimizer is None:
            self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=2e-3, weight_decay=0.1)
        return self.optimizer


class CallsSuper(Trainer):
    """Adds nothing to it."""

    def create_optimizer(self, *args, **kwargs):
        return super().create_optimizer(*args, **kwargs)


class Told(TrainerCallback):
    """Counts."""

    def __init__(self):
        self.new = []

    def on_optimizer_made(self, trainer, is_new):
        self.new.append(is_new)


def decays(optimizer):
    """Weight decay of groups by what they hold."""
    return {group.get(KEY): group["weight_decay"] for group in optimizer.param_groups}


def test_grids_have_groups_of_their_own_in_an_optimizer_that_a_subclass_makes(tmp_path):
    training = trainer(tmp_path, trainer_class=OwnOptimizer, logging_strategy="steps", logging_steps=4, max_steps=4)
    training.train()
    assert decays(training.optimizer) == {None: 0.1, "weight 4": 0.0, "weight 8": 0.0}
    rates = {group.get(KEY): group["initial_lr"] for group in training.optimizer.param_groups}
    assert 0 < rates["weight 4"] < rates[None] == 2e-3
    assert any("qat/error" in entry for entry in training.state.log_history)
    assert training.model.is_quantized and "create_optimizer" not in vars(training)


def test_rates_that_a_plateau_has_reduced_stay_so_where_bits_change(tmp_path):
    seen = {}

    def look(step, model, optimizer):
        rates = {group.get(KEY): group["lr"] for group in optimizer.param_groups}
        seen[step] = rates, relative_rate(learned_grids(model)["weight 4"], model, 1e-3)

    training = trainer(
        tmp_path,
        bits={0: 8, 3: 4},
        max_steps=4,
        lr_scheduler_type="reduce_lr_on_plateau",
        lr_scheduler_kwargs={"patience": 0, "factor": 0.5, "threshold": 1e9},
        eval_strategy="steps",
        eval_steps=1,
    )
    training.add_callback(Watch(look))  # after the other, so that it sees the change
    training.train()
    rates, expected = seen[3]
    assert rates[None] == 1e-3 / 8
    assert rates["weight 4"] == pytest.approx(expected / 8) and expected > 2 * seen[2][1]
    assert training.model.is_quantized


def test_a_teacher_is_heard_where_a_subclass_makes_the_optimizer(tmp_path):
    losses = [
        trainer(tmp_path, trainer_class=OwnOptimizer, teacher=teacher, max_steps=1).train().training_loss
        for teacher in (None, "self")
    ]
    assert losses[1] > losses[0] * 1.001


def test_a_model_without_a_callback_has_groups_too(tmp_path):
    model = prepare(tiny_model("bert"), "int4")
    training = OwnOptimizer(model, arguments(tmp_path, max_steps=1), train_dataset=Rows())
    training.train()
    assert decays(training.optimizer) == {None: 0.1, "weight 4": 0.0, "weight 8": 0.0}


@pytest.mark.parametrize("trainer_class", [Trainer, CallsSuper, OwnOptimizer])
def test_callbacks_are_told_once_of_each_run(trainer_class, tmp_path):
    told = Told()
    training = trainer(
        tmp_path, trainer_class=trainer_class, callbacks=[told], convert=False, max_steps=1, statistics=False
    )
    training.train()
    assert told.new == [True]
    training.train()
    assert told.new == [True, False]


def test_an_optimizer_that_nobody_is_told_of_is_refused(tmp_path):
    class Hidden(OwnOptimizer):
        _prepare_for_training = Trainer._prepare_for_training.__wrapped__

    with pytest.raises(ConfigError, match="not told of the optimizer"):
        trainer(tmp_path, trainer_class=Hidden).train()


def test_other_versions_of_the_trainer_are_met_where_they_make_the_optimizer():
    class Other:
        """Has no method that prepares for training."""

        optimizer = None

        def create_optimizer(self):
            return None

        def _load_from_checkpoint(self, folder):
            return folder

    before = Other.create_optimizer
    meeting._extend_optimizer(Other)
    meeting._extend_preparing(Other)
    assert Other.create_optimizer is not before and not hasattr(Other, "_prepare_for_training")
