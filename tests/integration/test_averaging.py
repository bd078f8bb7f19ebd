"""Averages of weights over training: adapters are averaged, codes stay as they are."""

import pytest
import torch
from peft import get_peft_model
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hf_quant.errors import QuantizedWeightError
from hf_quant.modules.base import QuantizedModule
from tests.integration.adapters import codes, lora_config, same, train
from tests.integration.tiny import FAMILIES, outputs

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
"""PEFT reads an attribute that Transformers has renamed."""

AVERAGES = {"mean": {}, "ema": {"multi_avg_fn": get_ema_multi_avg_fn(0.5)}, "buffers": {"use_buffers": True}}


@pytest.mark.parametrize("options", AVERAGES.values(), ids=AVERAGES)
@pytest.mark.parametrize("preset", ["int8", "int4"])
@pytest.mark.parametrize("name", FAMILIES)
def test_adapters_are_averaged_over_codes_that_stay(name, preset, options, load):
    model = get_peft_model(load(name, preset), lora_config(name))
    averaged = AveragedModel(model, **options)
    averaged.update_parameters(model)
    before, seen = codes(model), []
    for _ in range(2):
        seen.append({key: p.detach().clone() for key, p in model.named_parameters() if p.requires_grad})
        train(model, steps=1)
        averaged.update_parameters(model)
    seen.append({key: p.detach() for key, p in model.named_parameters() if p.requires_grad})
    assert same(before, codes(averaged)) and same(before, codes(model))
    share = [1 / 4, 1 / 4, 1 / 2] if "multi_avg_fn" in options else [1 / 3] * 3
    found = dict(averaged.module.named_parameters())
    for key in seen[0]:
        expected = sum(part * values[key] for part, values in zip(share, seen, strict=True))
        torch.testing.assert_close(found[key].detach(), expected)
    assert outputs(averaged.module.eval()).isfinite().all()


def test_an_average_with_other_codes_is_refused(load):
    model, other = load("llama", "int8"), load("llama", "int8")
    averaged = AveragedModel(model)
    averaged.update_parameters(model)
    weight = next(m for m in other.modules() if isinstance(m, QuantizedModule)).weights["weight"]
    weight.replace({**weight.neutral(), "scale": weight.tensors["scale"] * 2})
    before = codes(averaged)
    with pytest.raises(QuantizedWeightError, match="cannot be written to"):
        averaged.update_parameters(other)
    assert same(before, codes(averaged))
