"""``hf-quant benchmark``: one command measures, writes reports and extends the card; mistakes end before long work."""

import copy
import json
import os
import subprocess
import sys

import pytest
from huggingface_hub import ModelCard
from typer.testing import CliRunner

import hf_quant
from hf_quant.cli.main import app
from hf_quant.errors import ConfigError, DataError
from tests.evaluation.tiny import task_model, tiny_tokenizer
from tests.integration.tiny import tiny_model

QUICK = ("--rounds", "1", "--seconds", "0", "--length", "8", "--new-tokens", "2", "--threads", "1")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt2")
    tiny_model("gpt2").save_pretrained(folder / "float")
    hf_quant.quantize(tiny_model("gpt2"), "int8", progress=False).save_pretrained(folder / "int8")
    return folder / "float", folder / "int8"


def test_one_command_prints_writes_reports_and_extends_the_card(folders, tmp_path):
    outputs = [tmp_path / f"speed.{ending}" for ending in ("json", "md", "html")]
    command = [*folders, *QUICK, *(part for output in outputs for part in ("--output", output)), "--card"]
    result = subprocess.run(
        [sys.executable, "-c", "from hf_quant.cli.main import main; main()", "benchmark", *map(str, command)],
        env={**os.environ, "COLUMNS": "120", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "first token, 1 x 8" in result.stdout and "each next token, 1 x 8" in result.stdout
    assert result.stdout.count("Wrote ") == 4
    (measured,) = hf_quant.read_report(outputs[0]).benchmarks
    assert measured.quantized.preset == "int8" and measured.threads == 1
    assert outputs[1].read_text().startswith("# Quantized: int8")
    assert outputs[2].read_text().startswith("<!DOCTYPE html>")
    card = ModelCard.load(folders[1] / "README.md").text
    assert "### Size and speed on" in card and "first token, 1 x 8" in card
    kept = json.loads((folders[1] / "hf_quant_report.json").read_text())
    assert kept["benchmarks"][0]["quantized"]["name"] == "int8", "folders of this machine are private"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--output", "speed.pdf"), "--output takes a file that ends in .json, .md, .html, not speed.pdf"),
        (("--rounds", "0"), "rounds is a whole number above zero"),
        (("--batch", "0"), "a batch size is a whole number"),
        (("--text-column", "review"), "--text-column is about --texts"),
        (("--dtype", "float63"), "did you mean"),
    ],
)
def test_wrong_options_are_config_errors(folders, arguments, message):
    result = CliRunner().invoke(app, ["benchmark", *map(str, folders), *arguments])
    assert isinstance(result.exception, ConfigError) and message in str(result.exception)


def test_a_card_needs_a_directory(folders):
    result = CliRunner().invoke(app, ["benchmark", str(folders[0]), "user/model", "--card"])
    assert "--card needs the directory of the quantized checkpoint" in str(result.exception)


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """Checkpoints that come with a tokenizer."""
    folder = tmp_path_factory.mktemp("read")
    model = copy.deepcopy(task_model("causal-lm"))
    model.save_pretrained(folder / "float")
    hf_quant.quantize(model, "int8", progress=False).save_pretrained(folder / "int8")
    for name in ("float", "int8"):
        tiny_tokenizer().save_pretrained(folder / name)
    return folder / "float", folder / "int8"


def batch_of(models, tmp_path, *options):
    """Sequences and tokens that were measured on."""
    output = tmp_path / "speed.json"
    command = ["benchmark", *map(str, models), *QUICK[:4], *QUICK[6:], "--output", str(output), *map(str, options)]
    result = CliRunner().invoke(app, command)
    if result.exception is not None:
        raise result.exception
    (case,) = hf_quant.read_report(output).benchmarks[0].options["cases"]
    return case["batch"], case["length"]


def test_texts_are_read_from_the_files_that_every_command_reads(read, tmp_path):
    texts = ["one two three four", "five six\nseven", "eight"]
    (tmp_path / "texts.txt").write_text("\n\n".join(texts) + "\n\n \n")
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
    (tmp_path / "table.csv").write_text("id,review\n" + "".join(f'{n},"{text}"\n' for n, text in enumerate(texts)))
    found = batch_of(read, tmp_path, "--texts", tmp_path / "texts.txt")
    assert found[0] == 3
    assert batch_of(read, tmp_path, "--texts", tmp_path / "texts.jsonl") == found
    assert batch_of(read, tmp_path, "--texts", tmp_path / "table.csv", "--text-column", "review") == found


def test_texts_that_cannot_be_read_are_told_before_a_model_is_loaded(tmp_path):
    (tmp_path / "blank.csv").write_text('text\n" "\n')
    (tmp_path / "table.csv").write_text("id,review\n1,good\n")
    for options, message in [
        (("--texts", "no-such-file.txt"), "there is no file no-such-file.txt"),
        (("--texts", tmp_path / "blank.csv"), "holds no text that is not blank"),
        (("--texts", tmp_path / "table.csv"), "name one of id, review"),
        (("--texts", tmp_path / "table.csv", "--text-column", "reviews"), "did you mean 'review'"),
        (("--texts", tmp_path / "table.csv", "--text-column", "id"), "row 0 of .* is '1', not a text"),
    ]:
        with pytest.raises(DataError, match=message):
            batch_of(("nowhere", "nowhere-int8"), tmp_path, *options)
