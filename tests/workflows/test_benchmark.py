"""A benchmark measures what it says it does, of both models alike, and refuses what it cannot measure."""

import json
import time
from types import SimpleNamespace

import psutil
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

import hf_quant
from hf_quant.errors import ConfigError, EvaluationError, HfQuantError, UnsupportedModel
from hf_quant.evaluation.file_size import directory_bytes
from hf_quant.evaluation.fingerprint import checkpoint_fingerprint
from tests.integration.tiny import VOCABULARY, tiny_model, token_ids

QUICK = {"rounds": 1, "seconds": 0.0, "progress": False}


def both(family, preset="int4"):
    """A float model and its quantized version."""
    return tiny_model(family), hf_quant.quantize(tiny_model(family), preset, progress=False)


def benchmark(reference, quantized, *arguments, **options):
    return hf_quant.benchmark(reference, quantized, *arguments, **{**QUICK, **options})


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    for name, model in zip(("float", "int4"), both("llama"), strict=True):
        model.save_pretrained(folder / name)
    return folder / "float", folder / "int4"


@pytest.fixture(scope="module")
def report(folders):
    sizes = {"batch_sizes": (1, 2), "lengths": (8,), "new_tokens": 3}
    return benchmark(*folders, **sizes, rounds=3, threads=1)


def test_checkpoints_are_measured_at_every_size_in_every_round(report):
    expected = [(task, batch, 8) for batch in (1, 2) for task in ("prefill", "decode")]
    for model in (report.reference, report.quantized):
        assert [timing.case for timing in model.timings] == expected
        assert all(len(timing.rounds) == 3 and timing.seconds.minimum > 0 for timing in model.timings)
        assert [timing.seconds.count for timing in model.timings] == [3, 6, 3, 6]
    assert [(entry.task, entry.batch, entry.length) for entry in report.speed_ups] == expected


def test_a_speed_up_is_the_median_of_the_rounds_ratios(report):
    for reference, quantized, speed_up in report.pairs():
        ratios = sorted(a / b for a, b in zip(reference.rounds, quantized.rounds, strict=True))
        assert speed_up.ratio.median == ratios[1]


def test_throughput_is_that_of_the_median_call(report):
    for timing in report.quantized.timings:
        tokens = timing.batch * (1 if timing.task == "decode" else timing.length)
        assert timing.tokens_per_second == pytest.approx(tokens / timing.seconds.median)
        assert (timing.sequences_per_second is None) == (timing.task == "decode")
        assert timing.cpu_seconds > 0


def test_checkpoints_are_weighed_and_named_by_their_tensors(report, folders):
    for model, folder in zip((report.reference, report.quantized), folders, strict=True):
        assert model.file_bytes == directory_bytes(folder) and not model.file_is_computed
        assert model.fingerprint == checkpoint_fingerprint(folder)
        assert model.name == str(folder)


@pytest.mark.skipif(not psutil.LINUX, reason="reads /proc")
def test_memory_of_loading_and_running_is_that_of_a_process_of_its_own(report):
    for model in (report.reference, report.quantized):
        assert model.load_seconds > 0
        assert 0 < model.load_peak_bytes < 200 << 20 and 0 < model.run_peak_bytes < 200 << 20
        assert model.resident_bytes > 0


def test_threads_kernels_and_machine_are_named(report):
    assert report.threads == 1 and report.clock == "perf_counter"
    assert report.reference.kernels == {} and sum(report.quantized.kernels.values()) >= 15
    assert report.quantized.preset == "int4" and any(name.startswith("W4A8") for name in report.quantized.schemes)
    assert report.machine["torch"] == torch.__version__ and report.machine["cpu"]
    assert report.energy and report.seconds > 0 and report.date.endswith("+00:00")


def test_a_report_comes_back_from_json_as_it_was(report):
    assert hf_quant.BenchmarkReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report


def test_models_in_memory_are_timed_and_their_files_computed(tmp_path):
    reference, quantized = both("bert", "int8")
    quantized.save_pretrained(tmp_path)
    found = benchmark(reference, quantized)
    assert [timing.case for timing in found.quantized.timings] == [
        ("forward", batch, length) for length in (32, 128) for batch in (1, 8)
    ]
    assert found.quantized.file_bytes == directory_bytes(tmp_path) and found.quantized.file_is_computed
    assert found.quantized.load_seconds is found.quantized.run_peak_bytes is None
    assert any("computed" in note for note in found.notes)


def test_models_and_threads_are_left_as_they_were():
    reference, quantized = both("gpt2")
    reference.train()
    before = torch.get_num_threads()
    benchmark(reference, quantized, lengths=(8,), new_tokens=2, threads=before + 1)
    assert reference.training and not quantized.training
    assert torch.get_num_threads() == before


def test_models_take_turns_and_the_first_of_a_round_changes():
    reference, quantized = both("bert")
    order = []
    reference.register_forward_pre_hook(lambda *_: order.append("r"))
    quantized.register_forward_pre_hook(lambda *_: order.append("q"))
    benchmark(reference, quantized, batch_sizes=(1,), lengths=(8,), rounds=4)
    assert "".join(order) == "qr" + "rq" + "qr" + "rq" + "qr"


def test_both_models_read_the_same_tokens():
    reference, quantized = both("bert")
    read = {"r": [], "q": []}
    for name, model in (("r", reference), ("q", quantized)):
        model.register_forward_pre_hook(
            lambda _, __, options, name=name: read[name].append(options["input_ids"]), with_kwargs=True
        )
    benchmark(reference, quantized, batch_sizes=(1, 2), lengths=(8, 16))
    assert len(read["r"]) == len(read["q"]) == 8
    assert all(any(torch.equal(ids, other) for other in read["q"]) for ids in read["r"])
    assert len(set(read["r"][-1].flatten().tolist())) > 8


def test_a_model_that_takes_longer_is_seen_to():
    reference, quantized = both("bert")
    reference.register_forward_pre_hook(lambda *_: time.sleep(0.05))
    found = benchmark(reference, quantized, batch_sizes=(1,), lengths=(8,), rounds=3)
    assert found.speed_up("forward", 1, 8).ratio.median > 1.5
    assert found.reference.timings[0].seconds.minimum > 0.05


def test_models_that_do_not_fit_together_are_measured_one_by_one(monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=0))
    reference, quantized = both("bert")
    found = benchmark(reference, quantized, batch_sizes=(1,), lengths=(8,), rounds=2)
    assert any("did not fit into memory together" in note for note in found.notes)
    assert [len(timing.rounds) for timing in found.quantized.timings] == [2]


def test_given_tensors_are_what_the_models_read():
    reference, quantized = both("bert")
    shapes = []
    quantized.register_forward_pre_hook(
        lambda _, __, options: shapes.append({name: tuple(tensor.shape) for name, tensor in options.items()}),
        with_kwargs=True,
    )
    ids = token_ids(3, 10)
    found = benchmark(reference, quantized, {"input_ids": ids, "token_type_ids": torch.zeros_like(ids)})
    assert shapes[-1] == {"input_ids": (3, 10), "token_type_ids": (3, 10)}
    assert found.quantized.timings[0].case == ("forward", 3, 10) and found.options["inputs"] == "given"


def words(pad="[PAD]"):
    """A tokenizer of a few words."""
    names = [*([pad] if pad else []), "a", "good", "film"]
    tokenizer = Tokenizer(WordLevel({name: place for place, name in enumerate(names)}, unk_token="a"))
    tokenizer.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **({"pad_token": pad} if pad else {}))


def test_texts_are_read_as_one_batch_padded_on_the_left_for_generation():
    reference, quantized = both("llama")
    masks = []
    quantized.register_forward_pre_hook(
        lambda _, __, options: masks.append(options["attention_mask"].tolist()), with_kwargs=True
    )
    found = benchmark(reference, quantized, ["a good film", "good"], tokenizer=words(), new_tokens=2)
    assert masks[0] == [[1, 1, 1], [0, 0, 1]]
    assert found.quantized.timings[0].case == ("prefill", 2, 3)


WRONG_NUMBERS = [
    ({"rounds": 0}, "rounds is a whole number above zero, not 0"),
    ({"rounds": True}, "rounds is a whole number above zero, not True"),
    ({"rounds": 1.5}, "rounds is a whole number"),
    ({"new_tokens": 0}, "new_tokens is a whole number"),
    ({"threads": -1}, "threads is a whole number"),
    ({"seconds": -0.1}, "seconds is how long a turn lasts, at least 0"),
    ({"seconds": float("nan")}, "seconds is how long"),
    ({"seconds": "1"}, "seconds is how long"),
    ({"batch_sizes": (1, 0)}, "a batch size is a whole number above zero, not 0"),
    ({"lengths": (2.0,)}, "a length is a whole number above zero, not 2.0"),
    ({"lengths": (100,), "new_tokens": 29}, "reads 128 tokens, fewer than 100 and 29 new ones"),
    ({"inputs": {"input_ids": token_ids()}, "lengths": (8,)}, "for random inputs"),
    ({"inputs": {}}, "names to tensors"),
    ({"inputs": {"input_ids": [[1, 2]]}}, "not {'input_ids': 'list'}"),
    ({"inputs": {"input_ids": torch.zeros(0, 4, dtype=torch.long)}}, r"hold no values: their shape is \(0, 4\)"),
    ({"inputs": []}, "texts that are not empty"),
    ({"inputs": ["a", ""]}, "texts that are not empty"),
    ({"inputs": [1]}, "texts that are not empty"),
]


@pytest.mark.parametrize(("options", "message"), WRONG_NUMBERS)
def test_numbers_and_inputs_that_make_no_sense_are_config_errors(options, message):
    model = tiny_model("llama")
    with pytest.raises(ConfigError, match=message):
        benchmark(model, model, **options)


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        ({"input_ids": torch.full((1, 4), VOCABULARY)}, {}, f"from {VOCABULARY} to {VOCABULARY}.*tokenizer of this"),
        ({"input_ids": torch.full((1, 4), -1)}, {}, "from -1 to -1"),
        (["a good film"], {}, "texts need a tokenizer"),
        (["a good film", "a"], {"tokenizer": words(pad=None)}, "set tokenizer.pad_token"),
    ],
)
def test_inputs_that_do_not_suit_the_models_are_evaluation_errors(inputs, options, message):
    model = tiny_model("llama")
    with pytest.raises(EvaluationError, match=message):
        benchmark(model, model, inputs, **options)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: tiny_model("bert"), "the kind of the reference .* is causal language model.* encoder"),
        (lambda: tiny_model("llama", vocab_size=64), "the vocabulary of the reference .* is 128.* 64"),
    ],
)
def test_models_that_are_not_alike_are_refused(other, message):
    with pytest.raises(EvaluationError, match=message):
        benchmark(tiny_model("llama"), other())


def test_what_is_no_model_is_refused():
    with pytest.raises(UnsupportedModel, match="takes Transformers models, directories and repository ids, not Linear"):
        benchmark(torch.nn.Linear(2, 2), tiny_model("llama"))


def test_no_input_is_made_up_for_an_encoder_and_a_decoder():
    shape = {"d_model": 64, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 4, "vocab_size": 64}
    model = T5ForConditionalGeneration(T5Config(**shape)).eval()
    with pytest.raises(UnsupportedModel, match=r"pass inputs=\{"):
        benchmark(model, model)
    ids = {"input_ids": token_ids() % 64, "decoder_input_ids": token_ids(length=2) % 64}
    assert benchmark(model, model, ids).speed_up("forward", 2, 16).ratio.median > 0


@pytest.mark.parametrize(
    ("source", "options", "kind", "message"),
    [
        ("./no-such-directory", {}, ConfigError, "there is no directory"),
        (None, {"dtype": "float63"}, ConfigError, "did you mean"),
        (None, {"device": "nowhere"}, HfQuantError, "no device 'nowhere' here"),
    ],
)
def test_checkpoints_that_cannot_be_loaded_are_typed_errors(source, options, kind, message, folders):
    with pytest.raises(kind, match=message):
        benchmark(folders[0], source or folders[1], **options)
