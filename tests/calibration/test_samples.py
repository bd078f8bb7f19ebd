"""Data of models that read images or sound: samples and batches, told apart and put together."""

import pytest
import torch
from torch.utils.data import DataLoader
from transformers.feature_extraction_utils import BatchFeature

from hf_quant import Calibration
from hf_quant.errors import CalibrationError
from tests.integration.tiny import tiny_config, tiny_model

CONFIG = tiny_config("bert")
IMAGES = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def batches(dataset, **options):
    return Calibration(dataset, **options).batches(CONFIG)


def test_samples_are_put_into_batches_without_labels_and_text():
    data = [{"pixel_values": image, "label": 3, "caption": "a cat", "index": 7} for image in IMAGES]
    found = batches(data, batch_size=2)
    assert [each["pixel_values"].shape for each in found] == [(2, 3, 4, 4), (2, 3, 4, 4), (1, 3, 4, 4)]
    assert all(each.keys() == {"pixel_values"} for each in found)
    together = torch.cat([each["pixel_values"] for each in found])
    assert {tuple(each.flatten().tolist()) for each in together} == {tuple(each.flatten().tolist()) for each in IMAGES}


@pytest.mark.parametrize(
    "dataset",
    [
        DataLoader([{"pixel_values": image} for image in IMAGES], batch_size=3),
        [BatchFeature({"pixel_values": IMAGES})],
        BatchFeature({"pixel_values": IMAGES}),
        [{"pixel_values": IMAGES.numpy()}],
        [{"pixel_values": IMAGES[:, 0].unsqueeze(1).expand(-1, 3, -1, -1).tolist(), "labels": torch.arange(5)}],
    ],
    ids=["loader", "list of a batch", "batch", "arrays", "lists"],
)
def test_batches_are_taken_apart(dataset):
    assert sum(len(each["pixel_values"]) for each in batches(dataset, batch_size=2)) == 5
    assert sum(len(each["pixel_values"]) for each in batches(dataset, batch_size=2, samples=4)) == 4


def test_batches_of_a_generator_come_in_its_order_without_labels():
    given = [{"pixel_values": torch.full((2, 3, 4, 4), float(i)), "labels": torch.zeros(2)} for i in range(3)]
    found = batches(iter(given), samples=4, batch_size=2)
    assert [list(batch) for batch in found] == [["pixel_values"], ["pixel_values"]]
    assert torch.equal(found[1]["pixel_values"], given[1]["pixel_values"])


def test_sound_of_unlike_lengths_is_never_in_one_batch():
    data = [{"input_values": torch.randn(length), "attention_mask": torch.ones(length)} for length in (10, 10, 12)]
    found = batches(iter(data), batch_size=4)
    assert [len(each["input_values"]) for each in found] == [2, 1]
    assert all(each["input_values"].shape == each["attention_mask"].shape for each in found)


def test_what_has_no_row_for_each_sample_stays_together():
    patches = {"pixel_values": torch.randn(8, 3, 2, 2), "input_ids": torch.ones(1, 6, dtype=torch.int64)}
    (found,) = batches([BatchFeature(patches)], batch_size=2)
    assert found["pixel_values"].shape == (8, 3, 2, 2) and found["input_ids"].shape == (1, 6)


def test_floats_get_the_dtype_of_the_model():
    data = [{"pixel_values": IMAGES[0], "mask": torch.ones(3, dtype=torch.int64)}]
    found = Calibration(data).batches(tiny_model("bert").bfloat16())
    assert found[0]["pixel_values"].dtype == torch.bfloat16 and found[0]["mask"].dtype == torch.int64


def test_processes_share_the_samples():
    data = [{"pixel_values": image} for image in IMAGES]
    parts = [Calibration(data, batch_size=2).shard(rank, 2).batches(CONFIG) for rank in (0, 1)]
    assert [sum(len(each["pixel_values"]) for each in part) for part in parts] == [3, 2]


def test_the_fingerprint_is_that_of_the_numbers():
    data = [{"pixel_values": image} for image in IMAGES]
    other = [{"pixel_values": image + 1e-3} for image in IMAGES]
    assert Calibration(data).fingerprint(CONFIG) == Calibration(list(data)).fingerprint(CONFIG)
    assert Calibration(data).fingerprint(CONFIG) != Calibration(other).fingerprint(CONFIG)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ([{"pixel_values": torch.full((3, 2, 2), torch.inf)}], "NaN or infinite"),
        ([{"pixel_values": "a cat"}], "must be numbers"),
        ([{"input_values": [torch.ones(80), torch.ones(100)]}], "80.*100"),
        ([{"pixel_values": IMAGES[:0]}], "dataset is empty"),
        ([{"pixel_values": IMAGES[0]}, {"caption": "a cat"}], "no numbers such as pixel_values"),
    ],
)
def test_what_is_no_sample_is_refused(data, match):
    with pytest.raises(CalibrationError, match=match):
        Calibration(iter(data)).batches(CONFIG)


def test_what_a_model_reads_beside_tokens_is_kept():
    row = {"input_ids": torch.arange(4), "attention_mask": torch.ones(4, dtype=torch.int64)}
    boxes = torch.arange(16).view(4, 4)
    (found,) = batches([{**row, "bbox": boxes, "special_tokens_mask": torch.zeros(4)}, {**row, "bbox": boxes + 1}])
    assert found.keys() == {"input_ids", "attention_mask", "bbox"}
    assert found["bbox"].shape == (2, 4, 4) and found["input_ids"].shape == (2, 4)
    (plain,) = batches([{**row, "index": 3, "words": torch.arange(4), "special_tokens_mask": torch.zeros(4)}])
    assert plain.keys() == {"input_ids", "attention_mask"}


def test_patches_in_a_row_are_a_batch():
    patches = {"pixel_values": torch.randn(2, 9, 12), "spatial_shapes": torch.full((2, 2), 3)}
    for data in ([patches], [BatchFeature({"pixel_values": patches["pixel_values"]})]):
        (found,) = batches(data)
        assert found["pixel_values"].shape == (2, 9, 12)


def test_texts_without_an_image_may_stand_among_those_with_one():
    row = {"input_ids": torch.arange(4), "attention_mask": torch.ones(4, dtype=torch.int64)}
    found = batches(iter([{**row, "pixel_values": IMAGES[0]}, row, row]))
    assert [each.keys() for each in found] == [{*row, "pixel_values"}, row.keys()]
    assert found[1]["input_ids"].shape == (2, 4)


def test_an_item_without_any_numbers_is_refused():
    with pytest.raises(CalibrationError, match="has no numbers"):
        batches([{"decoder_input_ids": "a text"}])


def test_tokens_of_several_codebooks_are_samples():
    codes = torch.arange(3 * 4 * 6).view(3, 4, 6)
    found = batches([{"input_ids": row.unsqueeze(0)} for row in codes], batch_size=2)
    assert [list(each) for each in found] == [["input_ids"], ["input_ids"]]
    assert sorted(torch.cat([each["input_ids"] for each in found])[:, 0, 0].tolist()) == [0, 24, 48]
