"""Sentence encoders of sentence-transformers on a quantized MiniLM."""

import pytest
import torch

from hf_quant.demo.packaged import minilm_directory
from hf_quant.modules.base import QuantizedModule
from hf_quant.quantizing.config import HfQuantConfig
from tests.packages.models import slow

sentence_transformers = pytest.importorskip(
    "sentence_transformers", reason="pip install --no-deps -r requirements-slow.txt"
)
pytestmark = slow

TEXTS = ["A man is eating food.", "Somebody eats.", "Quantum chromodynamics on a lattice.", "Two late goals won."] * 5
LEAST = {"int8": 0.98, "int4": 0.9, "w8a16": 0.999}
"""Preset to the cosine between a sentence's float and quantized embedding."""


def encoder(preset):
    options = {"model_kwargs": {"quantization_config": HfQuantConfig(preset)}} if preset else {}
    return sentence_transformers.SentenceTransformer(str(minilm_directory()), device="cpu", **options)


@pytest.mark.parametrize("preset", LEAST)
def test_sentences_keep_their_meaning_and_a_saved_encoder_gives_the_same_bits(preset, tmp_path):
    expected = encoder(None).encode(TEXTS, convert_to_tensor=True)
    model = encoder(preset)
    found = model.encode(TEXTS, convert_to_tensor=True)
    assert torch.cosine_similarity(found, expected).min() > LEAST[preset]
    model.save_pretrained(str(tmp_path))
    assert sum(file.stat().st_size for file in tmp_path.rglob("*.safetensors")) < 30e6
    reloaded = sentence_transformers.SentenceTransformer(str(tmp_path), device="cpu")
    assert any(isinstance(module, QuantizedModule) for module in reloaded.modules())
    assert torch.equal(reloaded.encode(TEXTS, convert_to_tensor=True), found)


@pytest.mark.parametrize("preset", ["int8", "int4"])
def test_several_processes_encode_as_one_does(preset):
    model = encoder(preset)
    expected = model.encode(TEXTS, convert_to_tensor=True)
    found = model.encode(TEXTS, device=["cpu", "cpu"], chunk_size=5, convert_to_tensor=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_embeddings_are_truncated_and_cast_as_those_of_a_float_encoder():
    model = encoder("int8")
    expected = model.encode(TEXTS)
    assert (model.encode(TEXTS, truncate_dim=64, normalize_embeddings=False) == expected[:, :64]).all()
    half = model.bfloat16().encode(TEXTS, convert_to_tensor=True)
    assert half.dtype == torch.bfloat16
    assert torch.cosine_similarity(half.float(), torch.from_numpy(expected)).min() > 0.99
