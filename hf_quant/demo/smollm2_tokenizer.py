"""SmolLM2's tokenizer from the vocabulary and merges inside its GGUF file."""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

_CONTROL = 3  # the GGUF token type of <|im_start|> and its like


def smollm2_tokenizer(facts: dict[str, Any]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that cuts numbers into single digits, as SmolLM2 was trained with.

    Ordinary text gives the same tokens as transformers' own GGUF reader, which leaves the digit rule out; the rule
    is kept here because the model's published tokenizer has it.

    Args:
        facts: GGUF metadata (`hf_quant.demo.llama_gguf.metadata`).
    """
    tokens: list[str] = facts["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in facts["tokenizer.ggml.merges"]]
    backend = Tokenizer(BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    kinds = facts["tokenizer.ggml.token_type"]
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL]
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=tokens[facts["tokenizer.ggml.bos_token_id"]],
        eos_token=tokens[facts["tokenizer.ggml.eos_token_id"]],
        unk_token=tokens[facts["tokenizer.ggml.unknown_token_id"]],
        pad_token=tokens[facts["tokenizer.ggml.padding_token_id"]],
        model_max_length=facts["llama.context_length"],
        chat_template=facts["tokenizer.chat_template"],
        clean_up_tokenization_spaces=False,
    )
