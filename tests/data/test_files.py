"""One reader for every kind of file, for calibration and evaluation alike."""

import builtins
import gzip
import json

import datasets
import pytest

from hf_quant import Calibration
from hf_quant.calibration.rows import examples
from hf_quant.data import files
from hf_quant.data.files import one_split, open_data
from hf_quant.data.texts import Texts
from hf_quant.errors import CalibrationError, DataError, EvaluationError, MissingDependency
from hf_quant.evaluation.data import open_rows

TEXTS = ['Two "late" goals, and a\nsecond line.', "null", "Rain\u2028in Spain: naïve."]
ROWS = [{"text": text, "label": number} for number, text in enumerate(TEXTS)]
KINDS = ["jsonl", "json", "csv", "tsv", "parquet", "arrow", "folder", "jsonl.gz", "json.gz", "csv.gz", "tsv.gz"]


def written(folder, kind, rows=ROWS):
    """Rows in a file of a kind."""
    table, path = datasets.Dataset.from_list(rows), folder / f"rows.{kind}"
    plain = path.with_suffix("") if kind.endswith(".gz") else path
    match kind.removesuffix(".gz"):
        case "jsonl":
            table.to_json(str(plain), force_ascii=False)
        case "json":
            plain.write_text(json.dumps(rows), encoding="utf-8")
        case "csv":
            table.to_csv(str(plain))
        case "tsv":
            table.to_csv(str(plain), sep="\t")
        case "parquet":
            table.to_parquet(str(plain))
        case _:
            table.save_to_disk(folder / "saved")
            return folder / "saved" if kind == "folder" else next((folder / "saved").glob("*.arrow"))
    if kind.endswith(".gz"):
        path.write_bytes(gzip.compress(plain.read_bytes()))
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_holds_the_rows_for_calibration_and_evaluation(kind, tmp_path):
    path = written(tmp_path, kind)
    assert list(open_data(str(path))) == list(open_rows(path).dataset) == ROWS
    assert sorted(row["text"] for row in examples(path, seed=0)) == sorted(TEXTS)


@pytest.mark.parametrize("ending", ["txt", "TXT", "txt.gz"])
def test_texts_of_a_text_file_are_separated_by_blank_lines(ending, tmp_path):
    raw = ("\ufeff\n" + "\n \n\n".join(text.replace("\n", "\r\n") for text in TEXTS)).encode()
    path = tmp_path / f"texts.{ending}"
    path.write_bytes(gzip.compress(raw, mtime=0) if ending.endswith("gz") else raw)
    assert list(open_data(path)) == open_rows(path)["text"] == TEXTS
    assert sorted(examples(str(path), seed=0)) == sorted(TEXTS)


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz"])
def test_lines_of_json_may_be_texts_alone(ending, tmp_path):
    raw = "\n".join([*(json.dumps(text) for text in TEXTS), "", ""]).encode()
    path = tmp_path / f"texts.{ending}"
    path.write_bytes(gzip.compress(raw, mtime=0) if ending.endswith("gz") else raw)
    assert list(open_data(path)) == TEXTS and open_data(path)[1:] == TEXTS[1:]


def test_texts_are_read_where_they_are_asked_for(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n\n".join(f"text {number}" for number in range(1000)))
    found = Texts(path)
    assert (len(found), found[-1], found[998]) == (1000, "text 999", "text 998")


def test_splits_of_a_saved_folder_are_told_apart(tmp_path):
    table = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict(test=table.select([0]), train=table).save_to_disk(tmp_path / "saved")
    assert list(one_split(open_data(tmp_path / "saved"))) == ROWS
    assert list(open_rows(tmp_path / "saved").dataset) == ROWS[:1]
    assert list(open_rows(tmp_path / "saved", training=True).dataset) == ROWS


@pytest.mark.parametrize("kind", ["jsonl", "csv.gz", "parquet"])
def test_a_large_file_is_drawn_from_by_the_seed_without_being_copied(kind, tmp_path, monkeypatch):
    rows = [{"text": f"text {number}", "label": number} for number in range(200)]
    path = written(tmp_path, kind, rows)
    monkeypatch.setattr(files, "_LARGE", 0)
    monkeypatch.setattr(files, "_BUFFER", 50)
    monkeypatch.setattr(datasets.Dataset, f"from_{kind.split('.')[0].removesuffix('l')}", None)
    first, again, other = ([row["label"] for row in open_rows(path, limit=20, seed=seed).dataset] for seed in (0, 0, 1))
    assert first == again != other and len(set(first)) == 20 and first != list(range(20))
    taken = examples(path, seed=3)
    assert len({next(taken)["label"] for _ in range(10)}) == 10


def test_rows_without_a_text_are_left_out_and_no_other_column_taken(tmp_path):
    (tmp_path / "rows.csv").write_text("id,text\na,1 2 3\nb,\n", encoding="utf-8")
    read = []

    def tokenizer(text, **options):
        read.append(text)
        return {"input_ids": [5, 6]}

    tokenizer.bos_token = tokenizer.pad_token_id = tokenizer.eos_token_id = None
    from transformers import BertConfig

    Calibration(str(tmp_path / "rows.csv"), tokenizer, samples=1, packing=False).batches(BertConfig())
    assert read == ["1 2 3"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'"one"\n{two}', r"line 2 of .*a\.jsonl is no JSON"),
        ("a.jsonl", b'"one"\n{"two": 1}', r"line 2 of .*a\.jsonl is no text"),
        ("a.jsonl", b'{"text": \n', r"a\.jsonl is no jsonl file that can be read"),
        ("a.jsonl", b"\xff\xfe", r"a\.jsonl is no jsonl file that can be read"),
        ("a.csv", b'text\n"open', r"a\.csv is no csv file that can be read"),
        ("a.csv", b"text,label\n", r"a\.csv is empty"),
        ("a.txt", b"\xff\xfe", r"cannot read .*a\.txt.*UTF-8"),
        ("a.txt", b"\n \n", r"a\.txt is empty"),
        ("a.txt.gz", b"no gzip", r"cannot read .*a\.txt\.gz"),
        ("a.csv.gz", gzip.compress(b"text\none", mtime=0)[:-9], r"a\.csv\.gz"),
        ("a.parquet", b"x", r"a\.parquet is no parquet file that can be read"),
        ("a.arrow", b"x", r"a\.arrow is no arrow file that can be read"),
        ("a.parquet.gz", b"x", r"give one of \.jsonl"),
        ("a.png", b"x", r"give one of \.jsonl, \.json, \.csv, \.tsv, \.parquet, \.arrow, \.txt"),
    ],
)
def test_what_cannot_be_read_is_one_typed_error(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    for reader, kind in ((open_data, DataError), (open_rows, EvaluationError), (_calibrate, CalibrationError)):
        with pytest.raises(kind, match=message):
            reader(tmp_path / name)


def _calibrate(path):
    return list(examples(path, seed=0))


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv.gz", "a.txt", "a.arrow"])
def test_a_file_that_is_not_there_is_named(tmp_path, name):
    with pytest.raises(DataError, match=rf"cannot read .*{name}"):
        open_data(str(tmp_path / name))


@pytest.mark.parametrize("text", ["A text, and no file.", "long " * 200, "two\n\nlines"])
def test_a_text_in_the_place_of_a_file_is_told(text):
    with pytest.raises(DataError, match="to take texts themselves, pass a list"):
        open_data(text)


def test_a_dataset_is_loaded_by_its_id_and_subset(monkeypatch):
    rows = datasets.Dataset.from_dict({"text": TEXTS})
    asked = []

    def load_dataset(name, subset):
        asked.append((name, subset))
        if name == "nobody/nothing":
            raise datasets.exceptions.DatasetNotFoundError(name)
        return datasets.DatasetDict({"test": rows.select([0]), "train" if subset else "other": rows})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert one_split(open_data("wikitext:wikitext-2-raw-v1"))["text"][:] == TEXTS
    assert one_split(open_data("user/news"))["text"][:] == TEXTS[:1]
    with pytest.raises(CalibrationError, match="nobody/nothing is neither a file nor a dataset"):
        open_data("nobody/nothing")
    assert asked == [("wikitext", "wikitext-2-raw-v1"), ("user/news", None), ("nobody/nothing", None)]


def test_texts_need_no_package_and_tables_say_which(monkeypatch, tmp_path):
    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "datasets":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    path = written(tmp_path, "csv")
    (tmp_path / "texts.txt").write_text("one\n\ntwo")
    monkeypatch.setattr(builtins, "__import__", without)
    assert list(open_data(tmp_path / "texts.txt")) == ["one", "two"]
    for source in (path, "wikitext:wikitext-2-raw-v1"):
        with pytest.raises(MissingDependency, match="pip install"):
            open_data(source)
