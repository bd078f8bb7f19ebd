"""Results that were measured once are kept, with the machine that measured them, and outlive a kill."""

import json

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.kept import RECORDS, Kept, weights_fingerprint


def never():
    raise AssertionError("measured again")


def test_what_is_known_is_not_measured_again(tmp_path):
    file = tmp_path / "records" / "some.jsonl"
    assert Kept(file, 2).get({"method": "RTN"}, lambda: {"quality": 1.5}) == {"quality": 1.5}
    again = Kept(file, 1)
    assert {"method": "RTN"} in again and {"method": "GPTQ"} not in again
    assert again.get({"method": "RTN"}, never) == {"quality": 1.5}


def test_a_line_that_a_kill_has_cut_off_is_passed_over_and_what_follows_is_kept(tmp_path):
    file = tmp_path / "some.jsonl"
    Kept(file, 1).get({"method": "RTN"}, lambda: 1)
    with file.open("a") as stream:
        stream.write('\n{"cell": {"method": "GP')
    Kept(file, 1).get({"method": "AWQ"}, lambda: 2)
    kept = Kept(file, 1)
    assert [kept.get({"method": name}, never) for name in ("RTN", "AWQ")] == [1, 2]


@pytest.mark.parametrize("file", sorted(RECORDS.glob("*.jsonl")), ids=lambda file: file.stem)
def test_every_line_of_the_committed_records_is_read(file):
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line]
    assert all({*json.loads(line)} == {"cell", "result", "machine"} for line in lines)
    assert len(Kept(file, 1).results) == len(lines), "a cell is there twice"


def test_each_result_tells_the_machine_that_measured_it(tmp_path):
    file, cells = tmp_path / "some.jsonl", [{"method": "RTN"}, {"method": "AWQ"}]
    for threads, cell in enumerate(cells, 1):
        Kept(file, threads).get(cell, lambda: 0)
    kept = Kept(file, 4)
    assert kept.measured_on(cells[:1]).endswith(", 1 thread")
    assert kept.measured_on(cells).count(";") == 1 and "2 threads" in kept.measured_on(cells)


def test_a_model_that_was_trained_anew_is_another(tmp_path):
    prints = set()
    for value in (0.0, 1.0, 0.0):
        save_file({"weight": torch.full((4,), value)}, tmp_path / "model.safetensors")
        prints.add(weights_fingerprint(tmp_path))
    assert len(prints) == 2 and all(len(each) == 16 for each in prints)
