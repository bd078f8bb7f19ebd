import copy
import pickle

import pytest

from hf_quant import HfQuantConfig, Plan, Recipe, Scheme, TensorScheme, TrainingRecipe
from hf_quant.config.plan import Candidate
from hf_quant.config.presets import PRESETS
from hf_quant.config.request import Request
from hf_quant.errors import ConfigError, PlanError, UnknownName
from hf_quant.workflows.training.arguments import quantization_of

W3 = Scheme(TensorScheme(bits=3, symmetric=False, granularity="group"))
MODULES = {"up": Candidate("linear", 64), "down": Candidate("linear", 64), "head": Candidate("head", 64)}
REQUESTS = [
    {"preset": "int4"},
    {"preset": "int4", "overrides": {"down": "int8", "up": W3, "head": None}, "rotation": 0},
    {"scheme": W3, "rotation": 32, "modules_to_not_convert": ("head",)},
    {"plan": Plan({"*": W3, "head": None}), "modules_to_not_convert": ("up",)},
]


@pytest.mark.parametrize("values", REQUESTS, ids=str)
def test_a_request_survives_its_dict_and_copies(values):
    request = Request(**values)
    assert request.asked() == values
    assert (
        Request.from_dict(request.to_dict()) == pickle.loads(pickle.dumps(request)) == copy.deepcopy(request) == request
    )


@pytest.mark.parametrize("values", REQUESTS, ids=str)
def test_config_recipe_and_training_recipe_ask_for_the_same(values):
    plan = Request(**values).requested_plan(MODULES)
    configs = (
        HfQuantConfig(**values),
        HfQuantConfig.from_recipe(Recipe(**values)),
        quantization_of(TrainingRecipe(**values)),
    )
    for config in configs:
        assert config.request == Request(**values) and config.requested_plan(MODULES) == plan
        assert HfQuantConfig(**config.to_dict()) == config


def test_a_requested_plan_names_every_module_with_exceptions_on_top():
    plan = Request("int8", overrides={"*": W3, "up": None}, rotation=0).requested_plan(MODULES)
    assert plan.modules["up"] is None and plan.modules["down"].weight.bits == 3
    assert Request("int8", rotation=0).requested_plan(MODULES).modules["up"].weight.rotation is None
    assert Request("int8").requested_plan(MODULES).modules["up"] == PRESETS["int8"].linear
    assert Request(plan=Plan({"up": W3})).requested_plan(MODULES).modules.keys() == {"up"}
    with pytest.raises(PlanError, match="'upp' matches no module; nearest: up"):
        Request("int8", overrides={"upp": None}).requested_plan(MODULES)


@pytest.mark.parametrize(
    ("values", "message", "error"),
    [
        ({"preset": "int4", "scheme": W3}, "exactly one of preset, scheme and plan; got preset, scheme", ConfigError),
        ({"preset": "int4", "plan": Plan({})}, "exactly one of preset, scheme and plan; got preset, plan", ConfigError),
        ({"preset": "int44"}, "did you mean 'int4'?", UnknownName),
        ({"preset": 4}, "preset is a name", ConfigError),
        ({"scheme": "int4"}, "scheme takes a Scheme", ConfigError),
        ({"plan": "int4"}, "plan takes a Plan", ConfigError),
        ({"plan": Plan({}), "overrides": {"*": None}}, "write the exceptions into the plan", ConfigError),
        ({"plan": Plan({}), "rotation": 0}, "write the exceptions into the plan", ConfigError),
        ({"preset": "int8", "rotation": 63}, "rotation", ConfigError),
        ({"preset": "int8", "rotation": False}, "rotation", ConfigError),
        ({"preset": "int8", "overrides": {"*": 8}}, "takes a preset's name", ConfigError),
        ({"preset": "int8", "modules_to_not_convert": "lm_head"}, "takes a list of module names", ConfigError),
        ({"preset": "int8", "module_to_not_convert": []}, "did you mean 'modules_to_not_convert'?", ConfigError),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [Request, Recipe, TrainingRecipe])
def test_what_is_wrong_with_a_request_is_named_wherever_it_is_said(kind, values, message, error):
    with pytest.raises(error) as caught:
        kind.from_dict(values)
    assert message in str(caught.value)


def test_a_request_of_nothing_cannot_be_carried_out():
    with pytest.raises(ConfigError, match="exactly one of preset, scheme and plan; got none"):
        Request(overrides={"*": "int8"}).requested_plan(MODULES)


def test_a_preset_in_an_override_is_fitted_to_the_modules_that_it_is_for_alone():
    # The head's scheme in w4a16 is rotated by 64, which does not divide the other's width.
    candidates = {"layer": Candidate("linear", 72), "head": Candidate("head", 64)}
    plan = Request(preset="w8a16", overrides={"layer": "w4a16"}).requested_plan(candidates)
    assert plan.modules["layer"].weight.bits == 4 and plan.modules["head"].weight.rotation == 64
