"""`hf_quant.search_plan` and ``hf-quant plan``: from a budget to a plan that is measured, saved and carried out."""

import copy
import json

import pytest
import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

import hf_quant
from hf_quant import Calibration, HfQuantConfig, Judge, Offer, Recipe, Search, SearchReport
from hf_quant.cli.main import app
from hf_quant.errors import (
    CalibrationError,
    ConfigError,
    EvaluationError,
    HfQuantError,
    InfeasibleBudget,
    PlanError,
    UnknownName,
)
from hf_quant.evaluation.file_size import computed_bytes
from hf_quant.modules.swap import quantized_modules
from hf_quant.planner.cost.disk import plan_bytes
from hf_quant.planner.cost.latency import Pass, predict_latency
from hf_quant.planner.cost.table_file import write_table
from hf_quant.planner.offered import SCHEMES
from hf_quant.planner.quality import mean_loss
from hf_quant.planner.sensitivity import MEASURES
from hf_quant.workflows.checkpoints import load_model
from hf_quant.workflows.plan import search_space
from tests.evaluation.tiny import task_model, task_rows, tiny_tokenizer
from tests.integration.calibration_data import calibration
from tests.integration.derived_families import make
from tests.integration.test_distributed_runs import in_all_ranks
from tests.integration.tiny import tiny_model
from tests.planner.cost.tables import table as kernel_table

TABLE = kernel_table()


def planned(budget="4.5bpw", name="llama-gqa", model=None, **options):
    options = {"progress": False, "measurements": 2, **options}
    return hf_quant.search_plan(tiny_model(name) if model is None else model, calibration(), budget, **options)


@pytest.mark.parametrize("name", ["gpt2", "llama", "llama-gqa"])
def test_a_plan_keeps_its_budget_and_is_what_is_saved(name, tmp_path):
    model = tiny_model(name)
    plan, report = planned("30%", model=model)
    assert len({str(scheme) for scheme in plan.modules.values()}) > 1
    quantized = hf_quant.quantize(copy.deepcopy(model), HfQuantConfig(plan=plan), progress=False)
    quantized.save_pretrained(tmp_path)
    written = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    assert written == plan_bytes(model, plan) == report.bytes <= 0.3 * computed_bytes(model)
    assert report.measured_loss is not None and report.budget == "30%"
    assert SearchReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report


@pytest.mark.parametrize("name", ["gemma3", "falcon"])
def test_classes_of_a_models_own_are_planned_for(name):
    model = make(name)
    plan, report = planned("25%", model=model, measurements=1)
    assert report.bytes <= 0.25 * computed_bytes(model)
    embedding = next(key for key, module in model.named_modules() if module is model.get_input_embeddings())
    assert plan.modules[embedding].weight == plan.modules["lm_head"].weight
    quantized = hf_quant.quantize(model, HfQuantConfig(plan=plan), progress=False)
    assert not {embedding, "lm_head"} & quantized.config.quantization_config.kept_float.keys()


def test_a_plan_loses_less_than_the_same_bits_for_all():
    searched = planned("4.5bpw", measurements=1)[1]
    uniform = planned("4.5bpw", strategy="uniform", measurements=1)[1]
    assert searched.bytes <= uniform.bytes * 1.02
    assert searched.predicted_loss < uniform.predicted_loss


def test_objects_dicts_and_keywords_ask_for_the_same_search():
    keywords = {
        "pins": {"*.down_proj": "int8"},
        "strategy": "evolutionary",
        "seed": 3,
        "evaluations": 4,
        "metric": "loss",
    }
    expected = planned(measurements=1, **keywords)
    offer, search = Offer(pins=keywords["pins"]), Search("evolutionary", evaluations=4, seed=3)
    for options in (
        {"offer": offer, "search": search, "judge": Judge(measurements=1)},
        {"offer": {"pins": keywords["pins"]}, "search": search, "seed": 3, "judge": {"measurements": 1}},
    ):
        found = hf_quant.search_plan(tiny_model("llama-gqa"), calibration(), "4.5bpw", progress=False, **options)
        assert found == expected


def test_the_model_is_left_as_it_was():
    model = tiny_model("llama")
    before = copy.deepcopy(model.state_dict())
    planned(model=model)
    assert not list(quantized_modules(model))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_several_budgets_take_one_analysis(tmp_path, monkeypatch):
    from hf_quant.planner.sensitivity.fisher import Fisher

    calls, original = [], Fisher.losses
    monkeypatch.setattr(Fisher, "losses", lambda *args: calls.append(1) or original(*args))
    file = tmp_path / "losses.json"
    first = planned("4.5bpw", losses=file)
    planned("6bpw", losses=file)
    assert planned("4.5bpw", losses=file)[0] == first[0] and len(calls) == 1
    with pytest.raises(ConfigError, match="another model"):
        planned("4.5bpw", model=tiny_model("llama-gqa", seed=4), losses=file)
    file.write_text("{")
    with pytest.raises(ConfigError, match=r"losses\.json cannot be read"):
        planned("4.5bpw", losses=file)


def test_pins_hold():
    plan, _ = planned("8bpw", pins={"*.down_proj": "int8", "model.layers.0.self_attn.q_proj": "float"})
    assert all(scheme.weight.bits == 8 for name, scheme in plan.modules.items() if name.endswith("down_proj"))
    assert plan.modules["model.layers.0.self_attn.q_proj"] is None


@pytest.mark.parametrize(
    ("hardware", "offered"),
    [
        ("apple-m1", {"FP16", "W8A16"}),  # per channel only, and no bfloat16
        ("nvidia-sm75", {"FP16", "W8A8", "W4A16"}),
        ("nvidia-sm80", {"BF16", "W8A8", "W4A16"}),
        ("raspberry-pi-4", {"W8A8", "W4A8"}),
    ],
)
def test_hardware_is_offered_what_it_has(hardware, offered):
    space = search_space(tiny_model("llama-gqa"), ["90%"], Offer(hardware=hardware))
    assert {str(scheme).split()[0] for scheme in space.schemes} == offered
    plan, _ = planned("60%", hardware=hardware, measurements=0)
    linears = [scheme for name, scheme in plan.modules.items() if scheme is not None and "embed" not in name]
    assert {str(scheme).split()[0] for scheme in linears} <= offered


def test_integers_are_not_offered_to_widths_that_do_not_suit_the_hardware():
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=96, hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=2)
    )
    offers = {
        hardware: {
            name: {str(option.scheme).split()[0] for option in unit.options}
            for unit in search_space(model, ["90%"], Offer(hardware=hardware)).problem().units
            for name in unit.modules
        }
        for hardware in ("apple-m1", "raspberry-pi-4")
    }
    assert offers["apple-m1"]["model.layers.0.mlp.down_proj"] == {"None", "FP16"}, "96 is no multiple of 64"
    assert offers["apple-m1"]["model.layers.0.mlp.up_proj"] == {"None", "FP16", "W8A16"}
    assert "W4A8" in offers["raspberry-pi-4"]["model.layers.0.mlp.down_proj"], "96 is one of 32"


def test_schemes_that_are_given_are_kept_where_the_hardware_has_such():
    given = (SCHEMES["8 bits"], SCHEMES["3 bits"], SCHEMES["16 bits"])
    space = search_space(tiny_model("llama"), ["90%"], Offer(given, "nvidia-sm75"))
    assert list(space.schemes) == [given[0]]
    with pytest.raises(ConfigError, match="such as"):
        planned("60%", hardware="apple-m1", schemes=(SCHEMES["4 bits"],))


def test_what_is_forbidden_is_not_chosen():
    free, _ = planned("5bpw", measurements=0)
    bits = {scheme.weight.bits for scheme in free.modules.values() if scheme is not None}
    assert 4 in bits
    plan, _ = planned("5bpw", measurements=0, forbidden={"*": "int4"})
    assert not any(scheme is not None and scheme.weight.bits == 4 for scheme in plan.modules.values())


def test_bytes_are_those_of_the_dtype_that_will_be_saved():
    model = tiny_model("llama-gqa")
    plan, report = planned("60%", model=model, measurements=0, dtype=torch.bfloat16)
    halved = copy.deepcopy(model).to(torch.bfloat16)
    assert report.bytes == plan_bytes(halved, plan) <= 0.6 * computed_bytes(halved)
    assert report.float_bytes == computed_bytes(halved)


def test_pins_that_leave_everything_float_have_no_alternatives():
    plan, report = planned("drop<=5%", pins={"*": "float"}, measurements=0)
    assert set(plan.modules.values()) == {None} and report.front == ()


@pytest.mark.parametrize(
    ("budget", "options", "error"),
    [
        ("1kB", {}, InfeasibleBudget),
        ("10GB", {}, InfeasibleBudget),
        ("0.001ms", {"kernels": TABLE}, InfeasibleBudget),
        ("20ms", {"hardware": "raspberry-pi-5"}, ConfigError),
        ("20ms", {"kernels": "nowhere.json"}, ConfigError),
        ("drop<=1%", {"measure": "output-error"}, ConfigError),
        ("4.5bpw", {"measure": "fischer"}, UnknownName),
        ("much", {}, ConfigError),
        ("4.5bpw", {"strategy": "ipl"}, UnknownName),
        ("4.5bpw", {"hardware": "raspberry-pi-50"}, UnknownName),
        ("4.5bpw", {"metric": "acuracy"}, UnknownName),
        ("4.5bpw", {"recipe": Recipe(solver="gpqt")}, ConfigError),
        ("4.5bpw", {"schemes": ()}, ConfigError),
        ("4.5bpw", {"seed": 1}, ConfigError),
        ("4.5bpw", {"search": Search("rl"), "strategy": "ilp"}, ConfigError),
        ("4.5bpw", {"stratgy": "ilp"}, ConfigError),
        ("4.5bpw", {"pins": {"*.no_such": "int8"}}, PlanError),
    ],
)
def test_what_cannot_be_planned_is_told_before_the_analysis(budget, options, error, monkeypatch):
    monkeypatch.setattr("hf_quant.planner.sensitivity.fisher.Fisher.add", None)
    with pytest.raises(error):
        planned(budget, **options)


@pytest.mark.parametrize("measure", [name for name in MEASURES if name != "fisher"])
def test_any_measure_serves(measure):
    plan, report = planned("4.5bpw", measure=measure, measurements=1, schemes=(SCHEMES["3 bits"], SCHEMES["8 bits"]))
    assert len({str(scheme) for scheme in plan.modules.values()}) > 1 and report.measured_loss is not None


def test_a_budget_of_milliseconds_is_kept_by_the_tables_times():
    model = tiny_model("llama-untied")
    _, free = planned("60%", model=model, kernels=TABLE, measurements=0)
    limit = 0.97 * free.milliseconds
    plan, report = planned(f"60%,{limit}ms", model=model, kernels=TABLE, measurements=0)
    assert report.milliseconds <= limit < free.milliseconds and report.predicted_loss >= free.predicted_loss
    step = Pass(tokens=1, context=512, logits=1)
    assert report.milliseconds == pytest.approx(predict_latency(model, TABLE, step, plan).total, rel=1e-6)
    assert any(point.milliseconds is not None for point in report.front)


def test_linears_of_one_input_share_a_scheme_where_they_are_to_be_fused():
    plan, _ = planned("5bpw", fused=True, measurements=0)
    for siblings in (("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), ("mlp.gate_proj", "mlp.up_proj")):
        for layer in (0, 1):
            assert len({plan.modules[f"model.layers.{layer}.{name}"] for name in siblings}) == 1
    free, _ = planned("5bpw", measurements=0)
    assert free != plan


@pytest.mark.parametrize("targets", [("onnx", "vllm"), ("compressed-tensors", "gguf", "onnx"), ("executorch",)])
def test_a_plan_that_is_to_be_portable_is_refused_by_none_of_the_targets(targets):
    plan, _ = planned("6bpw", name="llama", measurements=0, portable_to=targets)
    model = hf_quant.quantize(tiny_model("llama"), HfQuantConfig(plan=plan))
    assert len({scheme for scheme in plan.modules.values()}) > 1
    for target in targets:
        assert hf_quant.portability(model, target).is_portable, target
    free, _ = planned("6bpw", name="llama", measurements=0)
    free_model = hf_quant.quantize(tiny_model("llama"), HfQuantConfig(plan=free))
    assert not all(hf_quant.portability(free_model, target).is_portable for target in targets)


def test_classes_that_a_target_has_no_codes_for_are_offered_what_it_takes():
    plan, _ = planned("60%", name="gpt2", measurements=0, portable_to=["compressed-tensors"])
    model = hf_quant.quantize(tiny_model("gpt2"), HfQuantConfig(plan=plan))
    assert hf_quant.portability(model, "compressed-tensors").is_portable


def test_targets_that_share_no_scheme_are_told_at_once():
    with pytest.raises(ConfigError, match="tensorrt and executorch take"):
        Offer(schemes=[SCHEMES["4 bits"]], portable_to=["tensorrt", "executorch"])
    with pytest.raises(UnknownName, match="did you mean 'onnx'"):
        Offer(portable_to="onxx")


def test_alternatives_go_from_small_to_large():
    _, report = planned("6bpw", measurements=0)
    sizes = [point.bytes for point in report.front]
    assert len(sizes) > 3 and sizes == sorted(sizes)
    losses = [point.loss for point in report.front]
    assert losses == sorted(losses, reverse=True)


def test_one_sequence_is_too_few():
    with pytest.raises(CalibrationError, match="two sequences"):
        hf_quant.search_plan(tiny_model("llama"), calibration(samples=1), "4.5bpw", progress=False)


AWQ_GPTQ = Recipe(transforms=["awq"], solver={"gptq": {"grid": "mse"}})


def test_a_recipe_carries_out_what_is_measured():
    model = tiny_model("llama-gqa")
    rounded = planned("4bpw", model=model, measurements=1)[1]
    plan, report = planned("4bpw", model=model, measurements=1, recipe=AWQ_GPTQ)
    assert report.rounding.startswith("awq, then gptq, which leaves ") and report.rounding in report.summary()
    assert report.predicted_loss <= rounded.predicted_loss and report.bytes <= rounded.bytes * 1.02
    batches = calibration().batches(model.config)
    seen = [ids[mask != 0] for b in batches[:3] for ids, mask in zip(b["input_ids"], b["attention_mask"], strict=True)]
    data = Calibration(seen, samples=len(seen), sequence_length=32, packing=False)
    config = HfQuantConfig(plan=plan, recipe=AWQ_GPTQ, calibration=data)
    quantized = hf_quant.quantize(copy.deepcopy(model), config, progress=False)
    rise = mean_loss(quantized, batches[3:]) - mean_loss(model, batches[3:])
    assert report.measured_loss == pytest.approx(rise, abs=1e-6)


def test_a_recipe_that_changes_nothing_leaves_everything():
    plan, report = planned("4bpw", measurements=1, recipe=Recipe(preset="int8", solver="rtn"))
    expected, without = planned("4bpw", measurements=1)
    assert plan == expected and report.measured_loss == without.measured_loss
    assert "leaves 100%" in report.rounding


def classified(rows=48):
    """Tokens, and the classes that the float model sees in them, but for every sixth."""
    model = task_model("text-classification")
    ids = torch.randint(5, 60, (rows, 12), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        labels = model(input_ids=ids).logits.argmax(-1)
    labels[::6] = (labels[::6] + 1) % 3
    return model, [{"input_ids": ids[i : i + 1], "labels": labels[i : i + 1]} for i in range(rows)]


def test_plans_of_a_classifier_are_judged_by_accuracy():
    model, batches = classified()
    plan, report = hf_quant.search_plan(
        model, batches, "drop<=10%", metric="accuracy", measurements=6, progress=False, measure="fisher"
    )
    assert report.metric == "accuracy" and "accuracy" in report.summary() and "measured" in report.summary()
    quantized = hf_quant.quantize(copy.deepcopy(model), HfQuantConfig(plan=plan), progress=False)
    held_out = batches[36:]
    with torch.inference_mode():
        right = [
            sum(int(each(input_ids=row["input_ids"]).logits.argmax()) == int(row["labels"]) for row in held_out)
            for each in (model, quantized)
        ]
    assert report.measured_loss == pytest.approx((right[0] - right[1]) / len(held_out), abs=1e-9)
    assert report.measured_loss <= 0.1
    assert SearchReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report


def test_a_target_is_met_by_searching_again_when_predictions_are_far_off():
    _, report = planned("drop<=1%", measurements=6)
    assert report.measured_loss <= 0.01 and any("allowed to predictions" in entry.change for entry in report.repairs)


def test_losses_that_cannot_be_measured_are_told_before_the_analysis(monkeypatch):
    model, batches = classified()
    rows = [{"input_ids": batch["input_ids"]} for batch in batches]
    monkeypatch.setattr(MEASURES["kl"], "add", None)
    with pytest.raises(CalibrationError, match="labels"):
        hf_quant.search_plan(model, rows, "30%", measure="kl", progress=False)


def test_a_metric_without_labels_is_told():
    model, batches = classified()
    rows = [{"input_ids": batch["input_ids"]} for batch in batches]
    with pytest.raises(CalibrationError, match="labels"):
        hf_quant.search_plan(model, rows, "30%", metric="accuracy", measure="output-error", progress=False)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("place")
    task_model("causal-lm").save_pretrained(root / "llama")
    tiny_tokenizer().save_pretrained(root / "llama")
    (root / "texts.txt").write_text("\n\n".join(row["text"] for row in task_rows("causal-lm")))
    task_model("text-classification").save_pretrained(root / "bert")
    tiny_tokenizer().save_pretrained(root / "bert")
    rows = task_rows("text-classification")
    (root / "reviews.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return root


def run(*arguments, code=0):
    result = CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "160"})
    if isinstance(result.exception, HfQuantError):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def test_the_command_writes_a_recipe_that_quantizes(place, tmp_path):
    file, sizes = tmp_path / "plan.yaml", ("--samples", 8, "--sequence-length", 32)
    arguments = ("plan", place / "llama", "-b", "30%", "-d", place / "texts.txt", "-o", file, *sizes)
    printed = run(*arguments, "--report", tmp_path / "plan.json", "--measurements", 1).stdout
    assert "ilp for 30%" in printed and "would save" in printed
    report = SearchReport.from_dict(json.loads((tmp_path / "plan.json").read_text()))
    run("quantize", place / "llama", "--recipe", file, "-o", tmp_path / "out")
    written = sum(path.stat().st_size for path in (tmp_path / "out").glob("*.safetensors"))
    assert written == report.bytes
    loaded = dict(quantized_modules(load_model(str(tmp_path / "out"))))
    planned = {name: unit.scheme for unit in report.units for name in unit.modules if unit.scheme.startswith("W")}
    assert loaded.keys() == planned.keys()
    assert len(list(tmp_path.glob(".plan.*.losses.json"))) == 1


def test_the_commands_plan_for_a_recipe_is_one_with_its_steps(place, tmp_path):
    (tmp_path / "steps.yaml").write_text(
        "preset: int4\ntransforms: [awq]\nsolver: {gptq: {grid: mse}}\ncalibration: {samples: 8, sequence_length: 32}\n"
    )
    file, sizes = tmp_path / "plan.yaml", ("--samples", 8, "--sequence-length", 32, "--measurements", 1)
    data = ("-d", place / "texts.txt")
    run("plan", place / "llama", "-b", "4.5bpw", *data, "-o", file, *sizes, "--recipe", tmp_path / "steps.yaml")
    written = Recipe.from_file(file)
    assert written.steps() == "awq, then gptq" and written.calibration == {"samples": 8, "sequence_length": 32}
    run("quantize", place / "llama", "--recipe", file, "--data", data[1], "-o", tmp_path / "out")
    model = load_model(str(tmp_path / "out"))
    assert model.config.quantization_config.calibration_fingerprint
    assert len({module.spec.scheme.weight.bits for _, module in quantized_modules(model)}) > 1


def test_the_command_plans_for_a_classifier_and_its_accuracy(place, tmp_path):
    file = tmp_path / "plan.yaml"
    arguments = ("plan", place / "bert", "-d", place / "reviews.jsonl", "-o", file, "--measurements", 3)
    printed = run(*arguments, "-b", "drop<=20%", "--metric", "accuracy").stdout
    assert "accuracy" in printed and file.is_file()
    run("quantize", place / "bert", "--recipe", file, "-o", tmp_path / "out")
    with pytest.raises(EvaluationError, match="did you mean 'label'"):
        run(*arguments, "-b", "30%", "--label-column", "labl")
    with pytest.raises(ConfigError, match="for classifiers"):
        run("plan", place / "llama", "-d", place / "texts.txt", "-b", "30%", "--label-column", "label")


@pytest.mark.parametrize(
    ("model", "data", "error"), [("llama", "texts.txt", ConfigError), ("bert", "reviews.jsonl", EvaluationError)]
)
def test_no_samples_are_refused_rather_than_taken_for_the_default(model, data, error, place, tmp_path):
    with pytest.raises(error, match="positive integer"):
        run("plan", place / model, "-b", "30%", "-d", place / data, "-o", tmp_path / "p.yaml", "--samples", 0)


def test_several_budgets_give_a_plan_each_and_one_page(place, tmp_path):
    sizes = ("--samples", 8, "--sequence-length", 32, "--measurements", 1)
    page, picture = tmp_path / "plans.html", tmp_path / "front.png"
    arguments = ("plan", place / "llama", "-b", "4bpw", "-b", "30%", "-d", place / "texts.txt", *sizes)
    run(*arguments, "-o", tmp_path / "plan.yaml", "--report", page, "--report", picture)
    assert {path.name for path in tmp_path.glob("*.yaml")} == {"plan-4bpw.yaml", "plan-30.yaml"}
    text = page.read_text()
    for words in ("Size against loss", "Sensitivity by fisher", "Where the bits of 4bpw go", "Outside the blocks"):
        assert words in text
    assert "<script" not in text and picture.read_bytes().startswith(b"\x89PNG")


def test_a_report_of_another_kind_is_refused_before_any_work(place, tmp_path):
    with pytest.raises(ConfigError, match=r"\.json, \.html or \.png"):
        run("plan", tmp_path / "nowhere", "-b", "30%", "-d", place / "texts.txt", "--report", tmp_path / "a.pdf")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (("-b", "30%", "-b", "30 %"), ConfigError),
        (("-b", "30%", "-b", "much"), ConfigError),
        (("-b", "30%", "--measure", "fischer"), UnknownName),
        (("-b", "30%", "--evaluations", 9), ConfigError),
        (("-b", "30%", "--pin", "lm_head=int9"), UnknownName),
        (("-b", "30%", "--hardware", "raspberry-pi-50"), UnknownName),
    ],
)
def test_wrong_arguments_are_told_before_the_model_is_loaded(options, error, place, tmp_path):
    with pytest.raises(error):
        run("plan", tmp_path / "nowhere", "-d", place / "texts.txt", *options)


def test_two_processes_plan_as_one(place, tmp_path):
    code = """
        import sys
        from hf_quant.cli.main import app
        app(sys.argv[1:], standalone_mode=False)
    """
    sizes = ("--samples", 8, "--sequence-length", 32, "--measurements", 2, "--budget", "30%")
    arguments = ("plan", place / "llama", "-d", place / "texts.txt", *sizes)
    first, second = in_all_ranks(code, *arguments, "-o", tmp_path / "both.yaml")
    run(*arguments, "-o", tmp_path / "alone.yaml")
    both, alone = (yaml.safe_load((tmp_path / f"{name}.yaml").read_text()) for name in ("both", "alone"))
    assert both == alone and "Wrote" in first and second == ""


def test_a_checkpoint_in_16_bits_is_planned_for_its_own_size(place, tmp_path):
    task_model("causal-lm").to(torch.bfloat16).save_pretrained(tmp_path / "bf16")
    tiny_tokenizer().save_pretrained(tmp_path / "bf16")
    size = (tmp_path / "bf16" / "model.safetensors").stat().st_size
    sizes = ("--samples", 8, "--sequence-length", 32, "--measurements", 0)
    arguments = ("plan", tmp_path / "bf16", "-d", place / "texts.txt", "-o", tmp_path / "plan.yaml", *sizes)
    with pytest.raises(InfeasibleBudget, match="keeps to"):
        run(*arguments, "-b", f"{size + 1000}B")
    run(*arguments, "-b", "60%", "--report", tmp_path / "plan.json")
    report = SearchReport.from_dict(json.loads((tmp_path / "plan.json").read_text()))
    run("quantize", tmp_path / "bf16", "--recipe", tmp_path / "plan.yaml", "-o", tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").stat().st_size == report.bytes <= 0.6 * size


def test_a_model_that_reads_is_timed_as_in_python(place, tmp_path):
    write_table(TABLE, tmp_path / "kernels.json")
    arguments = ("plan", place / "bert", "-d", place / "reviews.jsonl", "-o", tmp_path / "plan.yaml")
    found = []
    for call in (
        lambda: run(*arguments, "-b", "0.001ms", "--kernels", tmp_path / "kernels.json"),
        lambda: search_space(load_model(str(place / "bert")), ["0.001ms"], Offer(kernels=TABLE)),
    ):
        with pytest.raises(InfeasibleBudget) as caught:
            call()
        found.append(str(caught.value))
    assert found[0] == found[1]
    with pytest.raises(ConfigError, match="--context"):
        run(*arguments, "-b", "1ms", "--context", 16)


def test_a_second_budget_that_cannot_be_kept_is_told_before_the_first_is_searched(place, tmp_path):
    arguments = ("plan", place / "llama", "-d", place / "texts.txt", "-o", tmp_path / "plan.yaml")
    with pytest.raises(InfeasibleBudget):
        run(*arguments, "-b", "5bpw", "-b", "0.1bpw")
    assert list(tmp_path.iterdir()) == []


def test_other_options_do_not_meet_the_kept_analysis_of_these(place, tmp_path):
    sizes = ("--samples", 8, "--sequence-length", 32, "--measurements", 0)
    arguments = ("plan", place / "llama", "-d", place / "texts.txt", "-o", tmp_path / "plan.yaml", *sizes)
    for more in ((), ("--seed", 1), ("--measure", "kl"), ("--hardware", "nvidia-sm80")):
        run(*arguments, "-b", "40%", *more)
    assert len(list(tmp_path.glob(".plan.*.losses.json"))) == 4


def test_outputs_that_cannot_be_written_are_told_before_the_model_is_loaded(place, tmp_path):
    (tmp_path / "taken.yaml").mkdir()
    (tmp_path / "file").write_text("")
    for options in (("-o", tmp_path / "taken.yaml"), ("--report", tmp_path / "file" / "a.html")):
        with pytest.raises(ConfigError, match="cannot be written"):
            run("plan", tmp_path / "nowhere", "-b", "30%", "-d", place / "texts.txt", *options)


def test_pins_may_list_choices_and_are_given_once(place, tmp_path):
    sizes = ("--samples", 8, "--sequence-length", 32, "--measurements", 0)
    arguments = ("plan", place / "llama", "-b", "40%", "-d", place / "texts.txt", "-o", tmp_path / "plan.yaml", *sizes)
    with pytest.raises(ConfigError, match="given twice"):
        run(*arguments, "--pin", "lm_head=int8", "--pin", "lm_head=int4")
    run(*arguments, "--pin", "*.down_proj=int8,float", "--forbid", "*.q_proj=int8,bf16")
    chosen = Recipe.from_file(tmp_path / "plan.yaml").plan.modules
    bits = {name: scheme and scheme.weight.bits for name, scheme in chosen.items()}
    assert {bit for name, bit in bits.items() if name.endswith("down_proj")} <= {8, None}
    assert not {bit for name, bit in bits.items() if name.endswith("q_proj")} & {8, 16}


def test_a_pin_without_a_preset_is_refused(place, tmp_path):
    with pytest.raises(ConfigError, match="PATTERN=PRESET"):
        run(
            "plan",
            place / "llama",
            "-b",
            "30%",
            "-d",
            place / "texts.txt",
            "-o",
            tmp_path / "p.yaml",
            "--pin",
            "lm_head",
        )
