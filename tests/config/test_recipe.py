import pytest

from hf_quant import HfQuantConfig, Recipe, Scheme, TensorScheme
from hf_quant.config.plan import Plan
from hf_quant.errors import ConfigError
from hf_quant.quantizing.algorithms import algorithms_of

W3 = Scheme(TensorScheme(bits=3, symmetric=False, granularity="group"))
WHOLE = {
    "preset": "int8-static",
    "overrides": {"*.down_proj": "int8", "model.layers.0.*": None},
    "rotation": 0,
    "modules_to_not_convert": ["lm_head"],
    "transforms": ["awq", {"smoothquant": {"alpha": 0.7}}],
    "solver": {"gptq": {"damping": 0.05}},
    "observer": "mse",
    "bias_correction": True,
    "calibration": {"samples": 64, "sequence_length": 256},
}


def test_a_recipe_survives_its_dict_and_its_file(tmp_path):
    recipe = Recipe.from_dict(WHOLE)
    assert recipe.transforms == (("awq", {}), ("smoothquant", {"alpha": 0.7}))
    assert Recipe.from_dict(recipe.to_dict()) == recipe == Recipe(**WHOLE)
    (tmp_path / "recipe.yaml").write_text(
        "preset: int8-static\noverrides: {'*.down_proj': int8, model.layers.0.*: null}\nrotation: 0\n"
        "modules_to_not_convert: [lm_head]\ntransforms:\n  - awq\n  - smoothquant: {alpha: 0.7}\n"
        "solver:\n  gptq: {damping: 0.05}\nobserver: mse\nbias_correction: true\n"
        "calibration: {samples: 64, sequence_length: 256}\n"
    )
    assert Recipe.from_file(str(tmp_path / "recipe.yaml")) == recipe


def test_a_scheme_may_take_the_place_of_a_preset():
    recipe = Recipe.from_dict({"scheme": W3.to_dict(), "solver": "gptq"})
    assert recipe.scheme == W3 and recipe.solver == ("gptq", {})
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    with pytest.raises(ConfigError, match="exactly one of preset, scheme and plan; got preset, scheme"):
        Recipe(preset="int4", scheme=W3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"preset": "int4", "slover": "gptq"}, "no recipe key 'slover'; did you mean 'solver'?"),
        ({"preset": "int44"}, "no preset 'int44'; did you mean 'int4'?"),
        ({"preset": "int4", "calibration": {"sample": 3}}, "did you mean 'samples'?"),
        ({"preset": "int4", "calibration": 3}, "calibration of a recipe is written as keys and values"),
        ({"preset": "int4", "overrides": ["x"]}, "overrides takes a dict"),
        ({"preset": "int4", "transforms": "awq"}, "transforms of a recipe is a list"),
        (
            {"preset": "int4", "modules_to_not_convert": "lm_head"},
            "modules_to_not_convert takes a list of module names",
        ),
        ({"preset": "int4", "solver": {"gptq": {}, "mse": {}}}, "solver of a recipe takes a name"),
        ({"preset": "int4", "solver": {"gptq": "fast"}}, "solver of a recipe takes a name"),
        ({"preset": "int4", "observer": 3}, "observer of a recipe takes a name"),
        ({"preset": "int4", "bias_correction": "yes"}, "bias_correction is true or false"),
        ({"scheme": 3}, "takes a Scheme"),
        ({"scheme": {"weight": {"bitz": 3}}}, "did you mean 'bits'?"),
        ("int4", "a recipe is written as keys and values"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_named(values, message):
    with pytest.raises(ConfigError) as error:
        Recipe.from_dict(values)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"solver": "gtpq"}, "no solver 'gtpq'; did you mean 'gptq'?"),
        ({"solver": "sign-round"}, "no solver 'sign-round'; did you mean 'signround'?"),
        ({"transforms": ["smoothqant"]}, "no transform 'smoothqant'; did you mean 'smoothquant'?"),
        ({"observer": "percentil"}, "no observer 'percentil'; did you mean 'percentile'?"),
        ({"solver": {"gptq": {"dampin": 0.1}}}, "no option of solver 'gptq' 'dampin'; did you mean 'damping'?"),
        ({"solver": {"signround": {"step": 9}}}, "no option of signround 'step'; did you mean 'steps'?"),
        ({"solver": {"rtn": {"steps": 9}}}, "no option of solver 'rtn' 'steps'"),
        ({"transforms": [{"smoothquant": {"alfa": 1}}]}, "did you mean 'alpha'?"),
        ({"transforms": [{"awq": {"alpha": 1}}]}, "no option of transform 'awq' 'alpha'"),
        ({"observer": {"percentile": {"percentil": 99.0}}}, "did you mean 'percentile'?"),
        ({"observer": {"minmax": {"granularity": "channel"}}}, "no option of observer 'minmax' 'granularity'"),
        ({"observer": {"percentile": {"percentile": 101.0}}}, "percentile must be above 0 and at most 100"),
        ({"solver": {"gptq": {"grid": "msq"}}}, "no grid 'msq'; did you mean 'mse'?"),
        ({"solver": {"signround": {"steps": 0}}}, "steps must be a positive integer"),
    ],
)
def test_what_is_wrong_with_an_algorithm_is_named(values, message):
    with pytest.raises(ConfigError) as error:
        algorithms_of(Recipe(preset="int4", **values))
    assert message in str(error.value)


@pytest.mark.parametrize("text", ["", "- int4", "preset: [", "preset: int4\nslover: gptq", "\x00"])
def test_errors_in_a_file_name_the_file(tmp_path, text):
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"recipe\.yaml"):
        Recipe.from_file(tmp_path / "recipe.yaml")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing\.yaml cannot be read"):
        Recipe.from_file(tmp_path / "nothing.yaml")


def test_a_recipe_file_cannot_run_code(tmp_path):
    (tmp_path / "recipe.yaml").write_text("preset: !!python/object/apply:os.getcwd []")
    with pytest.raises(ConfigError, match="cannot be read as a recipe"):
        Recipe.from_file(tmp_path / "recipe.yaml")


def test_a_config_adopts_what_its_recipe_says():
    config = HfQuantConfig.from_recipe(WHOLE)
    assert config == HfQuantConfig(recipe=WHOLE) == HfQuantConfig("int8-static", recipe=Recipe(**WHOLE))
    assert config.preset == "int8-static" and config.rotation == 0
    assert config.overrides == WHOLE["overrides"] and config.modules_to_not_convert == ["lm_head"]
    assert HfQuantConfig(**config.to_dict()) == config
    assert HfQuantConfig(recipe={"scheme": W3.to_dict(), "solver": "gptq"}).scheme == W3


def test_a_recipe_may_be_of_a_plan(tmp_path):
    plan = Plan({"*.down_proj": W3, "lm_head": None})
    recipe = Recipe(plan=plan, solver="gptq", modules_to_not_convert=["model.layers.0"])
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    (tmp_path / "recipe.yaml").write_text(
        "plan:\n  format_version: 1\n  schemes: {few: {weight: {bits: 3, symmetric: false, granularity: group}}}\n"
        "  modules: {'*.down_proj': few, lm_head: float}\nsolver: gptq\nmodules_to_not_convert: [model.layers.0]\n"
    )
    assert Recipe.from_file(tmp_path / "recipe.yaml") == recipe
    config = HfQuantConfig.from_recipe(recipe)
    assert config.plan == plan and HfQuantConfig(**config.to_dict()) == config
    with pytest.raises(ConfigError, match="got preset, plan"):
        HfQuantConfig("int4", recipe=recipe)
    with pytest.raises(ConfigError, match="the recipe says plan"):
        HfQuantConfig(plan=Plan({"*": W3}), recipe=recipe)


def test_a_recipe_may_leave_preset_and_scheme_to_the_config():
    assert HfQuantConfig("int4", recipe={"solver": "gptq"}).preset == "int4"
    assert HfQuantConfig(plan=Plan({"*": W3}), recipe={"solver": "gptq"}).recipe.solver == ("gptq", {})
    with pytest.raises(ConfigError, match="exactly one of preset, scheme and plan; got none"):
        HfQuantConfig(recipe={"solver": "gptq"})


@pytest.mark.parametrize(
    "own", [{"preset": "int4"}, {"overrides": {"*": "int4"}}, {"rotation": 64}, {"modules_to_not_convert": ["other"]}]
)
def test_a_config_that_contradicts_its_recipe_is_refused(own):
    with pytest.raises(ConfigError, match=f"the recipe says {next(iter(own))} .*leave one of them out"):
        HfQuantConfig(**own, recipe=WHOLE)
