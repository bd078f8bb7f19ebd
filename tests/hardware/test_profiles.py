"""Every profile of the table keeps to what a profile promises."""

import ast
import math
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

import hf_quant.hardware.profiles as profiles
from hf_quant.config.presets import PRESETS
from hf_quant.errors import ConfigError, UnknownName
from hf_quant.hardware.profile import KINDS, Figure
from hf_quant.hardware.profiles import PROFILES, get_profile

FILES = sorted(path.stem for path in Path(profiles.__file__).parent.glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("name", list(PROFILES))
def test_a_profile_names_itself_and_presets_that_there_are(name):
    profile = get_profile(name)
    assert profile.name == name
    assert set(profile.schemes) <= set(PRESETS)
    assert set(profile.fast) <= set(profile.schemes)
    assert profile.preferred in profile.schemes
    assert profile.device in ("cpu", "cuda", "mps")
    assert profile.alignment & (profile.alignment - 1) == 0, "a power of two"


@pytest.mark.parametrize("name", list(PROFILES))
def test_every_figure_says_where_it_is_from_and_only_the_host_was_measured(name):
    for figure in filter(None, get_profile(name).figures().values()):
        assert math.isfinite(figure.value) and figure.source
        assert figure.kind == ("measured" if name == "host" else "published")


@pytest.mark.parametrize("name", list(PROFILES))
def test_narrow_formats_are_not_slower_than_wide_ones(name):
    profile = get_profile(name)
    rates = [figure.value for figure in (profile.fp32, profile.fp16, profile.int8) if figure is not None]
    assert rates == sorted(rates)


def test_each_profile_has_a_file_and_each_file_a_profile():
    assert sorted(name.replace("-", "_") for name in PROFILES) == FILES


@pytest.mark.parametrize("file", FILES)
def test_a_file_holds_one_function_called_profile(file):
    tree = ast.parse((Path(profiles.__file__).parent / f"{file}.py").read_text(encoding="utf-8"))
    assert [node.name for node in tree.body if isinstance(node, ast.FunctionDef)] == ["profile"]


def test_the_host_has_the_memory_that_the_system_counts():
    assert get_profile("host").memory.value == psutil.virtual_memory().total


def test_hardware_without_16_bit_floats_does_not_offer_them():
    assert "bf16" not in get_profile("nvidia-sm75").schemes
    assert get_profile("raspberry-pi-4").fp16 is None
    assert get_profile("apple-m1").per_channel


def test_a_name_that_is_near_is_suggested_and_all_are_listed():
    with pytest.raises(UnknownName, match="did you mean 'raspberry-pi-5'") as caught:
        get_profile("rasberry-pi5")
    assert all(name in str(caught.value) for name in PROFILES)


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, True, "17 GB/s", None])
def test_a_figure_that_is_no_rate_is_refused(value):
    with pytest.raises(ConfigError, match="above 0"):
        Figure(value, "published", "a data sheet")


def test_a_figure_without_a_source_or_of_another_kind_is_refused():
    assert KINDS == ("published", "measured")
    with pytest.raises(ConfigError, match="source"):
        Figure(1.0, "published", "")
    with pytest.raises(ConfigError, match="published or measured"):
        Figure(1.0, "guessed", "someone")


def test_a_profile_that_contradicts_itself_is_refused():
    profile = get_profile("apple-m2")
    with pytest.raises(ConfigError, match="int4 must be among its schemes"):
        replace(profile, fast=("int4",))
    with pytest.raises(ConfigError, match="alignment"):
        replace(profile, alignment=0)
