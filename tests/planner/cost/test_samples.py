"""Rows that linears get for an image or a sound, and the times that follow."""

import torch

from hf_quant.modules.inventory import Inventory
from hf_quant.opening.open import opened
from hf_quant.planner.cost.latency import LatencyCosts, Pass
from hf_quant.planner.cost.samples import reads_tokens, rows_of_samples
from tests.integration.test_convolutions import tiny
from tests.integration.tiny import tiny_model
from tests.planner.cost.tables import table


def test_each_output_of_a_convolution_is_a_row():
    model = tiny("resnet")  # of images of 224 pixels, in which the first convolution takes every second
    with opened(model):
        rows = rows_of_samples(model)
    assert rows["resnet.embedder.embedder.convolution.filters"] == 112**2
    assert rows["classifier.1"] == 1


def test_patches_and_tokens_of_images_are_told_apart():
    model = tiny("vit")
    with opened(model):
        rows = rows_of_samples(model)
    assert rows["vit.embeddings.patch_embeddings.projection.filters"] == 16
    assert rows["vit.layers.0.mlp.fc1"] == 17 and rows["classifier"] == 1


def test_models_that_read_tokens_are_not_run():
    model = tiny_model("bert")
    model.forward = None
    assert reads_tokens(model) and rows_of_samples(model) is None


def test_times_grow_with_the_images_of_a_batch():
    model = tiny("vit")
    name = "vit.layers.0.mlp.fc1"
    one, four = (LatencyCosts(model, table(), Pass(batch=batch)) for batch in (1, 4))
    assert one.linears[name].rows(one.step) == 17 and four.linears[name].rows(four.step) == 68
    assert four.of(name, None) > one.of(name, None) > 0


def test_shapes_are_enough():
    model = tiny("resnet").to("meta")
    with opened(model):
        assert rows_of_samples(model)["resnet.embedder.embedder.convolution.filters"] == 112**2
        assert Inventory.of(model).candidates


def test_a_model_that_nothing_is_known_of_gets_a_row_each(caplog):
    model = tiny("vit")
    model.forward = lambda *args, **kwargs: torch.zeros(1) + None
    assert rows_of_samples(model) == {} and "one each" in caplog.text
