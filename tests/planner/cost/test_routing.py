"""How many experts are called is known from what routers hand on, without running a model."""

import copy
import logging

import pytest
import torch
from transformers import GptOssConfig, GptOssForCausalLM

import hf_quant
from hf_quant.config.plan import Plan
from hf_quant.opening.open import opened
from hf_quant.planner.cost.latency import Pass, predict_latency
from hf_quant.planner.cost.routing import Routing, routing_of, routings
from tests.planner.cost.tables import INT8, formula, table
from tests.planner.mixtures import SIZES, experts_of, mixture

KERNELS = table()


def of(model):
    with opened(model):
        return set(routings(model).values())


def test_one_token_calls_the_experts_it_goes_to_and_many_tokens_call_all():
    routing = Routing(experts=8, chosen=2)
    assert routing.calls(1) == pytest.approx(2) and routing.rows_of_call(1) == 1
    assert routing.calls(4096) == pytest.approx(8) and routing.rows_of_call(4096) == 1024
    assert 2 < routing.calls(2) < 4, "two tokens may go to the same"
    assert Routing(4, 4).calls(1) == 4 and Routing(4, 4).rows_of_call(5) == 5


def test_the_mean_number_of_experts_called_is_that_of_independent_tokens():
    routing, generator = Routing(experts=8, chosen=2), torch.Generator().manual_seed(0)
    draws = [torch.rand(5, 8, generator=generator).topk(2).indices.unique().numel() for _ in range(2000)]
    assert routing.calls(5) == pytest.approx(sum(draws) / len(draws), rel=0.02)


def test_the_number_a_token_goes_to_is_seen_whatever_the_config_calls_it():
    assert of(mixture("mixtral", num_experts_per_tok=3)) == {Routing(4, 3)}
    assert of(mixture("qwen3-moe", num_experts_per_tok=1)) == {Routing(8, 1)}
    sizes = {**SIZES, "num_local_experts": 4, "num_experts_per_tok": 2}
    assert of(GptOssForCausalLM(GptOssConfig(**sizes))) == {Routing(4, 2)}
    with torch.device("meta"):
        assert of(mixture("qwen3-moe")) == {Routing(8, 2)}


def test_looking_at_the_routing_draws_no_random_numbers():
    state = torch.get_rng_state()
    model = mixture()
    torch.set_rng_state(state)
    of(model)
    assert torch.equal(torch.get_rng_state(), state)


def test_linears_are_routed_by_the_module_that_holds_their_expert():
    routed = {"layers.0.experts": Routing(4, 2)}
    assert routing_of("layers.0.experts.3.up_proj", routed) == Routing(4, 2)
    assert routing_of("layers.0.shared_expert.up_proj", routed) is None


def test_experts_whose_routing_cannot_be_seen_count_for_every_token_with_a_warning(caplog):
    model = mixture()
    model.config = copy.deepcopy(model.config)
    model.config.hidden_act = "no such function"  # so that no model can be made
    with caplog.at_level(logging.WARNING):
        assert of(model) == {Routing(4, 4)}
    assert "model.layers.0.mlp.experts" in caplog.text and "2 of 2" in caplog.text


def test_decoding_reads_the_experts_of_one_token_and_a_prompt_all_of_them():
    found = {count: mixture(num_experts_per_tok=count) for count in (2, 4)}
    for tokens in (1, 64):
        few, all_of_them = (predict_latency(found[count], KERNELS, Pass(tokens=tokens)).linears for count in (2, 4))
        assert few < all_of_them
        calls, rows = (2, 1) if tokens == 1 else (4, 32)
        difference = 2 * 3 * (4 * formula(None, 64, 128, tokens) - calls * formula(None, 64, 128, rows))
        assert all_of_them - few == pytest.approx(difference)


def test_a_quantized_mixture_takes_what_its_plan_was_predicted_to():
    plan = Plan(
        {name: INT8 for layer in range(2) for part in ("gate_proj", "down_proj") for name in experts_of(layer, part)}
    )
    step = Pass(tokens=4)
    predicted = predict_latency(mixture(), KERNELS, step, plan)
    quantized = hf_quant.quantize(mixture(), hf_quant.HfQuantConfig(plan=plan), progress=False)
    assert predict_latency(quantized, KERNELS, step) == predicted
