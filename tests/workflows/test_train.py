"""`hf_quant.train`: data in, a quantized checkpoint out, with what it lost before and after."""

import copy
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer, TrainerCallback

import hf_quant
from hf_quant import TrainingRecipe
from hf_quant.errors import ConfigError, EvaluationError, UnknownName
from hf_quant.reporting.training.run import read_run
from hf_quant.workflows.training import folder as run_folder
from tests.evaluation.tiny import quantized_model, task_model, task_rows, tiny_tokenizer

RECIPE = TrainingRecipe.from_dict(
    {
        "preset": "int4",
        "qat": {"warmup_steps": 1, "bits": {0: 8, 3: 4}},
        "training": {"max_steps": 6, "per_device_train_batch_size": 4, "learning_rate": 1e-3, "save_steps": 2},
        "max_length": 32,
    }
)
CLASSIFY = "text-classification"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A float classifier and a float decoder, beside their tokenizer."""
    root = tmp_path_factory.mktemp("source")
    for task in (CLASSIFY, "causal-lm"):
        task_model(task).save_pretrained(root / task)
        tiny_tokenizer().save_pretrained(root / task)
    return root


def train(source, output, task=CLASSIFY, recipe=RECIPE, **options):
    options = {"holdout": 0.25, "progress": False, **options}
    return hf_quant.train(str(source / task), recipe, task, options.pop("dataset", task_rows(task)), output, **options)


def tensors(folder):
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    """A run of each task that nothing interrupted."""
    root = tmp_path_factory.mktemp("whole")
    return {task: train(source, root / task, task) for task in (CLASSIFY, "causal-lm")}


@pytest.mark.parametrize("task", [CLASSIFY, "causal-lm"])
def test_rounding_alone_and_training_are_held_against_the_float_model(task, whole, source):
    result = whole[task]
    assert result.rounded.reference == result.trained.reference == str(source / task)
    assert result.trained.quantized == str(result.output)
    assert [drop.data.examples for drop in result.drops] == [10, 10]
    assert result.rounded.metrics[0].reference == result.trained.metrics[0].reference


@pytest.mark.parametrize("task", [CLASSIFY, "causal-lm"])
def test_the_run_is_written_beside_the_model(task, whole):
    result = whole[task]
    run = read_run(result.output / "training.json")
    assert run.steps == 6 and run.recipe == json.loads(json.dumps(RECIPE.to_dict()))
    assert run.series("eval_loss")[0] == [1, 2, 3, 4, 5, 6]
    assert run.marks == {1: "rounding begins", 0: "8 bits", 3: "4 bits"}
    page = (result.output / "training.html").read_text(encoding="utf-8")
    assert page.count("<svg") >= 3 and "rounded, not trained" in page and "4 bits" in page
    assert not list(result.output.parent.glob(".*.training"))


@pytest.mark.parametrize("stop", [4, 6], ids=["on its way", "after its last step"])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(stop, source, whole, tmp_path, monkeypatch):
    class Stop(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            if state.global_step == stop:
                raise KeyboardInterrupt

    original = Trainer.__init__
    with monkeypatch.context() as patched:

        def with_stop(self, *args, **kwargs):
            original(self, *args, **{**kwargs, "callbacks": [*kwargs["callbacks"], Stop()]})

        patched.setattr(Trainer, "__init__", with_stop)
        with pytest.raises(KeyboardInterrupt):
            train(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match=r"in which data differ"):
        train(source, tmp_path / "out", dataset=task_rows(CLASSIFY, 36))
    with pytest.raises(ConfigError, match=r"in which task differ"):
        train(source, tmp_path / "out", max_length=16)
    steps, step = [], Trainer.training_step

    def counted(self, *args, **kwargs):
        steps.append(self.state.global_step)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "training_step", counted)
    train(source, tmp_path / "out", compare=False)
    assert steps == [4, 5]
    found, expected = tensors(tmp_path / "out"), tensors(whole[CLASSIFY].output)
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


def test_static_inputs_are_measured_after_training_only(source, tmp_path):
    recipe = TrainingRecipe.from_dict({**RECIPE.to_dict(), "preset": "int8-static", "qat": {"observer_steps": 2}})
    result = train(source, tmp_path / "out", recipe=recipe)
    assert result.rounded is None and result.trained.metrics


def test_a_teacher_may_be_a_checkpoint(source, tmp_path):
    recipe = TrainingRecipe.from_dict({**RECIPE.to_dict(), "distillation": {"teacher": "self", "temperature": 1.0}})
    result = train(source, tmp_path / "out", recipe=recipe, teacher=str(source / CLASSIFY), compare=False)
    assert result.run.steps == 6


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"task": "question-answering"}, ConfigError, r"text-classification"),
        ({"holdout": 0.001}, ConfigError, r"cannot be held out"),
        ({"holdout": 1.5}, ConfigError, r"cannot be held out"),
        ({"dataset": []}, EvaluationError, r"empty"),
        ({"dataset": [{"text": "w1 w2"}] * 20}, EvaluationError, r"label_column"),
        ({"colour": 3}, ConfigError, r"option"),
        ({"recipe": {"qat": {"weights": "lsqq"}}}, UnknownName, r"lsq"),
        ({"recipe": {"qat": {"bits": {0: 4, 3: 8}}}}, ConfigError, r"never grow"),
        ({"recipe": {"qat": {"bits": {"abc": 8}}}}, ConfigError, r"'abc' is no whole number of steps"),
        ({"recipe": {"qat": {"bits": {0.5: 8}}}}, ConfigError, r"0\.5 is no whole number of steps"),
        ({"recipe": {"distillation": {"logits": 1.0}}}, ConfigError, r"needs a teacher"),
        ({"recipe": {"training": {"optim": "no_such"}}}, ConfigError, r"training arguments"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_the_fix(changes, error, says, source, tmp_path):
    changes = dict(changes)
    if "recipe" in changes:
        changes["recipe"] = TrainingRecipe.from_dict({**RECIPE.to_dict(), **changes["recipe"]})
    if changes.get("task") == "question-answering":
        (tmp_path / "question-answering").mkdir()
        with pytest.raises(error, match=says):
            hf_quant.train(str(tmp_path), RECIPE, "question-answering", [], tmp_path / "out")
        return
    with pytest.raises(error, match=says):
        train(source, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_the_source_is_never_written_over(source):
    before = tensors(source / CLASSIFY)
    with pytest.raises(ConfigError, match="would be lost"):
        train(source, source / CLASSIFY)
    assert all(torch.equal(before[name], tensor) for name, tensor in tensors(source / CLASSIFY).items())


def test_a_quantized_checkpoint_is_refused(tmp_path):
    quantized_model(CLASSIFY).save_pretrained(tmp_path / CLASSIFY)
    tiny_tokenizer().save_pretrained(tmp_path / CLASSIFY)
    with pytest.raises(ConfigError, match="quantized already"):
        train(tmp_path, tmp_path / "out")


def test_a_checkpoint_that_was_not_written_to_its_end_is_thrown_away(tmp_path):
    facts, folder = {"model": "a"}, tmp_path / "run"
    run_folder.open_folder(folder, facts)
    for step, text in ((2, '{"global_step": 2, "max_steps": 6}'), (4, '{"global_st')):
        (folder / f"checkpoint-{step}").mkdir()
        (folder / f"checkpoint-{step}" / "trainer_state.json").write_text(text)
    (folder / "checkpoint-5").mkdir()
    assert run_folder.open_folder(folder, facts) == str(folder / "checkpoint-2")
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-2", "run.json"]


def test_other_files_in_the_runs_folder_are_kept(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigError, match="other files"):
        run_folder.open_folder(tmp_path / "run", {"model": "a"})
    assert (tmp_path / "run" / "thesis.tex").read_text() == "mine"
    shutil.rmtree(tmp_path / "run")
    assert run_folder.open_folder(tmp_path / "run", {"model": "a"}) is None
    assert run_folder.open_folder(tmp_path / "run", {"model": "b"}, restart=True) is None


@pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
def test_several_labels_and_scores_are_trained_as_they_are_evaluated(problem, tmp_path):
    model = copy.deepcopy(task_model(CLASSIFY))
    model.config.problem_type = problem
    model.save_pretrained(tmp_path / CLASSIFY)
    tiny_tokenizer().save_pretrained(tmp_path / CLASSIFY)
    rows = [
        {"text": row["text"], "label": [float(n % 2), float(n % 3 == 0), 0.1 * n % 1.0]}
        for n, row in enumerate(task_rows(CLASSIFY))
    ]
    if problem == "multi_label_classification":
        rows = [{**row, "label": [*row["label"][:2], 1.0]} for row in rows]
    result = train(tmp_path, tmp_path / "out", dataset=rows, compare=False)
    names = [metric.name for metric in result.trained.metrics]
    assert names[0] == ("f1" if problem.startswith("multi") else "pearson of bad")
    figures = [entry for entry in result.run.history if "eval_f1" in entry]
    assert bool(figures) == problem.startswith("multi")
