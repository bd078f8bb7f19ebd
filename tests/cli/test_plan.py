"""``hf-quant plan``: which class of the model a label of the data is."""

import json

import pytest
from typer.testing import CliRunner

from hf_quant.cli.main import app
from hf_quant.errors import ConfigError, EvaluationError, HfQuantError
from hf_quant.planner.sensitivity.table import LossTable
from tests.evaluation.tiny import CLASSES, task_model, task_rows, tiny_tokenizer


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A classifier, a language model, and reviews under the classes' names and under names of their own."""
    root = tmp_path_factory.mktemp("place")
    for task, name in (("text-classification", "bert"), ("causal-lm", "llama")):
        task_model(task).save_pretrained(root / name)
        tiny_tokenizer().save_pretrained(root / name)
    rows = task_rows("text-classification")
    for file, form in (("named.jsonl", "{}"), ("other.jsonl", "[b]{}")):
        lines = (json.dumps({"text": row["text"], "label": form.format(row["label"])}) for row in rows)
        (root / file).write_text("\n".join(lines))
    return root


def plan(place, model, data, folder, *options):
    """Run the command; the losses that it found."""
    folder.mkdir()
    losses = folder / "losses.json"
    files = ["-d", place / data, "-o", folder / "plan.yaml", "--losses", losses]
    command = ["plan", place / model, "-b", "30%", *files, "--samples", 16, "--measurements", 0, *options]
    result = CliRunner().invoke(app, list(map(str, command)))
    if isinstance(result.exception, HfQuantError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return LossTable.from_dict(json.loads(losses.read_text()))


def pairs(classes):
    return [part for name, found in classes.items() for part in ("--label", f"[b]{name}={found}")]


def test_labels_are_the_classes_that_the_option_says(place, tmp_path):
    named = plan(place, "bert", "named.jsonl", tmp_path / "named")
    right = plan(place, "bert", "other.jsonl", tmp_path / "right", *pairs({name: name for name in CLASSES.values()}))
    assert right.losses == named.losses
    names = list(CLASSES.values())
    turned = dict(zip(names, names[1:] + names[:1], strict=True))
    other = plan(place, "bert", "other.jsonl", tmp_path / "turned", *pairs(turned))
    assert other.losses != named.losses


def test_labels_that_no_class_has_are_told(place, tmp_path):
    with pytest.raises(EvaluationError, match="label"):
        plan(place, "bert", "other.jsonl", tmp_path / "none")
    with pytest.raises(EvaluationError, match="good"):
        plan(place, "bert", "other.jsonl", tmp_path / "wrong", *pairs({"bad": "bad", "fair": "fair", "good": "goood"}))


def test_a_language_model_has_no_labels(place, tmp_path):
    with pytest.raises(ConfigError, match="--label and --split are for classifiers"):
        plan(place, "llama", "named.jsonl", tmp_path / "llama", *pairs({"good": "good"}))
