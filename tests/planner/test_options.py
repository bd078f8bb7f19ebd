from dataclasses import FrozenInstanceError

import pytest
import torch

from hf_quant import Judge, Offer, Recipe, Search
from hf_quant.errors import ConfigError, UnknownName
from hf_quant.planner.offered import SCHEMES
from hf_quant.planner.options import option_groups
from hf_quant.planner.search import OPTIONS, STRATEGIES


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_a_strategy_has_its_own_options_only(name):
    assert Search(name).options == OPTIONS.get(name, {})
    if name in OPTIONS:
        assert Search(name, evaluations=7, seed=2).options == {"evaluations": 7, "seed": 2}
        return
    for option in ("evaluations", "seed"):
        with pytest.raises(
            ConfigError, match=f"{name} has no option {option}, which is one of evolutionary, rl, random"
        ):
            Search(name, **{option: 1})


@pytest.mark.parametrize(
    ("group", "values", "message"),
    [
        (Offer, {"schemes": ()}, "no scheme is offered"),
        (Offer, {"schemes": ("int4",)}, "schemes takes Scheme, not 'int4'"),
        (Offer, {"hardware": "raspberry-pi-50"}, "did you mean 'raspberry-pi-5'"),
        (Offer, {"hardware": "apple-m1", "schemes": (SCHEMES["4 bits"],)}, "such as"),
        (Offer, {"pins": {"lm_head": "int9"}}, "no preset 'int9'"),
        (Offer, {"forbidden": {"lm_head": []}}, "lists no schemes"),
        (Offer, {"pins": ["lm_head"]}, "pins takes"),
        (Offer, {"fused": 1}, "fused takes bool, not 1"),
        (Offer, {"dtype": "float16"}, "dtype takes"),
        (Offer, {"step": 1}, "step takes"),
        (Search, {"strategy": "ipl"}, "did you mean 'ilp'"),
        (Search, {"strategy": "rl", "evaluations": 0}, "evaluations is a whole number from 1 on, not 0"),
        (Search, {"strategy": "rl", "seed": -1}, "seed is a whole number from 0 on, not -1"),
        (Judge, {"measure": "fischer"}, "did you mean 'fisher'"),
        (Judge, {"metric": "acuracy"}, "did you mean 'accuracy'"),
        (Judge, {"measurements": True}, "measurements is a whole number from 0 on, not True"),
        (Judge, {"recipe": "gptq"}, "recipe takes"),
    ],
    ids=str,
)
def test_what_is_wrong_with_an_option_is_told_as_it_is_made(group, values, message):
    with pytest.raises(ConfigError, match=message):
        group(**values)
    with pytest.raises(ConfigError, match=message):
        option_groups(None, None, None, values)


def test_options_are_frozen():
    with pytest.raises(FrozenInstanceError):
        Search().strategy = "rl"


def test_keywords_are_fields_of_the_three():
    pins, recipe = {"lm_head": "int8"}, Recipe(solver="gptq")
    keywords = {"pins": pins, "dtype": torch.float16, "strategy": "rl", "seed": 3, "measurements": 0, "recipe": recipe}
    expected = (Offer(pins=pins, dtype=torch.float16), Search("rl", seed=3), Judge(measurements=0, recipe=recipe))
    assert option_groups(None, None, None, keywords) == expected
    assert option_groups(*expected, keywords) == expected
    assert option_groups({"pins": pins, "dtype": torch.float16}, expected[1], None, {}) == (*expected[:2], Judge())


@pytest.mark.parametrize(
    ("given", "keywords", "message"),
    [
        ((None, None, None), {"stratgy": "rl"}, "no option of search_plan 'stratgy'; did you mean 'strategy'"),
        (({"pin": {}}, None, None), {}, "no key of offer 'pin'; did you mean 'pins'"),
        ((None, Search("rl"), None), {"strategy": "ilp"}, "leave one out|has no option"),
        ((None, Search("rl"), None), {"seed": 5}, "search says seed=0, and beside it is seed=5: leave one out"),
        ((Offer(fused=True), None, None), {"fused": False}, "offer says fused=True"),
        ((None, None, Judge(measurements=2)), {"measure": "kl"}, "judge says measure='fisher'"),
        ((Search(), None, None), {}, r"offer takes Offer\(\.\.\.\), or a dict of schemes"),
    ],
)
def test_what_contradicts_itself_is_refused(given, keywords, message):
    with pytest.raises(ConfigError, match=message):
        option_groups(*given, keywords)


def test_names_that_are_unknown_are_told_as_such():
    with pytest.raises(UnknownName):
        Search("ipl")
