"""What is timed is what a user runs: the same tokens, one step per token, and no more."""

import pytest
import torch
from transformers import BertModel

from hf_quant.evaluation.latency import DECODE, FORWARD, PREFILL, Gauge, forward_turn, generation_turn
from tests.integration.tiny import FAMILIES, tiny_model, token_ids

GAUGE = Gauge(torch.device("cpu"))


class Listening:
    """Notes the tokens that a model is called with."""

    def __init__(self, model):
        self.calls = []
        model.register_forward_pre_hook(self.note, with_kwargs=True)

    def note(self, module, arguments, options):
        self.calls.append(options["input_ids"].clone())


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("masked", [False, True])
def test_a_timed_generation_chooses_the_tokens_that_generate_chooses(family, masked):
    model, ids = tiny_model(family), token_ids(rows=2, length=9)
    mask = torch.ones_like(ids)
    expected = model.generate(ids, attention_mask=mask, max_new_tokens=6, min_new_tokens=6, do_sample=False)
    heard = Listening(model)
    inputs = {"input_ids": ids, **({"attention_mask": mask} if masked else {})}
    samples = generation_turn(model, inputs, GAUGE, 0.0, 6)
    assert torch.equal(torch.cat(heard.calls, dim=1), expected[:, :-1])
    assert len(samples[PREFILL].seconds) == 1 and len(samples[DECODE].seconds) == 5


def test_the_first_token_alone_has_no_steps_after_it():
    samples = generation_turn(tiny_model("llama"), {"input_ids": token_ids()}, GAUGE, 0.0, 1)
    assert set(samples) == {PREFILL}


@pytest.mark.parametrize("at_least", [0.0, 0.1])
def test_a_turn_lasts_as_long_as_it_should_and_calls_once_at_least(at_least):
    model = tiny_model("bert", BertModel)
    samples = forward_turn(model, {"input_ids": token_ids()}, GAUGE, at_least)[FORWARD]
    assert len(samples.seconds) >= 1 and sum(samples.seconds) >= 0.5 * at_least
    assert all(seconds > 0 for seconds in samples.seconds)


def test_generations_go_on_for_as_long_as_a_turn_lasts():
    samples = generation_turn(tiny_model("gpt2"), {"input_ids": token_ids()}, GAUGE, 0.1, 3)
    assert len(samples[DECODE].seconds) == 2 * len(samples[PREFILL].seconds) > 2


def test_processor_time_is_about_wall_time_on_one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        samples = forward_turn(tiny_model("bert"), {"input_ids": token_ids(8, 100)}, GAUGE, 0.2)[FORWARD]
    finally:
        torch.set_num_threads(threads)
    assert 0 < samples.cpu_seconds <= 1.5 * sum(samples.seconds) + 0.05


class Counter:
    """A meter that counts ten joules at each reading."""

    name = "test"

    def __init__(self):
        self.read_count = 0

    def read(self):
        self.read_count += 1
        return [self.read_count]

    def joules(self, start, end):
        return 10.0 * (end[0] - start[0])


def test_joules_are_those_between_the_begin_and_the_end_of_the_calls():
    gauge = Gauge(torch.device("cpu"))
    gauge.meter = Counter()
    samples = generation_turn(tiny_model("gpt2"), {"input_ids": token_ids()}, gauge, 0.0, 4)
    assert samples[PREFILL].joules == samples[DECODE].joules == 10.0


def test_without_a_meter_no_joules_are_claimed():
    gauge = Gauge(torch.device("cpu"))
    gauge.meter = None
    assert forward_turn(tiny_model("bert"), {"input_ids": token_ids()}, gauge, 0.0)[FORWARD].joules is None


@pytest.mark.parametrize("family", FAMILIES)
def test_a_timed_model_keeps_no_gradients(family):
    seen = []
    model = tiny_model(family)
    model.register_forward_hook(lambda module, arguments, output: seen.append(output.logits.requires_grad))
    forward_turn(model, {"input_ids": token_ids()}, GAUGE, 0.0)
    assert seen == [False]
