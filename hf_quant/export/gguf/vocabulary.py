"""A tokenizer of Transformers as a GGUF file describes it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from hf_quant.errors import ExportError

_ENDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3, _QWEN2 = rf"{_ENDS}\p{{N}}{{1,3}}{_REST}", rf"{_ENDS}\p{{N}}{_REST}"
SPLITS = {
    ("ByteLevel",): "gpt-2",
    ("Digits", "ByteLevel"): "smollm",
    (_LLAMA3, "ByteLevel"): "llama-bpe",
    (_QWEN2, "ByteLevel"): "qwen2",
}
"""What a tokenizer cuts texts by before it merges, to its name in llama.cpp."""
_SPACE = "▁"
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
_IDS = ("bos", "eos", "unk", "pad", "sep", "mask")


def describe(writer: Any, tokenizer: Any, size: int) -> None:
    """Write what a tokenizer is; without one, that there is none, and llama.cpp takes token ids only.

    Args:
        writer: A ``gguf.GGUFWriter``.
        tokenizer: A fast tokenizer of Transformers, or None.
        size: Rows of the model's embedding.

    Raises:
        ExportError: llama.cpp has no such tokenizer.
    """
    writer.add_vocab_size(size)
    if tokenizer is None:
        writer.add_tokenizer_model("no_vocab")
        return
    backend = getattr(tokenizer, "backend_tokenizer", None)
    found = {} if backend is None else json.loads(backend.to_str())
    model = found.get("model", {})
    if model.get("type") != "BPE":
        raise _unknown(f"{type(tokenizer).__name__} merges no pairs of tokens (BPE)")
    merges = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in model["merges"]]
    tokens, types = _tokens(found, size)
    if model.get("byte_fallback"):
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores(_scores(tokens, merges))
        writer.add_add_space_prefix(_adds_space(found))
        types = [
            _BYTE if _is_byte(token) and kind == _NORMAL else kind for token, kind in zip(tokens, types, strict=True)
        ]
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(_split(found))
        writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    for name in _IDS:
        if (value := getattr(tokenizer, f"{name}_token_id", None)) is not None:
            getattr(writer, f"add_{name}_token_id")(value)
    ids = tokenizer("a")["input_ids"]
    writer.add_add_bos_token(bool(ids) and tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(len(ids) > 1 and tokenizer.eos_token_id is not None and ids[-1] == tokenizer.eos_token_id)
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):
        template = [{"name": name, "template": text} for name, text in template.items()]
    if template:
        writer.add_chat_template(template)


def _tokens(found: dict[str, Any], size: int) -> tuple[list[str], list[int]]:
    """Tokens in the order of their ids, and their types; ids of the embedding that are none are filled up."""
    tokens = {index: (token, _NORMAL) for token, index in found["model"]["vocab"].items()}
    for added in found.get("added_tokens", ()):
        tokens[added["id"]] = added["content"], _CONTROL if added["special"] else _USER_DEFINED
    if (unknown := found["model"].get("unk_token")) is not None and found["model"].get("byte_fallback"):
        tokens[found["model"]["vocab"][unknown]] = unknown, _UNKNOWN
    if max(tokens) >= size:
        raise ExportError(
            f"the tokenizer has ids up to {max(tokens)}, and the embedding {size} rows: take the model's own tokenizer"
        )
    pairs = [tokens.get(index, (f"[PAD{index}]", _UNUSED)) for index in range(size)]
    return [token for token, _ in pairs], [kind for _, kind in pairs]


def _split(found: dict[str, Any]) -> str:
    """The name of what texts are cut by."""
    if found.get("normalizer") not in (None, {"type": "NFC"}):
        raise _unknown(f"it normalizes texts by {found['normalizer']['type']}")
    outer = found.get("pre_tokenizer") or {}
    steps = outer.get("pretokenizers", [outer])
    key = tuple(step.get("pattern", {}).get("Regex") or step.get("type") for step in steps)
    last = steps[-1]
    is_plain = not last.get("add_prefix_space") and all(
        step.get("individual_digits", True) and step.get("behavior", "Isolated") == "Isolated" for step in steps
    )
    splits_itself = not any("pattern" in step for step in steps)
    if key not in SPLITS or not is_plain or last.get("use_regex", True) != splits_itself:
        raise _unknown(f"it cuts texts by {key}")
    return SPLITS[key]


def _scores(tokens: list[str], merges: list[tuple[str, ...]]) -> list[float]:
    """What SentencePiece merges by, the highest first: tokens in the order in which merges make them."""
    made = ["".join(pair) for pair in merges]
    runs = [token for token, before in zip(made, [None, *made], strict=False) if token != before]
    if len(runs) != len(set(runs)):
        raise _unknown("the order of its merges is not one of tokens")
    ranks = {token: rank for rank, token in enumerate(runs)}
    return [-float(ranks.get(token, len(runs))) for token in tokens]


def _adds_space(found: dict[str, Any]) -> bool:
    """Whether a space is put before texts."""
    steps = list(_steps(found.get("normalizer"))) + list(_steps(found.get("pre_tokenizer")))
    kinds = [step["type"] for step in steps]
    if not set(kinds) <= {"Prepend", "Replace", "Metaspace"} or not kinds:
        raise _unknown(f"it changes texts by {kinds}")
    return any(step["type"] == "Prepend" or step.get("prepend_scheme", "never") != "never" for step in steps)


def _steps(found: dict[str, Any] | None) -> Iterable[dict[str, Any]]:
    if not found:
        return []
    return found.get("normalizers") or found.get("pretokenizers") or [found]


def _is_byte(token: str) -> bool:
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def _unknown(why: str) -> ExportError:
    return ExportError(
        f"llama.cpp has no such tokenizer, or none that is known here: {why}. Export with vocabulary=False, for "
        "callers that give token ids"
    )
