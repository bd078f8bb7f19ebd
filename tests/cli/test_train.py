"""``hf-quant train``: one command from a float checkpoint and data to a trained quantized one."""

import json

import pytest
from typer.testing import CliRunner

from hf_quant.cli.main import app
from hf_quant.errors import ConfigError, HfQuantError
from hf_quant.evaluation.models import model_facts
from hf_quant.workflows.checkpoints import load_model
from tests.evaluation.tiny import task_model, task_rows, tiny_tokenizer

RECIPE = """
preset: int8
training: {max_steps: 3, per_device_train_batch_size: 4, learning_rate: 1.0e-3}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A classifier, its data with names of its own, and a recipe."""
    root = tmp_path_factory.mktemp("place")
    task_model("text-classification").save_pretrained(root / "bert")
    tiny_tokenizer().save_pretrained(root / "bert")
    rows = [{"review": row["text"], "opinion": row["label"].upper()} for row in task_rows("text-classification")]
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "recipe.yaml").write_text(RECIPE)
    return root


def train(place, *options, code=0):
    """Run the command; gives what was printed."""
    arguments = ["train", str(place / "bert"), "-r", str(place / "recipe.yaml"), "-t", "text-classification"]
    arguments += ["-d", str(place / "rows.jsonl"), "--holdout", "0.25", *map(str, options)]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "160"})
    if isinstance(result.exception, HfQuantError):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


COLUMNS = ("--text-column", "review", "--label-column", "opinion", "--label", "BAD=bad", "--label", "FAIR=fair")


def test_what_was_lost_before_and_after_is_printed_and_the_model_saved(place, tmp_path):
    result = train(place, *COLUMNS, "--label", "GOOD=good", "-o", tmp_path / "out", "--max-steps", 2)
    for part in ("2 steps in", "rounded, not trained", "accuracy (higher is better)", "training.html"):
        assert part in result.stdout
    assert load_model(str(tmp_path / "out")).config.quantization_config.preset == "int8"
    assert model_facts(load_model(str(tmp_path / "out")), tiny_tokenizer()).config.id2label[0] == "bad"
    assert json.loads((tmp_path / "out" / "training.json").read_text())["recipe"]["training"]["max_steps"] == 2


def test_help_shows_commands_to_copy():
    result = CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert result.stdout.count("hf-quant train ./") == 3


def test_a_label_without_a_class_is_refused(place, tmp_path):
    with pytest.raises(ConfigError, match="DATA=MODEL"):
        train(place, *COLUMNS, "--label", "GOOD", "-o", tmp_path / "out")


def test_an_unknown_key_of_a_recipe_names_the_nearest(place, tmp_path):
    (tmp_path / "wrong.yaml").write_text("preset: int8\ntraining: {learning_rat: 1.0e-3}\n")
    with pytest.raises(ConfigError, match=r"wrong\.yaml.*learning_rate"):
        train(place, "-r", tmp_path / "wrong.yaml", "-o", tmp_path / "out")
