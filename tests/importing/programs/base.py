"""The tiny float model that other programs quantize, and what is kept of what they compute.

Run a script of this folder in an environment of its program: ``python gptqmodel_.py FLOAT OUT``; `FLOAT` is made when
it is missing.
"""

import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 64


def float_model(folder, hidden=64):
    """Save the float model and a tokenizer of numbers, unless they are there."""
    folder = Path(folder)
    if (folder / "config.json").exists():
        return folder
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=hidden**-0.5) if parameter.ndim == 2 else parameter.normal_(mean=1.0, std=0.1)
    model.to(torch.float16).save_pretrained(folder)
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"<s>": 0, "<pad>": 1, "<unk>": 2, **{str(number): number for number in range(3, VOCABULARY)}}
    plain = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, bos_token="<s>", eos_token="<s>", pad_token="<pad>", unk_token="<unk>"
    )
    tokenizer.save_pretrained(folder)
    return folder


def texts(rows=32, length=48):
    """Rows of numbers as text, to calibrate on."""
    generator = torch.Generator().manual_seed(1)
    return [
        " ".join(map(str, torch.randint(3, VOCABULARY, (length,), generator=generator).tolist())) for _ in range(rows)
    ]


def ids():
    """Token ids whose logits are kept."""
    return torch.randint(3, VOCABULARY, (1, 12), generator=torch.Generator().manual_seed(2))


def digest(weight):
    """Hash of a weight's numbers in float32; both zeros are one number."""
    return hashlib.sha256((weight.detach().to(torch.float32) + 0.0).contiguous().numpy().tobytes()).hexdigest()


def keep(folder, weights, logits=None):
    """Write what the program's own dequantization gives, and, where it runs here, its logits."""
    folder = Path(folder)
    found = {name: digest(weight) for name, weight in sorted(weights.items())}
    (folder / "expected.json").write_text(json.dumps(found, indent=1) + "\n")
    if logits is not None:
        save_file({"logits": logits.detach().to(torch.float32).contiguous()}, folder / "expected_logits.st")
    for path in folder.iterdir():
        if path.suffix in (".md", ".jinja") or path.name in (
            "tokenizer.json",
            "tokenizer_config.json",
            "quant_log.csv",
        ):
            path.unlink()
