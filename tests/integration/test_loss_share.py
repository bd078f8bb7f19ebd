"""A mean over each batch, times its share, is the mean over the step."""

from types import SimpleNamespace

import pytest
import torch

from hf_quant.training.loss_share import loss_share
from tests.integration.qat_training import trainer
from tests.integration.test_qat_distillation import W3A8
from tests.integration.tiny import tiny_model

LABELS = torch.tensor([[-100, 5, 6], [-100, 7, -100]])


def a_trainer(accepts=True, function=None, scaled=None, processes=1, shifts=False):
    return SimpleNamespace(
        model_accepts_loss_kwargs=accepts,
        compute_loss_func=function,
        loss_is_scaled_for_ga=scaled,
        current_gradient_accumulation_steps=4,
        _loss_shifts_labels=shifts,
        accelerator=SimpleNamespace(num_processes=processes),
        args=SimpleNamespace(average_tokens_across_devices=True, n_gpu=0),
    )


@pytest.mark.parametrize(
    ("options", "items", "share"),
    [
        ({}, 12, 3 / 12),
        ({"processes": 2}, 12, 6 / 12),
        ({"accepts": False, "function": print}, 12, 3 / 12),
        ({"accepts": False, "function": print}, None, 1 / 4),  # nothing divides its loss
        ({"accepts": False}, None, 1),  # the Trainer divides
        ({}, None, 1),
        ({"scaled": False}, 12, 1),
        ({"accepts": False, "scaled": True}, None, 1 / 4),
    ],
)
def test_a_batch_counts_as_its_labels_do_unless_the_trainer_divides(options, items, share):
    assert float(loss_share(a_trainer(**options), {"labels": LABELS}, items)) == pytest.approx(share)


def test_labels_are_counted_as_they_are_shifted():
    labels = torch.tensor([[4, 5, -100]])
    assert float(loss_share(a_trainer(shifts=True), {"labels": labels}, 4)) == 1 / 4
    assert float(loss_share(a_trainer(shifts=True), {"labels": labels, "shift_labels": labels}, 4)) == 2 / 4


def test_a_loss_function_of_the_user_is_taught_as_much_by_halves_as_by_the_whole(tmp_path):
    def own_loss(outputs, labels, num_items_in_batch=None):
        logits = outputs.logits.flatten(0, 1)
        return torch.nn.functional.cross_entropy(logits, labels.flatten(), reduction="sum") / num_items_in_batch

    losses = []
    for batches in (1, 2):
        model = tiny_model("bert")
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        training = trainer(
            tmp_path,
            W3A8,
            model=model,
            teacher="self",
            max_steps=1,
            per_device_train_batch_size=8 // batches,
            gradient_accumulation_steps=batches,
            more={"compute_loss_func": own_loss},
        )
        training.model_accepts_loss_kwargs = False
        losses.append(training.train().training_loss)
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
