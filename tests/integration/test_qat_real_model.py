"""Training a real classifier with quantization in the loop, and what becomes of it."""

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_quant import HfQuantConfig, Scheme, TensorScheme
from hf_quant.demo.packaged import minilm_directory
from hf_quant.demo.texts import news_split
from hf_quant.fusion.fuse import unfuse
from hf_quant.integration import attention
from hf_quant.workflows.qat import convert, prepare

W4A8 = HfQuantConfig(
    scheme=Scheme(TensorScheme(bits=4), TensorScheme(symmetric=False, granularity="token", dynamic=True))
)


@pytest.mark.parametrize("config", ["int4", W4A8], ids=["int4", "W4A8 per channel"])
def test_a_real_encoder_is_converted_to_what_it_evaluated_with(config, tmp_path):
    folder = minilm_directory()
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=4)
    train, _ = news_split()
    texts = [text for _, text in train[:4]]
    batch = AutoTokenizer.from_pretrained(folder)(
        texts, padding=True, truncation=True, max_length=32, return_tensors="pt"
    )
    prepare(model, config)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    for _ in range(3):
        loss = model.train()(**batch, labels=torch.arange(4)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        evaluated = model.eval()(**batch).logits
        convert(model)
        fused = model(**batch).logits
        model.save_pretrained(tmp_path)
        loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
        assert torch.equal(loaded(**batch).logits, fused)
        unfuse(model)
        attention.restore(model)
        assert torch.equal(model(**batch).logits, evaluated)
