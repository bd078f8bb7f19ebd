"""`QATCallback` in real Trainers: float model in, quantized model out, with what Trainer offers still working."""

import logging

import pytest
import torch
from transformers import (
    EarlyStoppingCallback,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    get_linear_schedule_with_warmup,
)

import hf_quant
from hf_quant import HfQuantConfig, Plan
from hf_quant.config.presets import PRESETS
from hf_quant.errors import CalibrationError, ConfigError, PlanError, TrainingError, UnknownName, UnsupportedModel
from hf_quant.modules.swap import quantized_modules
from hf_quant.qat.prepare import fake_quantized_modules
from hf_quant.training.grid_groups import KEY
from hf_quant.workflows.qat_callback import QATCallback
from tests.integration.qat_training import STATIC, Rows, Watch, arguments, same, state, trainer
from tests.integration.tiny import FAMILIES, auto_class, error, outputs, tiny_model

SCHEDULES = {
    "int4": {"config": "int4"},
    "minmax": {"config": "int4", "weights": "minmax"},
    "static": {"config": HfQuantConfig(scheme=STATIC), "warmup_steps": 1, "observer_steps": 2},
    "pact": {"config": HfQuantConfig(scheme=STATIC), "inputs": "pact", "observer_steps": 3},
    "bits": {"config": "int4", "warmup_steps": 1, "bits": {0: 8, 3: 6, 5: 4}},
    "frozen": {"config": "int4", "freeze_scales_at": 3},
}


STOPS = {"int4": [2], "minmax": [2], "static": [1, 2, 3], "pact": [4], "bits": [1, 3, 4], "frozen": [3]}
"""Checkpoints to go on from: before, at and after each change of the schedule."""


@pytest.mark.parametrize(
    ("name", "preset"), [*((name, "int4") for name in FAMILIES), ("bert", "int8"), ("llama", "w4a16"), ("gpt2", "bf16")]
)
def test_a_float_model_goes_in_and_a_quantized_one_comes_out(name, preset, tmp_path):
    training = trainer(tmp_path / "run", preset, name)
    before = training.evaluate(Rows())["eval_loss"]
    training.train()
    assert list(fake_quantized_modules(training.model)) == [] and training.model.is_quantized
    after = training.evaluate(Rows())["eval_loss"]
    assert after < before
    training.save_model(str(tmp_path / "saved"))
    loaded = auto_class(name).from_pretrained(tmp_path / "saved").eval()
    assert loaded.config.quantization_config.preset == preset
    assert torch.equal(outputs(loaded), outputs(training.model.eval()))


@pytest.mark.parametrize(("schedule", "stops"), [(SCHEDULES[name], STOPS[name]) for name in SCHEDULES], ids=SCHEDULES)
def test_resuming_gives_the_bits_that_never_stopping_gives(schedule, stops, tmp_path):
    options = {"weight_decay": 0.1, "max_steps": 6, **schedule}
    whole = trainer(tmp_path, save_strategy="steps", save_steps=1, **options)
    whole.train()
    for stop in stops:
        resumed = trainer(tmp_path / "resumed", **options, model=tiny_model("bert", seed=5))
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{stop}"))
        assert same(state(whole.model), state(resumed.model))
        assert resumed.optimizer.state_dict()["param_groups"] == whole.optimizer.state_dict()["param_groups"]


def test_checkpoints_hold_float_masters_and_no_quantization_config(tmp_path):
    training = trainer(tmp_path, "int8", "llama", save_strategy="steps", save_steps=4)
    training.train()
    loaded = auto_class("llama").from_pretrained(tmp_path / "checkpoint-4")
    assert not getattr(loaded, "is_quantized", False)
    assert loaded.model.layers[0].mlp.up_proj.weight.dtype is torch.float32
    assert len(loaded.model.layers[0].mlp.up_proj.weight.unique()) > 256 * 16, "not the numbers of a grid"


def test_the_best_model_is_the_one_that_was_best_once_quantized(tmp_path):
    scores = iter([0.1, 0.9, 0.3, 0.2])
    logits = []

    def metrics(prediction):
        logits.append(torch.tensor(prediction.predictions))
        return {"score": next(scores)}

    training = trainer(
        tmp_path,
        HfQuantConfig(scheme=STATIC),
        observer_steps=1,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="score",
        more={"compute_metrics": metrics},
    )
    training.train()
    assert training.state.best_global_step == 4
    ids = Rows(8, seed=1).ids
    found = outputs(training.model.eval(), ids)
    distances = [float((found - each).norm() / found.norm()) for each in logits]
    # Fused calls add floats in another order, so that an input may round to the next code.
    assert distances[1] < 2e-2 and min(distances[0], *distances[2:]) > 5 * distances[1]


@pytest.mark.parametrize("schedule", ["int4", "static"])
def test_a_best_model_of_an_earlier_phase_is_converted_to_the_bits_that_were_asked_for(schedule, tmp_path):
    scores = iter([0.9, 0.1, 0.1, 0.1])
    options = {**SCHEDULES[schedule], "warmup_steps": 3, "bits": {0: 8, 4: 4}}
    training = trainer(
        tmp_path,
        **options,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="score",
        more={"compute_metrics": lambda _: {"score": next(scores)}},
    )
    if schedule == "static":
        with pytest.raises(CalibrationError, match="was observed"):
            training.train()
        return
    training.train()
    assert {m.spec.scheme.weight.bits for _, m in quantized_modules(training.model)} == {4, 8}


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_accumulated_and_checkpointed_gradients_are_those_of_the_whole_batch(name, tmp_path):
    def run(folder, **changes):
        training = trainer(
            tmp_path / folder, HfQuantConfig(scheme=STATIC), name, observer_steps=3, convert=False, **changes
        )
        training.model.config.hidden_dropout_prob = 0.0
        for module in training.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            if hasattr(module, "attn_dropout") and isinstance(module.attn_dropout, float):
                module.attn_dropout = 0.0
        seen = []
        training.add_callback(Watch(lambda step, model, optimizer: seen.append(state(model))))
        training.train()
        return seen

    whole = run("whole", optim="sgd", learning_rate=1e-2)
    checkpointed = run("checkpointed", optim="sgd", learning_rate=1e-2, activation_checkpointing=True)
    halves = run(
        "halves", optim="sgd", learning_rate=1e-2, per_device_train_batch_size=2, gradient_accumulation_steps=2
    )
    assert all(same(a, b) for a, b in zip(whole, checkpointed, strict=True))
    # Sums in another order: compared where no input has rounded to another code yet.
    for key, tensor in whole[3].items():
        assert torch.allclose(tensor, halves[3][key], rtol=1e-3, atol=1e-5, equal_nan=True), key


@pytest.mark.parametrize(
    ("name", "config"),
    [("bert", "int4"), ("gpt2", HfQuantConfig(scheme=STATIC)), ("llama", "int8")],
    ids=["bert", "gpt2", "llama"],
)
def test_training_in_bfloat16_keeps_masters_and_grids_in_float32(name, config, tmp_path):
    training = trainer(tmp_path, config, name, bf16=True, convert=False, observer_steps=2)
    training.train()
    floats = [p for p in training.model.parameters() if p.is_floating_point()]
    assert {p.dtype for p in floats} == {torch.float32}
    assert all(bool(p.isfinite().all()) for p in floats)
    evaluated = training.evaluate()["eval_loss"]
    hf_quant.convert(training.model)
    assert training.evaluate()["eval_loss"] == pytest.approx(evaluated, rel=1e-2)


def test_label_smoothing_metrics_and_early_stopping_work(tmp_path):
    training = trainer(
        tmp_path,
        "int8",
        callbacks=[EarlyStoppingCallback(early_stopping_patience=1)],
        label_smoothing_factor=0.1,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="score",
        more={"compute_metrics": lambda prediction: {"score": 0.5}},
    )
    training.train()
    assert training.state.global_step == 2
    assert training.model.is_quantized


# The tracer of torch does what torch warns of.
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    "backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)], ids=["traced", "compiled"]
)
def test_a_compiled_model_trains_as_one_that_is_not(backend, tmp_path):
    def run(folder, **changes):
        model = tiny_model("llama", num_hidden_layers=1)
        options = {"model": model, "max_steps": 2, "optim": "sgd", "learning_rate": 1e-2}
        return trainer(tmp_path / folder, **options, **changes)

    plain = run("plain")
    compiled = run("compiled", torch_compile=True, torch_compile_backend=backend)
    losses = [each.train().training_loss for each in (plain, compiled)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert plain.model.is_quantized and compiled.model.is_quantized
    compiled.model.save_pretrained(tmp_path / "saved")
    reloaded = auto_class("llama").from_pretrained(tmp_path / "saved").eval()
    assert torch.equal(outputs(reloaded), outputs(compiled.model.eval()))
    assert error(outputs(reloaded), outputs(plain.model.eval())) < 5e-2


def test_seq2seq_trainer_generates_in_evaluation(tmp_path):
    options = arguments(tmp_path).to_dict()
    options = {k: options[k] for k in ("use_cpu", "max_steps", "disable_tqdm", "save_strategy", "logging_strategy")}
    model = tiny_model("llama")
    training = Seq2SeqTrainer(
        model,
        Seq2SeqTrainingArguments(str(tmp_path), report_to=[], predict_with_generate=True, **options),
        train_dataset=Rows(),
        eval_dataset=Rows(2, seed=1),
        callbacks=[QATCallback("int8")],
    )
    training.train()
    assert model.is_quantized
    assert training.predict(Rows(2, seed=1), max_new_tokens=3).predictions.shape[-1] >= 3


@pytest.mark.parametrize("config", ["int4", HfQuantConfig(scheme=STATIC)], ids=["int4", "static"])
def test_learned_grids_have_their_own_rate_and_no_weight_decay(config, tmp_path):
    seen = {}

    def look(step, model, optimizer):
        names = {id(p): name for name, p in model.named_parameters()}
        seen[step] = [
            (g.get(KEY), g["lr"], g["weight_decay"], [names[id(p)] for p in g["params"]])
            for g in optimizer.param_groups
        ]

    options = {"weight_decay": 0.1, "observer_steps": 2, "lr_scheduler_type": "constant"}
    trainer(tmp_path, config, callbacks=[Watch(look)], **options).train()
    for kind, _, decay, names in seen[7]:
        assert all(("grid." in name) is (kind is not None) for name in names)
        assert kind is None or decay == 0.0
    rates = {kind: rate for kind, rate, _, _ in seen[7] if kind}
    assert set(rates) == ({"weight 4", "weight 8"} if config == "int4" else {"input 8", "weight 4", "weight 8"})
    assert 0 < rates["weight 8"] < rates["weight 4"] < 1e-3
    if config != "int4":
        assert {kind: rate for kind, rate, _, _ in seen[0]}["input 8"] == 1e-3 > rates["input 8"]
    given = trainer(tmp_path, config, callbacks=[Watch(look)], scale_learning_rate=5e-6, **options)
    given.train()
    assert {rate for kind, rate, _, _ in seen[7] if kind} == {5e-6}


@pytest.mark.parametrize("scheduled", [False, True])
def test_an_optimizer_of_the_user_is_told_of_the_grids(scheduled, tmp_path):
    model = tiny_model("gpt2")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = get_linear_schedule_with_warmup(optimizer, 2, 8) if scheduled else None
    moved = {}
    look = Watch(lambda step, model, optimizer: moved.update({step: state(model)}))
    training = trainer(tmp_path, model=model, callbacks=[look], more={"optimizers": (optimizer, scheduler)})
    training.train()
    grids = [name for name in moved[0] if ".grid." in name]
    assert grids and all(not torch.equal(moved[1][name], moved[7][name]) for name in grids if "scale" in name)
    assert {group.get(KEY) for group in optimizer.param_groups} == {None, "weight 4", "weight 8"}


def test_a_schedule_that_cannot_be_told_of_grids_is_refused(tmp_path):
    model = tiny_model("gpt2")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    with pytest.raises(ConfigError, match="StepLR cannot be told"):
        trainer(tmp_path, model=model, more={"optimizers": (optimizer, scheduler)})


def test_trainers_without_the_callback_make_the_optimizer_they_always_made(tmp_path):
    training = Trainer(tiny_model("bert"), arguments(tmp_path), train_dataset=Rows())
    training.create_optimizer()
    assert len(training.optimizer.param_groups) == 2


def test_phases_follow_the_schedule(tmp_path):
    seen = {}

    def look(step, model, optimizer):
        # This callback comes before: it sees what the step before was.
        module = model.bert.encoder.layer[0].output.dense
        weight, static = module.weight_quantizer, module.input_quantizer
        seen[step - 1] = (
            weight.enabled, weight.current.bits, static.observing, int(static.batches), weight.grid.scale.requires_grad
        )  # fmt: skip

    schedule = {"warmup_steps": 2, "observer_steps": 3, "bits": {0: 8, 4: 4}, "freeze_scales_at": 6}
    trainer(tmp_path, HfQuantConfig(scheme=STATIC), callbacks=[Watch(look)], **schedule).train()
    assert [seen[step] for step in range(7)] == [
        (False, 8, False, 0, True),
        (False, 8, False, 0, True),
        (True, 8, True, 1, True),
        (True, 8, True, 2, True),
        (True, 4, True, 3, True),
        (True, 4, False, 3, True),
        (True, 4, False, 3, False),
    ]


def test_frozen_scales_stay_as_they_are(tmp_path):
    seen = {}
    look = Watch(lambda step, model, optimizer: seen.update({step: state(model)}))
    trainer(tmp_path, "int4", callbacks=[look], freeze_scales_at=3).train()
    grids = [name for name in seen[0] if name.endswith("grid.scale")]
    assert all(torch.equal(seen[3][name], seen[7][name]) for name in grids)
    assert not any(torch.equal(seen[1][name], seen[3][name]) for name in grids)
    assert not torch.equal(
        seen[3]["bert.encoder.layer.0.output.dense.weight"], seen[7]["bert.encoder.layer.0.output.dense.weight"]
    )


def test_how_weights_lie_on_their_grids_is_logged(tmp_path):
    training = trainer(
        tmp_path, HfQuantConfig(scheme=STATIC), observer_steps=2, logging_strategy="steps", logging_steps=2
    )
    training.train()
    logs = [entry for entry in training.state.log_history if "qat/error" in entry]
    losses = [entry for entry in training.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in logs] == [entry["step"] for entry in losses] == [2, 4, 6, 8]
    assert "qat/flips" not in logs[0] and "qat/input_scale" not in logs[0]
    for entry in logs[1:]:
        assert 0 < entry["qat/flips"] < 0.5 and 0 <= entry["qat/clipped"] < 0.1
        assert 0.01 < entry["qat/error"] < 0.2 and entry["qat/scale"] > 0 and entry["qat/input_scale"] > 0
    silent = trainer(tmp_path, "int4", statistics=False, logging_strategy="steps", logging_steps=2)
    silent.train()
    assert not any("qat/error" in entry for entry in silent.state.log_history)


def test_evaluation_in_float_warm_up_computes_as_the_quantized_model_will(tmp_path):
    training = trainer(tmp_path, "int4", "llama", warmup_steps=100, convert=False)
    expected = hf_quant.quantize(tiny_model("llama"), HfQuantConfig("int4", recipe={"solver": "mse"}), progress=False)
    losses = training.evaluate(), Trainer(tiny_model("llama"), arguments(tmp_path), eval_dataset=Rows(8, 1)).evaluate()
    with torch.no_grad():
        ids = Rows(8, seed=1).ids
        quantized = expected(input_ids=ids, labels=ids).loss.item()
    assert losses[0]["eval_loss"] == pytest.approx(quantized, rel=1e-4)
    assert losses[0]["eval_loss"] != pytest.approx(losses[1]["eval_loss"], rel=1e-4)


def test_a_trainer_that_did_not_convert_trains_on_to_the_same_bits(tmp_path):
    options = {"convert": False, "lr_scheduler_type": "constant", "save_strategy": "steps", "save_steps": 4}
    whole = trainer(tmp_path / "whole", **options)
    whole.train()
    halves = trainer(tmp_path / "halves", **options)
    halves.args.max_steps = 4
    halves.train()
    halves.args.max_steps = 8
    halves.train(resume_from_checkpoint=True)
    assert same(state(whole.model), state(halves.model))
    another = Trainer(halves.model, arguments(tmp_path / "more"), train_dataset=Rows(), callbacks=[QATCallback()])
    another.train()
    assert another.model.is_quantized and list(fake_quantized_modules(another.model)) == []


@pytest.mark.parametrize(("value", "words"), [(-1.0, "is -"), (torch.nan, "holds NaN")])
def test_a_scale_gone_bad_stops_training_before_it_is_saved(value, words, tmp_path):
    def spoil(step, model, optimizer):
        if step == 5:
            with torch.no_grad():
                model.bert.encoder.layer[0].output.dense.weight_quantizer.grid.scale[0] = value

    training = trainer(tmp_path, callbacks=[Watch(spoil)], save_strategy="steps", save_steps=1)
    with pytest.raises(TrainingError, match=rf"weights of bert\.\S+ {words}"):
        training.train()
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*"))[-1] == "checkpoint-5"


@pytest.mark.parametrize("bits", [None, {0: 6, 4: 4}], ids=["from the start", "taken anew"])
def test_a_scale_with_a_sign_that_goes_through_zero_stops_training(bits, tmp_path):
    def spoil(step, model, optimizer):
        if step == 5:
            with torch.no_grad():
                model.bert.encoder.layer[0].output.dense.weight_quantizer.grid.scale[0] *= -1

    training = trainer(tmp_path, HfQuantConfig(scheme=STATIC), callbacks=[Watch(spoil)], bits=bits)
    with pytest.raises(TrainingError, match=r"weights of bert\.encoder\.layer\.0\.output\.dense went through zero"):
        training.train()


@pytest.mark.parametrize("schedule", [{"warmup_steps": 8}, {"bits": {0: 8, 9: 4}}, {"freeze_scales_at": 20}])
def test_schedules_longer_than_training_are_warned_of_at_the_start(schedule, tmp_path, caplog):
    training = trainer(tmp_path, max_steps=4, **schedule)
    with caplog.at_level(logging.WARNING, "hf_quant"):
        training.train()
    assert "training ends with step 4" in caplog.text or "after the last of 4 steps" in caplog.text


def test_training_of_no_steps_is_not_warned_of(tmp_path, caplog):
    training = trainer(tmp_path, max_steps=-1, num_train_epochs=0, bits={0: 8, 1: 4}, freeze_scales_at=1)
    with caplog.at_level(logging.WARNING, "hf_quant"):
        training.train()
    assert training.state.max_steps == 0 and caplog.text == ""


def test_the_first_bits_hold_from_the_start():
    schedule = QATCallback("int4", bits={2: 8, 4: 4}).schedule
    assert [schedule.at(step).bits for step in range(6)] == [8, 8, 8, 8, 4, 4]


def test_bits_that_never_reach_those_of_the_scheme_are_warned_of(tmp_path, caplog):
    training = trainer(tmp_path, max_steps=2, bits={0: 8, 1: 6})
    with caplog.at_level(logging.WARNING, "hf_quant"):
        training.train()
    assert "12 weights, such as that of bert.encoder.layer.0" in caplog.text


def test_the_callback_is_given_once(tmp_path):
    for second in (QATCallback("int8"), QATCallback()):
        with pytest.raises(ConfigError, match="give one only"):
            Trainer(tiny_model("bert"), arguments(tmp_path), callbacks=[QATCallback("int8"), second])
    twice = QATCallback("int8")
    with pytest.raises(ConfigError, match="give one only"):
        Trainer(tiny_model("bert"), arguments(tmp_path), callbacks=[twice, twice])


def test_models_that_cannot_train_are_refused_as_the_trainer_is_made(tmp_path):
    frozen = tiny_model("bert")
    frozen.requires_grad_(False)
    with pytest.raises(ConfigError, match="all parameters are frozen"):
        trainer(tmp_path, model=frozen)
    with pytest.raises(PlanError, match="matches no module"):
        trainer(tmp_path, HfQuantConfig(plan=Plan({"nowhere.*": PRESETS["int8"].linear})))
    # Trainer itself refuses before any callback is asked.
    with pytest.raises(ValueError, match="purely quantized"):
        trainer(tmp_path, model=hf_quant.quantize(tiny_model("bert"), "int8", progress=False))


def test_static_inputs_that_no_step_observes_are_refused_and_the_model_is_left_as_it_was(tmp_path):
    model = tiny_model("bert")
    before = state(model)
    with pytest.raises(ConfigError, match="observer_steps of at least 1"):
        trainer(tmp_path, "int8-static", model=model, observer_steps=0)
    assert same(before, state(model)) and not list(fake_quantized_modules(model))


def test_another_model_than_the_one_prepared_is_refused(tmp_path):
    training = trainer(tmp_path, model=None, more={})
    training.train()
    with pytest.raises(UnsupportedModel, match="not the one that QATCallback prepared"):
        training.train()


def test_training_can_go_on_in_another_trainer_with_the_same_callback(tmp_path):
    callback, model = QATCallback("int4", convert=False), tiny_model("bert")
    for _ in range(2):
        Trainer(model, arguments(tmp_path, max_steps=2), train_dataset=Rows(), callbacks=[callback]).train()
    assert any(True for _ in fake_quantized_modules(model))
    assert hf_quant.convert(model).is_quantized


def test_grids_that_were_frozen_learn_again_in_another_trainer(tmp_path):
    callback, model = QATCallback("int4", convert=False, freeze_scales_at=1), tiny_model("bert")
    Trainer(model, arguments(tmp_path, max_steps=2), train_dataset=Rows(), callbacks=[callback]).train()
    training = Trainer(model, arguments(tmp_path, max_steps=2), train_dataset=Rows(), callbacks=[callback])
    training.create_optimizer()
    assert {group.get(KEY) for group in training.optimizer.param_groups} == {None, "weight 4", "weight 8"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup_steps": -1}, "warmup_steps must be"),
        ({"observer_steps": 1.5}, "observer_steps must be"),
        ({"freeze_scales_at": True}, "freeze_scales_at must be"),
        ({"bits": {0: 4, 5: 8}}, "never grow"),
        ({"bits": {0: 1}}, "between 2 and 8"),
        ({"bits": {-1: 4}}, "maps steps to bits"),
        ({"bits": [8, 4]}, "maps steps to bits"),
        ({"bits": 4}, "maps steps to bits"),
        ({"bits": "8"}, "maps steps to bits"),
        ({"scale_learning_rate": -1}, "scale_learning_rate"),
        ({"scale_learning_rate": "fast"}, "scale_learning_rate"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        QATCallback("int4", **options)


def test_unknown_names_are_refused():
    with pytest.raises(UnknownName, match="int4"):
        QATCallback("int44")
    with pytest.raises(UnknownName, match="lsq, minmax"):
        QATCallback("int4", weights="lsqq")
    with pytest.raises(ConfigError, match="HfQuantConfig or a preset"):
        QATCallback(4)


@pytest.mark.parametrize(
    ("again", "says"),
    [
        ({"config": "int8"}, r"was trained for W4A8 .* of .*, and is to go on for W8A8"),
        ({"config": "int4", "weights": "minmax"}, r"weights='lsq', and is to go on with 'minmax'"),
        ({"config": HfQuantConfig("int4", overrides={"*.attention.*": None})}, r"go on for float"),
    ],
)
def test_training_never_goes_on_for_something_else(again, says, tmp_path):
    trainer(tmp_path, "int4", max_steps=2, save_strategy="steps", save_steps=2).train()
    resumed = trainer(tmp_path / "resumed", **again)
    before = state(resumed.model)
    with pytest.raises(ConfigError, match=says):
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert same(before, state(resumed.model))


def test_a_record_that_is_damaged_is_named(tmp_path):
    trainer(tmp_path, "int4", max_steps=2, save_strategy="steps", save_steps=2).train()
    (tmp_path / "checkpoint-2" / "hf_quant_qat.json").write_text("{")
    with pytest.raises(ConfigError, match=r"hf_quant_qat\.json is damaged"):
        trainer(tmp_path / "resumed", "int4").train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
