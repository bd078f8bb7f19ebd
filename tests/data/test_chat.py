"""Conversations become the text of the tokenizer's template, with one `bos`."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, PreTrainedTokenizerFast

from hf_quant import Calibration
from hf_quant.data.chat import chat_text, is_chat
from hf_quant.errors import CalibrationError, DataError

CONFIG = LlamaConfig(vocab_size=40, max_position_embeddings=64, architectures=["LlamaForCausalLM"])
TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"
CHAT = [{"role": "user", "content": "one two"}, {"role": "assistant", "content": "three"}]
IDS = [0, 4, 6, 7, 5, 8]
"""``<s> user one two assistant three``."""


def tokenizer(template=TEMPLATE):
    words = ["<s>", "</s>", "<pad>", "<unk>", "user", "assistant", "one", "two", "three"]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=template, **special)


def ids(rows, **options):
    made = Calibration(rows, tokenizer(), samples=1, sequence_length=16, packing=False, **options)
    (batch,) = made.batches(CONFIG)
    return batch["input_ids"][0].tolist()


@pytest.mark.parametrize(
    ("row", "options"),
    [
        ({"messages": CHAT}, {}),
        ({"id": "a7", "messages": CHAT}, {}),
        ({"prompt": "one", "other": "two", "turns": CHAT}, {}),
        ({"turns": CHAT, "text": "two"}, {"text_column": "turns"}),
        (CHAT, {}),
        ({"chat": CHAT}, {"preprocess": lambda row: row["chat"]}),
        ({"chat": CHAT}, {"preprocess": lambda row: chat_text(row["chat"], tokenizer())}),
    ],
    ids=["messages", "beside an id", "beside texts", "named", "alone", "preprocessed", "made a text"],
)
def test_a_conversation_begins_with_one_bos(row, options):
    assert ids([row], **options) == IDS


def test_a_text_gets_the_tokens_that_it_got_before():
    assert ids(["one two"]) == [0, 6, 7]
    assert ids([{"text": "three", "messages": CHAT}]) == [0, 8]


def test_packed_conversations_follow_each_other():
    made = Calibration([{"messages": CHAT}] * 4, tokenizer(), samples=2, sequence_length=7, packing=True)
    (batch,) = made.batches(CONFIG)
    assert torch.equal(batch["input_ids"], torch.tensor([[*IDS, 1]] * 2))


@pytest.mark.parametrize("template", [None, "{{ raise_exception('no system') }}"], ids=["none", "refuses"])
def test_a_template_that_is_missing_or_refuses_is_told(template):
    with pytest.raises(DataError, match=r"chat_template|no system"):
        chat_text(CHAT, tokenizer(template))
    with pytest.raises(CalibrationError):
        Calibration([{"messages": CHAT}], tokenizer(template)).batches(CONFIG)


def test_two_columns_of_conversations_are_not_chosen_from():
    with pytest.raises(DataError, match="chosen, rejected"):
        ids([{"chosen": CHAT, "rejected": CHAT}])
    assert ids([{"chosen": CHAT, "rejected": CHAT}], text_column="chosen") == IDS


def test_lists_of_other_things_are_no_conversations():
    assert is_chat(CHAT) and not any(map(is_chat, ([], ["user"], [{"role": "user"}], [1, 2], CHAT[0], "one")))
