"""Pairs on the command line mean the same to every command."""

import pytest
from typer.testing import CliRunner

from hf_quant.cli.main import app
from hf_quant.cli.pairs import pairs_of
from hf_quant.errors import ConfigError

FORM = ("--label", "DATA=MODEL", "1=positive")


def test_pairs_keep_their_order():
    assert list(pairs_of(["b=1", "a=2"], *FORM).items()) == [("b", "1"), ("a", "2")]
    assert pairs_of(None, *FORM) == {}


@pytest.mark.parametrize(
    ("entry", "name", "value"),
    [("a=b=C", "a=b", "C"), ("re:(?=x).*=int8", "re:(?=x).*", "int8"), ("1 = 2=C", "1 = 2", "C"), ("==C", "=", "C")],
)
def test_the_last_equals_sign_divides(entry, name, value):
    assert pairs_of([entry], *FORM) == {name: value}


@pytest.mark.parametrize("entry", ["good", "good=", "=good", "=", "", "a=b="])
def test_a_pair_without_one_of_its_sides_is_refused_with_an_example(entry):
    with pytest.raises(ConfigError, match="--label takes DATA=MODEL, such as '1=positive'"):
        pairs_of([entry], *FORM)


def test_a_name_is_given_once():
    with pytest.raises(ConfigError, match="--label 'a' is given twice, 'X' and 'Y'"):
        pairs_of(["a=X", "b=Z", "a=Y"], *FORM)


@pytest.mark.parametrize(
    "arguments",
    [
        ("quantize", "nowhere", "int4", "--override", "x", "-o", "out"),
        ("plan", "nowhere", "-b", "30%", "-d", "x.txt", "--pin", "x"),
        ("plan", "nowhere", "-b", "30%", "-d", "x.txt", "--forbid", "x"),
        ("evaluate", "nowhere", "nowhere", "-t", "text-classification", "-d", "x.csv", "--label", "x"),
        (
            "train",
            "nowhere",
            "-r",
            "qat_bert-int8",
            "-t",
            "text-classification",
            "-d",
            "x",
            "-o",
            "out",
            "--label",
            "x",
        ),
    ],
    ids=lambda arguments: arguments[0],
)
def test_every_command_reads_its_pairs_so_before_any_work(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = CliRunner().invoke(app, list(arguments)).exception
    assert isinstance(error, ConfigError) and "divided by the last '='" in str(error)
