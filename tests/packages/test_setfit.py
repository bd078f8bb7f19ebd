"""Few-shot classifiers of SetFit on a quantized MiniLM."""

import numpy as np
import pytest
import torch
from datasets import Dataset

from hf_quant.demo.packaged import minilm_directory
from hf_quant.modules.base import QuantizedModule
from hf_quant.quantizing.config import HfQuantConfig
from tests.integration.adapters import codes, same
from tests.packages.models import PRESETS, slow

setfit = pytest.importorskip("setfit", reason="pip install --no-deps -r requirements-slow.txt")
pytestmark = slow

GOOD = ["a wonderful film", "I loved it", "great acting", "superb and moving", "a delight", "brilliant"]
BAD = ["an awful film", "I hated it", "terrible acting", "boring and slow", "a mess", "dreadful"]
TEXTS, LABELS = GOOD + BAD, [1] * 6 + [0] * 6


def classifier(preset):
    from sentence_transformers import SentenceTransformer
    from sklearn.linear_model import LogisticRegression

    options = {"quantization_config": HfQuantConfig(preset)}
    body = SentenceTransformer(str(minilm_directory()), device="cpu", model_kwargs=options)
    return setfit.SetFitModel(model_body=body, model_head=LogisticRegression())


@pytest.mark.parametrize("preset", PRESETS)
def test_a_head_is_trained_on_a_quantized_body_and_saved_with_it(preset, tmp_path):
    model = classifier(preset)
    before = codes(model.model_body)
    model.fit(TEXTS, LABELS, num_epochs=1)
    assert same(before, codes(model.model_body))
    assert model.predict(["a lovely movie", "a horrible movie", "splendid", "tedious"]).tolist() == [1, 0, 1, 0]
    model.save_pretrained(str(tmp_path))
    reloaded = setfit.SetFitModel.from_pretrained(str(tmp_path))
    assert any(isinstance(module, QuantizedModule) for module in reloaded.model_body.modules())
    assert np.array_equal(reloaded.predict_proba(TEXTS), model.predict_proba(TEXTS))


@pytest.mark.parametrize("preset", PRESETS)
def test_fine_tuning_the_body_trains_its_norms_and_leaves_the_codes(preset, tmp_path):
    model = classifier(preset)
    body = model.model_body
    before = codes(body), {name: p.detach().clone() for name, p in body.named_parameters() if p.requires_grad}
    arguments = setfit.TrainingArguments(
        output_dir=str(tmp_path / "run"), num_epochs=1, batch_size=4, max_steps=3, report_to="none"
    )
    data = Dataset.from_dict({"text": TEXTS, "label": LABELS})
    setfit.Trainer(model, arguments, train_dataset=data).train()
    assert same(before[0], codes(body)) and all("LayerNorm" in name for name in before[1])
    after = dict(body.named_parameters())
    assert any(not torch.equal(after[name], old) for name, old in before[1].items())
    model.save_pretrained(str(tmp_path / "saved"))
    reloaded = setfit.SetFitModel.from_pretrained(str(tmp_path / "saved"))
    assert np.array_equal(reloaded.predict_proba(TEXTS), model.predict_proba(TEXTS))
