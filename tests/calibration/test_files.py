import builtins
import json

import datasets
import pytest

from hf_quant.calibration.files import open_dataset
from hf_quant.errors import CalibrationError, MissingDependency

TEXTS = ['Two "late" goals, and a\nsecond line.', "Rates rose.", "Rain\u2028in Spain."]


def test_a_text_file_has_a_text_between_blank_lines(tmp_path):
    (tmp_path / "texts.txt").write_text("\n\n".join(TEXTS), encoding="utf-8")
    assert open_dataset(str(tmp_path / "texts.txt")) == TEXTS


@pytest.mark.parametrize("wrap", [lambda text: text, lambda text: {"body": text}], ids=["texts", "objects"])
def test_a_file_of_json_lines_has_an_item_a_line(tmp_path, wrap):
    lines = [json.dumps(wrap(text), ensure_ascii=False) for text in TEXTS]
    (tmp_path / "texts.JSONL").write_text("\n".join([*lines, ""]), encoding="utf-8")
    assert open_dataset(str(tmp_path / "texts.JSONL")) == [wrap(text) for text in TEXTS]


def test_a_table_has_an_item_a_row(tmp_path):
    rows = [f'{index},"{text.replace(chr(34), chr(34) * 2)}",extra' for index, text in enumerate(TEXTS)]
    (tmp_path / "texts.csv").write_text("\ufeff" + "\n".join(["number,body", *rows, "9"]), encoding="utf-8")
    found = open_dataset(str(tmp_path / "texts.csv"))
    assert found == [
        *({"number": str(index), "body": text} for index, text in enumerate(TEXTS)),
        {"number": "9", "body": ""},
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'"one"\n{two}', r"line 2 of .*a\.jsonl is no JSON"),
        ("a.jsonl", b"\xff\xfe", r"cannot read .*a\.jsonl"),
        ("a.csv", b'text\n"open', r"a\.csv is no CSV"),
        ("a.txt", b"\xff\xfe", r"cannot read .*a\.txt"),
        ("a.parquet", b"", r"cannot read .*a\.parquet as data: give one of \.txt, \.jsonl, \.csv, or a dataset's id"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CalibrationError, match=message):
        open_dataset(str(tmp_path / name))


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.txt"])
def test_a_file_that_is_not_there_is_named(tmp_path, name):
    with pytest.raises(CalibrationError, match=rf"cannot read .*{name}"):
        open_dataset(str(tmp_path / name))


def test_a_dataset_is_loaded_by_its_id_and_subset(monkeypatch):
    rows = datasets.Dataset.from_dict({"text": TEXTS})
    asked = []

    def load_dataset(name, subset):
        asked.append((name, subset))
        if name == "nobody/nothing":
            raise datasets.exceptions.DatasetNotFoundError(name)
        return datasets.DatasetDict({"test": rows.select([0]), "train" if subset else "other": rows})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert open_dataset("wikitext:wikitext-2-raw-v1")["text"][:] == TEXTS
    assert open_dataset("user/news")["text"][:] == TEXTS[:1]
    with pytest.raises(CalibrationError, match="nobody/nothing is neither a file nor a dataset"):
        open_dataset("nobody/nothing")
    assert asked == [("wikitext", "wikitext-2-raw-v1"), ("user/news", None), ("nobody/nothing", None)]


def test_an_id_without_the_package_says_what_to_install(monkeypatch):
    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "datasets":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependency, match="pip install datasets"):
        open_dataset("wikitext:wikitext-2-raw-v1")
