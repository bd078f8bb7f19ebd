"""A kernel table comes back from disk as it was, and one that cannot have been measured is refused."""

import json
import math

import pytest

from hf_quant.errors import ConfigError
from hf_quant.planner.cost.table import KernelTable
from hf_quant.planner.cost.table_file import cached_file, cached_table, read_table, this_machine, write_table
from tests.planner.cost.tables import LLAMA, LLAMA_FLOAT, table


def test_a_table_is_the_same_after_a_round_trip(tmp_path):
    written = table([LLAMA, LLAMA_FLOAT])
    write_table(written, tmp_path / "kernels.json")
    assert read_table(tmp_path / "kernels.json") == written
    assert list(tmp_path.iterdir()) == [tmp_path / "kernels.json"], "nothing of the staging is left"


def hostile(change):
    values = json.loads(json.dumps(table([LLAMA]).to_dict()))
    change(values)
    return values


HOSTILE = {
    "NaN": lambda values: values["cells"][0].update(milliseconds=math.nan),
    "infinity": lambda values: values["cells"][0].update(high=math.inf),
    "a negative time": lambda values: values["cells"][0].update(milliseconds=-1.0, low=-2.0),
    "a time of nothing": lambda values: values["cells"][0].update(low=0.0),
    "a time in words": lambda values: values["cells"][0].update(milliseconds="fast"),
    "quartiles in another order": lambda values: values["cells"][0].update(low=9.0),
    "a shape of nothing": lambda values: values["cells"][0].update(inputs=0),
    "a shape that is no integer": lambda values: values["cells"][0].update(outputs=64.0),
    "true for tokens": lambda values: values["cells"][0].update(tokens=True),
    "an unknown key": lambda values: values["cells"][0].update(flops=1),
    "a missing key": lambda values: values["cells"][0].pop("kernel"),
    "a cell twice": lambda values: values["cells"].append(values["cells"][0]),
    "a scheme that is not there": lambda values: values["cells"][0].update(scheme="int9"),
    "a scheme of 9 bits": lambda values: next(iter(values["schemes"].values()))["weight"].update(bits=9),
    "another version": lambda values: values.update(table_version=1),
    "no version": lambda values: values.pop("table_version"),
    "true for a version": lambda values: values.update(table_version=True),
    "no cells": lambda values: values.update(cells=[]),
    "cells that are no list": lambda values: values.update(cells=3),
    "a rate of NaN": lambda values: values.update(read=math.nan),
    "an overhead of NaN": lambda values: values["overheads"][0].update(block=math.nan),
    "no machine": lambda values: values.pop("machine"),
    "no threads": lambda values: values["machine"].update(threads=0),
    "busy below 0": lambda values: values.update(busy=-1),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_a_table_that_cannot_have_been_measured_is_refused_with_what_to_do(change):
    with pytest.raises(ConfigError) as caught:
        KernelTable.from_dict(hostile(change))
    assert "--measure" in str(caught.value) or "no 9-bit" in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 100_000, '{"table_version": 1}'])
def test_a_file_that_is_no_table_is_refused_by_name(text, tmp_path):
    file = tmp_path / "kernels.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"kernels\.json"):
        read_table(file)


def test_the_cache_is_by_machine_and_a_broken_one_counts_as_none(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_QUANT_CACHE", str(tmp_path))
    here = this_machine()
    assert cached_table() is None
    assert cached_file(here) != cached_file(table().machine)
    assert cached_file(here) != cached_file(here, quick=True)
    write_table(table(), cached_file(here))
    assert cached_table() is None, "what lies there is another machine's"
    cached_file(here).write_text("{")
    assert cached_table() is None
