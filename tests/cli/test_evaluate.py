"""``hf-quant evaluate``: tables, files, and a gate whose exit code CI can read."""

import csv
import json
import shutil

import pytest
from typer.testing import CliRunner

from hf_quant.cli.evaluate import GATE_FAILED
from hf_quant.cli.main import app
from hf_quant.errors import ConfigError, EvaluationError, HfQuantError
from hf_quant.reporting.write import read_report
from tests.evaluation.tiny import quantized_model, task_model, task_rows, tiny_tokenizer
from tests.integration.tiny import run_python


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Checkpoints of a classifier and a language model, float and int4, and data."""
    root = tmp_path_factory.mktemp("place")
    for task, name in (("text-classification", "bert"), ("causal-lm", "llama")):
        for folder, model in ((name, task_model(task)), (f"{name}-int4", quantized_model(task))):
            model.save_pretrained(root / folder)
            tiny_tokenizer().save_pretrained(root / folder)
    rows = task_rows("text-classification")
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with (root / "rows.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["review", "opinion"])
        table.writerows((row["text"], f"[b]{row['label']}") for row in rows)
    (root / "texts.txt").write_text("\n\n".join(row["text"] for row in task_rows("causal-lm")))
    return root


def evaluate(place, quantized, *options, code=0):
    """Run the command on a model and `quantized`; gives what was printed."""
    models = [place / quantized.removesuffix("-int4"), place / quantized]
    arguments = ["evaluate", *map(str, models), "--resamples", "200", *map(str, options)]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "160"})
    if isinstance(result.exception, HfQuantError):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


CLASSIFY = ("--task", "text-classification", "--dataset")


def test_tables_show_drop_flips_worst_examples_and_layers(place):
    result = evaluate(place, "bert-int4", *CLASSIFY, place / "rows.jsonl", "--per-layer", "--layer-examples", 4)
    for part in ("accuracy", "right became wrong", "Examples that suffer most", "Error of each module's output"):
        assert part in result.stdout
    assert "bert.encoder.layer.1.output.dense" in result.stdout
    assert "100%" in result.stderr  # the progress bar


def test_json_is_all_that_is_printed_and_files_are_written(place, tmp_path):
    files = [tmp_path / name for name in ("report.json", "report.md", "report.html")]
    outputs = [option for file in files for option in ("-o", file)]
    result = evaluate(place, "bert-int4", *CLASSIFY, place / "rows.jsonl", "--json", *outputs)
    printed = json.loads(result.stdout)
    assert read_report(files[0]).drops[0].to_dict() == printed
    assert printed["metrics"][0]["name"] == "accuracy"
    assert files[1].read_text().startswith("# Quantized: bert-int4")
    assert "<html" in files[2].read_text()
    assert all(str(file) in result.stderr for file in files)


def test_markdown_is_all_that_is_printed(place):
    result = evaluate(place, "bert-int4", *CLASSIFY, place / "rows.jsonl", "--markdown", "--metric", "matthews")
    assert result.stdout.startswith("# Quantized: bert-int4") and "| matthews (higher is better) |" in result.stdout
    with pytest.raises(ConfigError, match="give one"):
        evaluate(place, "bert-int4", *CLASSIFY, place / "rows.jsonl", "--markdown", "--json")


def test_the_card_of_the_checkpoint_gets_the_figures(place):
    evaluate(place, "bert-int4", *CLASSIFY, place / "rows.jsonl", "--card")
    card = (place / "bert-int4" / "README.md").read_text()
    assert "accuracy" in card and "rows.jsonl" in card


def test_columns_and_labels_have_names_of_their_own(place):
    plain = json.loads(evaluate(place, "bert-int4", *CLASSIFY, place / "rows.jsonl", "--json").stdout)
    options = ["--text-column", "review", "--label-column", "opinion"]
    labels = [option for name in ("bad", "fair", "good") for option in ("--label", f"[b]{name}={name}")]
    table = evaluate(place, "bert-int4", *CLASSIFY, place / "rows.csv", *options, *labels, "--json")
    assert json.loads(table.stdout)["metrics"] == plain["metrics"]


def test_a_drop_below_the_limit_passes(place):
    result = evaluate(place, "bert-int4", *CLASSIFY, place / "rows.jsonl", "--max-drop", "50pt")
    assert "Passed: the drop of accuracy is" in result.stderr and "below the limit of 50 points" in result.stderr


def test_a_drop_above_the_limit_fails_with_its_own_exit_code_and_says_by_how_much(place):
    options = [*CLASSIFY, place / "rows.jsonl", "--metric", "log-loss", "--json", "--max-drop", "0.1%"]
    result = evaluate(place, "bert-int4", *options, code=GATE_FAILED)
    lost = 100 * json.loads(result.stdout)["metrics"][0]["relative_drop"]
    assert f"Failed: the drop of log_loss is {lost:.4g} %, {lost - 0.1:.4g} above the limit of 0.1 %" in result.stderr


def test_a_language_model_is_read_in_windows(place):
    options = ["--task", "causal-lm", "--dataset", place / "texts.txt", "--max-length", 32, "--stride", 16, "--json"]
    report = json.loads(evaluate(place, "llama-int4", *options).stdout)
    assert [metric["name"] for metric in report["metrics"]] == ["perplexity", "bits_per_byte", "accuracy"]
    # The first window scores 31 tokens, each later one 16, the last what is left.
    assert 0 < report["agreement"]["compared"] - 31 - 16 * (report["examples"] - 2) <= 16


def test_a_limit_can_be_held_against_the_upper_end_of_the_interval(place):
    options = [*CLASSIFY, place / "rows.jsonl", "--metric", "log-loss", "--json"]
    found = json.loads(evaluate(place, "bert-int4", *options).stdout)["metrics"][0]
    between = f"{(found['drop'] + found['high']) / 2}pt"
    assert "Passed" in evaluate(place, "bert-int4", *options, "--max-drop", between).stderr
    result = evaluate(place, "bert-int4", *options, "--max-drop", between, "--confident", code=GATE_FAILED)
    assert "with 95% confidence, is at most" in result.stderr


def test_the_shell_gets_the_exit_code(place):
    result = run_python(
        "from hf_quant.cli.main import main; main()",
        *("evaluate", place / "bert", place / "bert-int4", *CLASSIFY, place / "rows.jsonl", "--resamples", 50),
        *("--metric", "log-loss", "--max-drop", "0pt"),
    )
    assert result.returncode == GATE_FAILED == 3
    assert "Failed: the drop of log_loss" in result.stderr and "Traceback" not in result.stderr


def test_windows_begin_with_bos_as_the_option_says_and_else_as_the_tokenizer_does(place, tmp_path):
    for name in ("llama", "llama-int4"):
        shutil.copytree(place / name, tmp_path / name)
        tokenizer = tiny_tokenizer()
        tokenizer.bos_token = "[CLS]"  # which it puts before every text
        tokenizer.save_pretrained(tmp_path / name)
    command = ["--task", "causal-lm", "--dataset", place / "texts.txt", "--max-length", 16, "--json"]
    found = {}
    for option in ((), ("--bos",), ("--no-bos",)):
        found[option] = json.loads(evaluate(tmp_path, "llama-int4", *command, *option).stdout)
    assert [report["options"]["bos"] for report in found.values()] == [True, True, False]
    asked, begun, plain = (report["metrics"] for report in found.values())
    assert asked == begun != plain
    without = json.loads(evaluate(place, "llama-int4", *command).stdout)  # a tokenizer that has none
    assert without["metrics"] == plain and without["options"]["bos"] is False
    with pytest.raises(EvaluationError, match="bos"):
        evaluate(place, "llama-int4", *command, "--bos")


PAGES = """\
task: pages
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/rows.jsonl}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: word_perplexity}}]
"""


def test_arguments_of_lm_evals_model_class_reach_it_as_the_values_they_are(place, tmp_path):
    pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")
    (tmp_path / "pages.yaml").write_text(PAGES.format(folder=place))
    command = ["--task", "lm-eval:pages", "--dataset", tmp_path, "--max-examples", 6, "--json"]
    begun = []
    for token in (7, 8):
        arguments = ["--model-arg", f"prefix_token_id={token}", "--model-arg", "add_bos_token=false"]
        report = json.loads(evaluate(place, "llama-int4", *command, *arguments).stdout)
        assert json.loads(report["options"]["model_args"]) == {"prefix_token_id": token, "add_bos_token": False}
        begun.append(report["metrics"][0]["reference"])
    assert begun[0] != begun[1], "the first token of a page follows the prefix"
    with pytest.raises(EvaluationError, match="did you mean 'add_bos_token'"):
        evaluate(place, "llama-int4", *command, "--model-arg", "add_bos=true")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (["--model-arg", "add_bos_token"], ConfigError, "NAME=VALUE"),
        (["--model-arg", "a=[1"], ConfigError, "is no number, text or list"),
        (["--model-arg", "add_bos_token=true"], EvaluationError, "text-classification has no option 'model_args'"),
        (["--bos"], EvaluationError, "text-classification has no option 'bos'"),
        (["--max-drop", "1"], EvaluationError, "write 1% for a part"),
        (["--output", "report.pdf"], ConfigError, "--output takes a file that ends in"),
        (["--label", "good"], ConfigError, "DATA=MODEL"),
        (["--num-fewshot", "3"], EvaluationError, "text-classification has no option 'num_fewshot'"),
        (["--task", "lm-eval:x"], EvaluationError, "a folder with tasks in YAML"),
        (["--stride", "3"], EvaluationError, "text-classification has no option 'stride'"),
        (["--dataset", "nothing.jsonl"], EvaluationError, "there is no file"),
        (["--metric", "entity-f1"], EvaluationError, "says nothing of text-classification"),
    ],
)
def test_wrong_options_name_the_fix(place, options, error, message):
    with pytest.raises(error, match=message):
        evaluate(place, "bert-int4", *CLASSIFY, place / "rows.jsonl", *options)


def test_a_task_has_to_be_named(place):
    assert "--task" in evaluate(place, "bert-int4", code=2).output


def test_checkpoints_without_tokenizers_need_one_and_take_it_from_a_directory(place, tmp_path):
    for name in ("bert", "bert-int4"):
        shutil.copytree(place / name, tmp_path / name, ignore=shutil.ignore_patterns("tokenizer*", "vocab*"))
    with pytest.raises(EvaluationError, match="tokenizer"):
        evaluate(tmp_path, "bert-int4", *CLASSIFY, place / "rows.jsonl")
    result = evaluate(tmp_path, "bert-int4", *CLASSIFY, place / "rows.jsonl", "--tokenizer", place / "bert", "--json")
    beside = evaluate(place, "bert-int4", *CLASSIFY, place / "rows.jsonl", "--json")
    assert json.loads(result.stdout)["metrics"] == json.loads(beside.stdout)["metrics"]
    with pytest.raises(ConfigError, match="there is no tokenizer in"):
        evaluate(tmp_path, "bert-int4", *CLASSIFY, place / "rows.jsonl", "--tokenizer", tmp_path / "bert")


def test_confidence_is_about_a_limit(place):
    with pytest.raises(ConfigError, match="--confident is about --max-drop"):
        evaluate(place, "bert-int4", *CLASSIFY, place / "rows.jsonl", "--confident")
