"""Mixtures of experts are planned with their experts, all of a layer alike, and left as they were."""

import pytest

from hf_quant import Offer, optimize_for, search_plan
from hf_quant.config.plan import Plan
from hf_quant.config.presets import PRESETS
from hf_quant.errors import CalibrationError, ConfigError, InfeasibleBudget, PlanError
from hf_quant.opening.open import opened
from hf_quant.planner.build import build_problem
from hf_quant.planner.cost.activations import activation_bytes
from hf_quant.planner.cost.disk import DiskCosts, plan_bytes
from hf_quant.planner.cost.latency import LatencyCosts, Pass, linears, predict_latency
from hf_quant.planner.groups import fusion_groups
from hf_quant.planner.offered import SCHEMES
from hf_quant.planner.sensitivity import MEASURES
from hf_quant.planner.sensitivity.analysis import analyse
from hf_quant.workflows.plan import search_space
from tests.integration.tiny import token_ids
from tests.naming import naming
from tests.planner.cost.tables import table
from tests.planner.mixtures import MIXTURES, PARTS, Untouched, experts_of, mixture

INT8 = PRESETS["int8"].linear
EXPERT = experts_of(0, "gate_proj")[3]
ROWS = [{"input_ids": token_ids(rows=2, length=12)}]
KERNELS = table()

ENTRIES = {
    "search_space": lambda model: {n for u in search_space(model, ["50%"], Offer()).problem().units for n in u.modules},
    "optimize_for": lambda model: optimize_for(model, "raspberry-pi-5").modules,
    "DiskCosts": lambda model: DiskCosts(model).candidates,
    "LatencyCosts": lambda model: LatencyCosts(model, KERNELS, Pass()).linears,
    "linears": lambda model: {linear.name for linear in linears(model)},
}
"""What takes a float model, and the modules that it knows."""

FIGURES = {
    "plan_bytes": lambda model, plan: plan_bytes(model, plan),
    "predict_latency": lambda model, plan: predict_latency(model, KERNELS, Pass(tokens=64), plan).total,
}


def test_whatever_takes_a_float_model_knows_its_experts_and_leaves_it_as_it_was():
    model = mixture()
    for name, entry in ENTRIES.items():
        with naming(name), Untouched(model):
            assert EXPERT in entry(model)
    for name, figure in FIGURES.items():
        with naming(name), Untouched(model):
            assert figure(model, Plan({"*.experts.*": INT8})) < figure(model, Plan({}))
    with Untouched(model):
        assert activation_bytes(model, 8) > 0


@pytest.mark.parametrize("measure", list(MEASURES))
def test_measures_leave_a_mixture_as_it_was(measure):
    model = mixture()
    model.model.layers[0].train()
    with Untouched(model):
        found = analyse(model, ROWS, (SCHEMES["3 bits"],), measure, progress=False)
    shared = {experts_of(layer, part)[0] for layer in range(2) for part in PARTS}
    assert {name for name in found.modules if ".experts." in name} == shared
    assert sum(abs(found.loss(name, SCHEMES["3 bits"])) for name in shared) > 0


@pytest.mark.parametrize(
    ("work", "error"),
    [
        (lambda model: search_plan(model, ROWS, "1kB", progress=False), InfeasibleBudget),
        (lambda model: search_plan(model, [{"input_ids": ROWS[0]["input_ids"][:1]}], "50%"), CalibrationError),
        (lambda model: analyse(model, [], (SCHEMES["3 bits"],)), CalibrationError),
        (lambda model: plan_bytes(model, Plan({"*.experts.9.*": INT8})), PlanError),
        (lambda model: optimize_for(model, "raspberry-pi-5", "beauty"), ConfigError),
    ],
)
def test_a_mixture_is_as_it_was_after_an_error(work, error):
    model = mixture()
    with Untouched(model), pytest.raises(error):
        work(model)


@pytest.mark.parametrize("name", MIXTURES)
def test_all_experts_of_a_layer_share_one_choice_for_each_linear(name):
    units = search_space(mixture(name), ["50%"], Offer()).problem().units
    found = {unit.modules for unit in units if ".experts." in unit.name}
    assert found == {tuple(experts_of(layer, part, name)) for layer in range(2) for part in PARTS}


def test_fused_gate_and_up_of_all_experts_share_one_choice():
    model = mixture()
    with opened(model):
        costs = DiskCosts(model)
        groups = fusion_groups(model, {"input_ids": ROWS[0]["input_ids"][:1, :1]}, costs.inventory)
    units = build_problem(costs, None, [INT8], groups=groups).units
    assert {frozenset(unit.modules) for unit in units if ".experts." in unit.name} == {
        frozenset(name for part in parts for name in experts_of(layer, part))
        for layer in range(2)
        for parts in (("gate_proj", "up_proj"), ("down_proj",))
    }, "one token is enough, though it goes to two experts"


def test_the_pin_of_one_expert_is_one_of_all_and_two_that_differ_contradict_each_other():
    def options(pins):
        units = search_space(mixture(), ["60%"], Offer(pins=pins)).problem().units
        return [option.name for unit in units if EXPERT in unit.modules for option in unit.options]

    assert options({EXPERT: "int8"}) == [str(INT8)]
    with pytest.raises(PlanError, match="share one choice"):
        options({EXPERT: "int8", experts_of(0, "gate_proj")[1]: "int4"})


@pytest.mark.parametrize("name", MIXTURES)
def test_rules_give_all_experts_what_linears_of_their_width_get(name):
    plan = optimize_for(mixture(name), "raspberry-pi-5").modules
    for layer in range(2):
        for part in PARTS:
            assert len({plan[expert] for expert in experts_of(layer, part, name)}) == 1
    assert plan[experts_of(0, "gate_proj", name)[0]] == plan["model.layers.0.self_attn.q_proj"]
