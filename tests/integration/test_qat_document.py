"""What docs/qat.md shows runs as it stands there, and the options that it lists are those there are."""

import inspect
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from hf_quant import Distillation, QATCallback
from hf_quant.qat.options import CHOICES
from hf_quant.qat.schedule import Schedule
from tests.integration.tiny import tiny_model

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "qat.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL), ids=lambda code: code[:12])
def test_examples_run(code, tmp_path):
    tiny_model("llama").save_pretrained(tmp_path / "your" / "model")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_options_and_choices_are_those_there_are():
    rows = re.findall(r"^\| (?:`(\w+)` )?\| `\"(\w+)\"` \|", TEXT, re.MULTILINE)
    listed, option = {}, None
    for name, choice in rows:
        option = name or option
        listed.setdefault(option, []).append(choice)
    assert {option: tuple(choices) for option, choices in listed.items()} == CHOICES
    given = {name: default for name, default in re.findall(r"^\| `(\w+)=([^`]+)`", TEXT, re.MULTILINE)}
    settings = {field.name: str(field.default) for field in fields(Distillation)}
    assert {name: default for name, default in given.items() if name in settings} == settings
    schedule = set(given) - set(settings)
    assert schedule == {field.name for field in fields(Schedule)} < set(inspect.signature(QATCallback).parameters)
