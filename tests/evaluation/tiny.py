"""Tiny random models for every task, a tokenizer, and data that they have something to say about."""

import copy
import random
from functools import cache

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

import hf_quant
from tests.integration.tiny import VOCABULARY, tiny_model

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [f"w{number}" for number in range(VOCABULARY - len(SPECIAL))]
CLASSES = {0: "bad", 1: "fair", 2: "good"}
TAGS = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC"}
POSITIONS = 128

_CLASSES = {"id2label": CLASSES, "label2id": {name: number for number, name in CLASSES.items()}}
_TAGS = {"id2label": TAGS, "label2id": {name: number for number, name in TAGS.items()}}
MODELS = {
    "text-classification": ("bert", BertForSequenceClassification, _CLASSES),
    "token-classification": ("bert", BertForTokenClassification, _TAGS),
    "question-answering": ("bert", BertForQuestionAnswering, {}),
    "masked-lm": ("bert", BertForMaskedLM, {}),
    "causal-lm": ("llama", LlamaForCausalLM, {}),
    "sentence-similarity": ("bert", BertModel, {}),
}
TASKS = tuple(MODELS)


def tiny_tokenizer(words=None):
    """A word is a token, and texts get the special tokens of BERT."""
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *(words or WORDS)])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{name.strip('[]').lower()}_token": name for name in SPECIAL}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **names)


@cache
def task_model(task, seed=0):
    """A float model with the head for a task. Shared: not to be changed."""
    name, model_class, changes = MODELS[task]
    with torch.inference_mode(False):  # whoever asks first, its tensors take gradients
        return tiny_model(name, model_class, seed, **changes)


@cache
def quantized_model(task, preset="int4"):
    """The same, quantized. Shared: not to be changed."""
    return hf_quant.quantize(copy.deepcopy(task_model(task)), preset, progress=False)


def sentence(chance, least=3, most=20):
    return " ".join(chance.choices(WORDS, k=chance.randint(least, most)))


@cache
def task_rows(task, count=40):
    """Rows of data; where a model says which class it is, two thirds of the labels are what it says."""
    chance = random.Random(0)
    rows = [_row(task, chance) for _ in range(count)]
    if task == "text-classification":
        with torch.inference_mode():
            for row in rows:
                logits = task_model(task)(**tiny_tokenizer()(row["text"], return_tensors="pt")).logits
                said = int(logits.argmax())
                row["label"] = CLASSES[said if chance.random() < 0.67 else (said + 1) % 3]
    return rows


def _row(task, chance):
    text = sentence(chance)
    if task == "token-classification":
        words = text.split()
        return {"tokens": words, "ner_tags": chance.choices(list(TAGS.values()), k=len(words))}
    if task == "question-answering":
        context = sentence(chance, 20, 30)
        answer = " ".join(context.split()[4:7])
        return {
            "question": sentence(chance, 2, 4),
            "context": context,
            "answers": {"text": [answer], "answer_start": [context.index(answer)]},
        }
    if task == "sentence-similarity":
        return {"sentence1": text, "sentence2": sentence(chance), "score": chance.uniform(0, 5)}
    return {"text": text, "label": "bad"} if task == "text-classification" else {"text": text}


def evaluated(task, reference=None, quantized=None, rows=None, **options):
    """`hf_quant.evaluate_drop` of the tiny models, without progress bars."""
    options = {"tokenizer": tiny_tokenizer(), "progress": False, "resamples": 200, **options}
    return hf_quant.evaluate_drop(
        task_model(task) if reference is None else reference,
        quantized_model(task) if quantized is None else quantized,
        task,
        task_rows(task) if rows is None else rows,
        **options,
    )
