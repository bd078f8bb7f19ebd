"""What this package extends in others is there, and nothing is extended that the list does not name."""

import re
from importlib import import_module
from pathlib import Path

import pytest

import hf_quant
from hf_quant.extending.borrowed import BORROWED

PACKAGE = Path(hf_quant.__file__).parent


@pytest.mark.parametrize("entry", BORROWED, ids=lambda entry: entry.name)
def test_what_is_borrowed_is_there_and_used_where_the_list_says(entry):
    module, path = entry.name.split(":")
    found = import_module(module)
    for attribute in path.split("."):
        found = getattr(found, attribute)
    assert found is not None
    text = (PACKAGE / entry.used_in).read_text()
    name = path.split(".")[-1]
    assert name in text or module in text or name in ("FSDPParam", "jit_ignored_properties")


def test_every_method_of_another_class_that_is_replaced_is_listed():
    listed = {entry.name.split(":")[1].split(".")[-1] for entry in BORROWED if entry.is_extended}
    replaced = set()
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        replaced |= set(re.findall(r"^\s+(?:trainer_class|LoraModel|auto)\.(\w+) = ", text, re.M))
    assert replaced and replaced <= listed
    from hf_quant.integration.extend import EXTENSIONS

    assert set(EXTENSIONS) <= listed
