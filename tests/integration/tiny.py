"""Tiny random models whose outputs depend on every weight, and what tests measure on them."""

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

FAMILIES = ("bert", "gpt2", "llama")
"""The three that every claim is made for."""

CHECKPOINTS = (*FAMILIES, "llama-untied", "llama-gqa")
VOCABULARY, HIDDEN, LAYERS = 128, 64, 2

_BERT = {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "intermediate_size": 128}
_GPT2 = {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": 4, "n_positions": 128, "bos_token_id": 0, "eos_token_id": 0}
_LLAMA = {**_BERT, "max_position_embeddings": 128, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}


def tiny_config(name, **changes):
    """The config of a tiny model of `CHECKPOINTS`."""
    if name == "bert":
        return BertConfig(**{**_BERT, "vocab_size": VOCABULARY, "max_position_embeddings": 128, **changes})
    if name == "gpt2":
        return GPT2Config(**{**_GPT2, "vocab_size": VOCABULARY, "pad_token_id": 1, **changes})
    heads = {"num_key_value_heads": 2 if name == "llama-gqa" else 4}
    tie = {"tie_word_embeddings": name != "llama-untied"}
    return LlamaConfig(**{**_LLAMA, "vocab_size": VOCABULARY, **heads, **tie, **changes})


def tiny_model(name, model_class=None, seed=0, **changes):
    """A float32 model in eval mode, its weights drawn so large that no two models agree by chance."""
    classes = {"bert": BertForMaskedLM, "gpt2": GPT2LMHeadModel}
    torch.manual_seed(seed)
    model = (model_class or classes.get(name, LlamaForCausalLM))(tiny_config(name, **changes)).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=HIDDEN**-0.5)
            else:
                parameter.normal_(mean=float("norm" in parameter_name.lower() or "ln_" in parameter_name), std=0.1)
                if parameter_name.endswith("bias"):
                    parameter.normal_(std=0.1)
    return model


def auto_class(name):
    """The auto class that opens the checkpoint of a family with its language-model head."""
    return AutoModelForMaskedLM if name == "bert" else AutoModelForCausalLM


def token_ids(rows=2, length=16, seed=0):
    """Token ids ``[rows, length]``, none of them special."""
    return torch.randint(4, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def outputs(model, ids=None):
    """Logits, or the hidden states of a model without a head, in the model's dtype."""
    result = model(input_ids=token_ids() if ids is None else ids)
    return (result.logits if "logits" in result else result.last_hidden_state).clone()


def error(found, expected):
    """Relative error in norm."""
    found, expected = found.float(), expected.float()
    return ((found - expected).norm() / expected.norm()).item()


def saved_tensors(directory):
    """Every tensor of a checkpoint, all shards together."""
    return {
        name: tensor
        for path in sorted(Path(directory).glob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def run_python(code, *arguments):
    """Run `code` in a fresh Python that can import this checkout's package; gives exit code, stdout and stderr."""
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)


def wrong_in_threads(call, expected, threads, steps):
    """Numbers of the calls that gave something else than `expected`, made by several threads in orders of their own."""
    wrong = []

    def work(turn):
        for step in range(steps):
            index = (step + turn) % len(expected)
            if not torch.equal(call(index), expected[index]):
                wrong.append(index)

    started = [threading.Thread(target=work, args=(turn,)) for turn in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    return wrong
