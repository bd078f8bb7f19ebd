"""Literal tables: the file behind a name is imported on first use, and a wrong name gets a hint."""

import sys

import pytest

from hf_quant.algorithms import SOLVERS
from hf_quant.errors import ConfigError, HfQuantError, UnknownName
from hf_quant.kernels.dispatch import KERNELS
from hf_quant.registry import Registry, unknown

TABLE = {"fractions": "fractions:Fraction", "absent": "hf_quant.no_such_module:Nothing"}


def test_a_name_gives_the_object_it_was_written_down_for():
    from fractions import Fraction

    assert Registry("number", TABLE)["fractions"] is Fraction


def test_making_and_reading_a_table_imports_nothing(tmp_path, monkeypatch):
    (tmp_path / "imported_on_first_use.py").write_text("VALUE = 7\n")
    monkeypatch.syspath_prepend(tmp_path)
    table = Registry("thing", {"lazy": "imported_on_first_use:VALUE"})
    assert "lazy" in table and list(table) == ["lazy"]
    assert "imported_on_first_use" not in sys.modules
    assert table["lazy"] == 7


def test_an_unknown_name_lists_the_known_and_hints_at_the_nearest():
    with pytest.raises(UnknownName, match=r"no number 'fraction'; did you mean 'fractions'\? Known: fractions, absent"):
        Registry("number", TABLE)["fraction"]


def test_a_name_like_no_other_gets_no_hint():
    assert unknown("number", "zzz", TABLE) == "no number 'zzz'. Known: fractions, absent"


def test_a_row_whose_file_is_missing_is_not_taken_for_an_unknown_name():
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        Registry("number", TABLE)["absent"]


def test_unknown_names_are_config_errors_and_value_errors():
    assert issubclass(UnknownName, ConfigError)
    assert issubclass(ConfigError, HfQuantError) and issubclass(ConfigError, ValueError)


@pytest.mark.parametrize("registry", [KERNELS, SOLVERS], ids=lambda registry: registry.kind)
def test_every_row_of_the_tables_loads(registry):
    for name in registry:
        assert registry[name].__doc__


def test_kernels_are_called_what_the_table_calls_them():
    assert [KERNELS[name]().name for name in KERNELS] == list(KERNELS)
