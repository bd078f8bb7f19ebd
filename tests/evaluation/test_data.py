"""Rows of whatever a user calls data."""

import datasets
import pytest

from hf_quant.errors import EvaluationError
from hf_quant.evaluation.data import open_rows

ROWS = [{"text": f"text {number}", "label": number % 2} for number in range(6)]


def rows_of(source, **options):
    return [dict(row) for row in open_rows(source, **options).dataset]


@pytest.fixture
def table():
    return datasets.Dataset.from_list(ROWS)


def written(table, path):
    writers = {".jsonl": table.to_json, ".csv": table.to_csv, ".parquet": table.to_parquet}
    writers[path.suffix](str(path))
    return path


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_files_hold_rows(table, tmp_path, ending):
    path = written(table, tmp_path / f"rows{ending}")
    assert rows_of(path) == rows_of(str(path)) == ROWS
    assert open_rows(path).describe().name == f"rows{ending}"


def test_texts_of_a_text_file_are_separated_by_blank_lines(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("one\nline more\n\ntwo\n\nthree")
    assert open_rows(path)["text"] == ["one\nline more", "two", "three"]


def test_datasets_and_lists_hold_rows(table):
    assert rows_of(table) == rows_of(ROWS) == rows_of(tuple(ROWS)) == ROWS
    assert rows_of(["a", "b"]) == [{"text": "a"}, {"text": "b"}]
    assert rows_of(table.to_iterable_dataset()) == ROWS
    assert rows_of(table.to_iterable_dataset(), limit=2) == ROWS[:2]


@pytest.mark.parametrize(
    ("splits", "wanted", "taken"),
    [
        (("train", "test", "validation"), None, "test"),
        (("train", "validation"), None, "validation"),
        (("train",), None, "train"),
        (("train", "test"), "train", "train"),
    ],
)
def test_the_split_is_the_one_to_test_on(table, splits, wanted, taken):
    parts = datasets.DatasetDict({name: table.select([index]) for index, name in enumerate(splits)})
    found = open_rows(parts, wanted)
    assert found.split == found.describe().split == taken
    assert list(found.dataset) == [ROWS[splits.index(taken)]]


def test_several_splits_without_one_to_test_on_are_refused(table):
    with pytest.raises(EvaluationError, match=r"name one with split=..., of first, second"):
        open_rows(datasets.DatasetDict(first=table, second=table))
    with pytest.raises(EvaluationError, match="did you mean 'test'"):
        open_rows(datasets.DatasetDict(test=table), "tset")


def test_fewer_rows_are_drawn_by_the_seed_and_keep_their_order(table):
    first, again, other = (open_rows(ROWS * 10, limit=20, seed=seed)["text"] for seed in (0, 0, 1))
    assert first == again != other
    assert len(first) == 20 and first != [row["text"] for row in ROWS * 10][:20]
    ordered = open_rows([{"number": number} for number in range(60)], limit=20)["number"]
    assert ordered == sorted(set(ordered))
    assert rows_of(table, limit=100) == ROWS


def test_the_fingerprint_is_that_of_the_rows_that_are_used(table, tmp_path):
    prints = {open_rows(source).describe().fingerprint for source in (table, written(table, tmp_path / "rows.jsonl"))}
    assert len(prints) == 1
    assert open_rows(ROWS[:-1]).describe().fingerprint not in prints
    assert open_rows(ROWS[::-1]).describe().fingerprint not in prints


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("broken.jsonl", '{"text": \n', "is no jsonl file that can be read"),
        ("image.png", "x", "give one of .jsonl, .json, .csv"),
        ("empty.jsonl", "", "empty.jsonl is empty: take another split or file"),
        ("empty.json", "[]", "empty.json"),
        ("blank.csv", "", "blank.csv"),
        ("empty.csv", "text,label\n", "empty.csv is empty"),
        ("empty.txt", "", "empty.txt is empty"),
        ("blank.txt", "\n\n\n", "blank.txt is empty"),
        ("broken.parquet", "nothing", "is no parquet file that can be read"),
    ],
)
def test_files_that_hold_no_rows_are_refused(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(EvaluationError, match=message):
        open_rows(path)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("nowhere.jsonl", {}, "there is no file nowhere.jsonl"),
        (3, {}, "cannot evaluate on a int"),
        ([3], {}, "a list of data holds texts, or mappings"),
        (ROWS, {"split": "test"}, "has no splits: leave out split='test'"),
        (ROWS, {"limit": 0}, "must be a positive integer"),
        ([], {}, "is empty"),
    ],
)
def test_what_is_no_data_is_refused(source, options, message):
    with pytest.raises(EvaluationError, match=message):
        open_rows(source, **options)


def test_an_id_that_cannot_be_loaded_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EvaluationError, match="neither a file nor a dataset that can be loaded"):
        open_rows("nobody/nothing-here")


def test_columns_are_found_by_their_usual_names(table):
    rows = open_rows(table)
    assert rows.column(None, ("sentence", "text"), "text_column") == "text"
    assert rows.column("label", (), "text_column") == "label"
    with pytest.raises(EvaluationError, match=r"name the right one with text_column=..., one of text, label"):
        rows.column(None, ("sentence",), "text_column")


def test_texts_have_to_be_texts():
    with pytest.raises(EvaluationError, match="row 1 of column text of a list is None, not a text"):
        open_rows([{"text": "a"}, {"text": None}]).texts("text")
