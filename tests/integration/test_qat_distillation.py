"""Learning from a teacher in real Trainers."""

import ctypes
import gc
from pathlib import Path

import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BartForSequenceClassification,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
)

import hf_quant
from benchmarks.memory import PeakAnonymous, anonymous_bytes, in_fresh_process
from hf_quant import Distillation, HfQuantConfig, Scheme, TensorScheme
from hf_quant.errors import ConfigError
from hf_quant.evaluation.memory import weight_bytes
from hf_quant.qat.distillation import logits_loss
from hf_quant.workflows.distill import make_teacher
from hf_quant.workflows.qat_callback import QATCallback
from tests.evaluation.tiny import tiny_tokenizer
from tests.integration.qat_training import Rows, arguments, same, state, trainer
from tests.integration.tiny import FAMILIES, outputs, tiny_model, token_ids

W3A8 = HfQuantConfig(scheme=Scheme(TensorScheme(bits=3), TensorScheme(granularity="token", dynamic=True)))
TAUGHT = {"labels": 0.0, "temperature": 1.0}


def distance(model, teacher):
    """Mean divergence of the model's logits from the teacher's, on the rows of training."""
    ids = Rows().ids
    found, expected = outputs(model.eval(), ids), outputs(teacher, ids)
    return logits_loss(found.flatten(0, 1), expected.flatten(0, 1), 1.0).item()


@pytest.mark.parametrize(
    ("name", "settings"),
    [*((name, {}) for name in FAMILIES), ("bert", {"hidden": 1.0}), ("llama", {"int8_teacher": True})],
)
def test_a_quantized_model_comes_nearer_to_the_float_one(name, settings, tmp_path):
    teacher = tiny_model(name)
    rounded = hf_quant.quantize(tiny_model(name), W3A8, progress=False)
    training = trainer(
        tmp_path, W3A8, name, teacher="self", distillation=Distillation(**TAUGHT, **settings), max_steps=30
    )
    training.train()
    assert training.model.is_quantized
    assert distance(training.model, teacher) < 0.6 * distance(rounded, teacher)
    assert "compute_loss" not in vars(training)


def test_a_teacher_of_another_kind_is_not_changed_by_training(tmp_path):
    teacher = tiny_model("gpt2", n_layer=1)
    before = state(teacher)
    trainer(tmp_path, "int4", "gpt2", teacher=teacher).train()
    assert same(before, state(teacher))


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="anonymous memory is only told by Linux")
def test_a_teacher_in_int8_takes_a_quarter_of_the_memory_and_no_second_copy():
    found = {each: in_fresh_process(memory_of_a_teacher, each) for each in (False, True)}
    plain, small = found[False], found[True]
    assert small["bytes"] < 0.27 * plain["bytes"]
    assert small["held"] < 0.4 * plain["held"] and small["peak"] < 1.15 * plain["peak"]


def memory_of_a_teacher(is_int8):
    """Bytes of the tensors, and anonymous memory held and at the peak, of a teacher of 22M weights that was run."""
    sizes = {"hidden_size": 512, "intermediate_size": 1536, "num_attention_heads": 8, "num_hidden_layers": 6}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=4096, tie_word_embeddings=True, **sizes))
    ids = torch.arange(8)[None]
    with torch.no_grad():
        model(input_ids=ids)
        trim = ctypes.CDLL(None).malloc_trim  # what is free is given back before it is counted
        trim(0)
        begin = anonymous_bytes()
        with PeakAnonymous() as memory:
            teacher = make_teacher("self", model, Distillation(int8_teacher=is_int8))
            teacher(input_ids=ids)
    gc.collect()
    trim(0)
    return {"bytes": weight_bytes(teacher), "held": anonymous_bytes() - begin, "peak": memory.bytes}


def test_each_model_that_a_callback_trains_has_a_teacher_of_its_own(tmp_path):
    callback, taught = QATCallback("int4", teacher="self", convert=False), []
    for seed in (0, 0, 5):
        model = taught[-1][0] if len(taught) == 1 else tiny_model("bert", seed=seed)
        training = Trainer(model, arguments(tmp_path), train_dataset=Rows(), callbacks=[callback])
        training.create_optimizer()
        taught.append((model, training.compute_loss.teacher))
    assert taught[0][1] is taught[1][1]
    assert torch.equal(outputs(taught[2][1]), outputs(tiny_model("bert", seed=5)))


def test_evaluation_knows_of_no_teacher(tmp_path):
    with_teacher = trainer(tmp_path, "int4", teacher="self", convert=False)
    without = trainer(tmp_path, "int4", convert=False)
    losses = []
    for training in (with_teacher, without):
        training.create_optimizer()
        losses.append(training.evaluate()["eval_loss"])
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    "name", ["gpt2", "llama"]
)  # BERT's own loss of masked tokens does not count accumulated batches
def test_accumulated_batches_are_taught_as_a_whole_one_is(name, tmp_path):
    def run(folder, **changes):
        model = tiny_model(name)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        options = {"optim": "sgd", "learning_rate": 1e-2, "max_steps": 1, "convert": False}
        training = trainer(tmp_path / folder, "int8", name, model=model, teacher="self", **options, **changes)
        with torch.no_grad():
            for parameter in training.model.parameters():
                if parameter.ndim == 2 and parameter.numel() > 4000:
                    parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
        training.train()
        return state(training.model)

    whole, halves = run("whole"), run("halves", per_device_train_batch_size=2, gradient_accumulation_steps=2)
    for key, tensor in whole.items():
        assert torch.allclose(tensor, halves[key], rtol=1e-3, atol=1e-5), key


def test_resuming_with_a_teacher_gives_the_same_bits(tmp_path):
    options = {"teacher": "self", "max_steps": 5}
    whole = trainer(tmp_path, save_strategy="steps", save_steps=2, **options)
    whole.train()
    resumed = trainer(tmp_path / "resumed", **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert same(state(whole.model), state(resumed.model))


@pytest.mark.parametrize("extra", [{"label_smoothing_factor": 0.1}, {"bf16": True}, {"activation_checkpointing": True}])
def test_classifiers_are_taught_under_features_of_the_trainer(extra, tmp_path):
    model = tiny_model("bert", BertForSequenceClassification, num_labels=3)
    labels = token_ids(16, 1, seed=3)[:, 0] % 3
    training = trainer(tmp_path, "int8", model=model, teacher="self", distillation=Distillation(hidden=0.5), **extra)
    training.train_dataset = [
        {"input_ids": row, "labels": label} for row, label in zip(Rows().ids, labels, strict=True)
    ]
    assert training.train().training_loss > 0
    assert training.model.is_quantized


def bart(model_class=BartForConditionalGeneration, **changes):
    """A tiny encoder-decoder."""
    torch.manual_seed(0)
    stacks = {f"{stack}_{name}": size for stack in ("encoder", "decoder") for name, size in STACK.items()}
    return model_class(BartConfig(vocab_size=128, d_model=32, max_position_embeddings=64, **stacks, **changes)).eval()


STACK = {"layers": 1, "attention_heads": 2, "ffn_dim": 64}


def translations(length=9):
    """Rows of token ids whose labels are of another length."""
    labels = token_ids(16, length, seed=2)
    return [{"input_ids": row, "labels": label} for row, label in zip(Rows().ids, labels, strict=True)]


@pytest.mark.parametrize("length", [9, 16])
def test_a_teacher_of_an_encoder_decoder_decodes_what_the_student_does(length, tmp_path):
    training = trainer(tmp_path, model=bart(), teacher="self", distillation=Distillation(**TAUGHT), convert=False)
    training.create_optimizer()
    model, teacher = training.model.train(), bart()
    for module in model.modules():
        if hasattr(module, "dropout"):
            module.dropout = 0.0
    batch = training.data_collator(translations(length)[:4])
    found = training.compute_loss(model, dict(batch)).item()
    logits = [each(**batch).logits.flatten(0, 1) for each in (model, teacher)]
    assert found == pytest.approx(logits_loss(*logits, 1.0).item(), rel=1e-3, abs=1e-7)
    training.train_dataset = translations(length)
    assert training.train().training_loss > 0


def test_classifiers_of_two_stacks_are_taught(tmp_path):
    training = trainer(tmp_path, model=bart(BartForSequenceClassification), teacher="self", max_steps=1)
    rows = torch.cat([Rows().ids[:, :-1], torch.full((16, 1), 2)], 1)  # the token whose state is classified
    training.train_dataset = [{"input_ids": row, "labels": index % 3} for index, row in enumerate(rows)]
    assert training.train().training_loss > 0


def test_an_encoder_decoder_that_does_not_tell_what_it_decodes_is_refused(tmp_path):
    class Silent(BartForConditionalGeneration):
        prepare_decoder_input_ids_from_labels = property()

    training = trainer(tmp_path, model=bart(Silent), teacher="self")
    training.train_dataset = translations()
    with pytest.raises(ConfigError, match="let the data collator add decoder_input_ids"):
        training.train()


def test_models_without_logits_are_refused(tmp_path):
    training = trainer(tmp_path, model=tiny_model("bert", BertForQuestionAnswering), teacher="self")
    training.train_dataset = [{"input_ids": row, "start_positions": 1, "end_positions": 2} for row in Rows().ids]
    with pytest.raises(ConfigError, match="take models with logits"):
        training.train()


@pytest.mark.parametrize("labels", [1, 3], ids=["one number", "several labels"])
def test_outputs_that_are_no_classes_are_taught_too(labels, tmp_path):
    losses = {}
    for teacher in (None, "self"):
        model = tiny_model("bert", BertForSequenceClassification, num_labels=labels)
        training = trainer(tmp_path, W3A8, model=model, teacher=teacher, max_steps=2)
        truth = torch.ones(labels) if labels > 1 else torch.tensor(1.0)
        training.train_dataset = [{"input_ids": row, "labels": truth} for row in Rows().ids]
        losses[teacher] = training.train().training_loss
    assert losses["self"] > losses[None] * 1.001


@pytest.mark.parametrize("sizes", [(128, 192), (192, 128)], ids=["wider teacher", "wider model"])
def test_vocabularies_may_be_padded_to_different_sizes(sizes, tmp_path):
    tokenizer = tiny_tokenizer()
    model, teacher = (tiny_model("llama", vocab_size=size) for size in sizes)
    training = trainer(
        tmp_path, model=model, teacher=teacher, max_steps=1, convert=False,
        distillation=Distillation(**TAUGHT), more={"processing_class": tokenizer},
    )  # fmt: skip
    training.create_optimizer()
    batch = {"input_ids": Rows().ids[:2], "labels": Rows().ids[:2]}
    training.model.train()
    found, outputs = training.compute_loss(training.model, dict(batch), return_outputs=True)
    with torch.no_grad():
        expected = [each[:, :-1, :128].flatten(0, 1) for each in (outputs.logits, teacher(batch["input_ids"]).logits)]
    assert float(found.detach()) == pytest.approx(float(logits_loss(*expected, 1.0)), rel=1e-4)


def test_vocabularies_of_different_sizes_are_refused_unless_the_rest_is_padding(tmp_path):
    model, teacher = tiny_model("llama"), tiny_model("llama", vocab_size=96)
    with pytest.raises(ConfigError, match="processing_class=tokenizer"):
        trainer(tmp_path, model=model, teacher=teacher)
    with pytest.raises(ConfigError, match="the tokenizer gives tokens up to 127"):
        trainer(tmp_path, model=model, teacher=teacher, more={"processing_class": tiny_tokenizer()})


def test_teachers_that_cannot_teach_are_refused(tmp_path):
    with pytest.raises(ConfigError, match='a model or "self"'):
        trainer(tmp_path, teacher="me")
    with pytest.raises(ConfigError, match="Transformers model"):
        trainer(tmp_path, teacher=torch.nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="vocab_size 64"):
        trainer(tmp_path, teacher=tiny_model("bert", vocab_size=64))
    teacher = tiny_model("bert", num_hidden_layers=1)
    with pytest.raises(ConfigError, match="layer by layer"):
        trainer(tmp_path, teacher=teacher, distillation=Distillation(hidden=1.0))
    teacher = tiny_model("bert", hidden_size=32)
    with pytest.raises(ConfigError, match="have 32 features, those of the model 64"):
        trainer(tmp_path, teacher=teacher, distillation=Distillation(hidden=1.0))
    with pytest.raises(ConfigError, match="one stack"):
        trainer(tmp_path, model=bart(), teacher="self", distillation=Distillation(hidden=1.0))
    model = tiny_model("bert")
    with pytest.raises(ConfigError, match="keep a copy"):
        trainer(tmp_path, model=model, teacher=model)
    with pytest.raises(ConfigError, match="beside a teacher"):
        QATCallback("int4", distillation=Distillation())
