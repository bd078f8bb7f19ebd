import json

import pytest
import torch

from hf_quant.calibration.resume import Progress, forget
from hf_quant.errors import ConfigError, SaveError

PRINT = {"model": "a", "data": "b"}


def tensors(step):
    return {"weight": torch.full((3, 2), step, dtype=torch.int32), "scale": torch.full((3,), step + 0.5)}


def carried(step):
    return {"hidden": torch.full((4,), float(step), dtype=torch.bfloat16)}


def same(found, expected):
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


def kept(folder, steps=2):
    progress = Progress(folder, PRINT)
    for step in range(steps):
        progress.save(step, tensors(step), carried(step))
    return progress


def test_steps_come_back_with_what_the_last_one_handed_on(tmp_path):
    kept(tmp_path / "deep" / "folder", 3)
    progress = Progress(tmp_path / "deep" / "folder", PRINT)
    assert progress.done == 3
    assert all(same(progress.load(step), tensors(step)) for step in range(3))
    assert same(progress.carried(), carried(2))
    assert len(list(progress.folder.glob("carried-*"))) == 1


def test_other_work_is_refused_by_what_differs(tmp_path):
    kept(tmp_path)
    with pytest.raises(ConfigError, match=r"other work: data, recipe differ\. .*--restart"):
        Progress(tmp_path, {"model": "a", "data": "c", "recipe": "d"})
    assert Progress(tmp_path, PRINT).done == 2


def test_restart_throws_away_what_is_there_and_nothing_else(tmp_path):
    kept(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="differ"):
        Progress(tmp_path, {"model": "z"})
    forget(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(ConfigError, match=r"notes\.txt, which is no progress"):
        Progress(tmp_path, PRINT)
    (tmp_path / "notes.txt").unlink()
    kept(tmp_path)
    assert Progress(tmp_path, {"model": "z"}, restart=True).done == 0
    assert [path.name for path in tmp_path.iterdir()] == ["progress.json"]


def test_a_cleared_folder_is_gone(tmp_path):
    progress = kept(tmp_path / "progress")
    progress.clear()
    assert not progress.folder.exists()
    forget(progress.folder)  # a second time is no error


@pytest.mark.parametrize("text", ["", "[]", '{"done": 2}', '{"fingerprint": {}, "done": "two"}', "{" * 9])
def test_a_damaged_manifest_is_no_crash(tmp_path, text):
    kept(tmp_path)
    (tmp_path / "progress.json").write_text(text)
    with pytest.raises(ConfigError, match=r"progress\.json is damaged .*restart=True"):
        Progress(tmp_path, PRINT)
    (tmp_path / "progress.json").unlink()
    with pytest.raises(ConfigError, match=r"holds steps but no progress\.json"):
        Progress(tmp_path, PRINT)
    assert Progress(tmp_path, PRINT, restart=True).done == 0


def test_damaged_steps_are_no_crash(tmp_path):
    progress = kept(tmp_path)
    (tmp_path / "step-00000.safetensors").write_bytes(b"nothing")
    (tmp_path / "carried-00001.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"step-00000\.safetensors is damaged"):
        progress.load(0)
    with pytest.raises(ConfigError, match=r"carried-00001\.safetensors is damaged"):
        progress.carried()


@pytest.mark.parametrize("name", ["step-00002.safetensors", "carried-00002.safetensors"])
def test_a_step_that_cannot_be_written_leaves_the_earlier_ones(tmp_path, name):
    progress = kept(tmp_path)
    (tmp_path / name).mkdir()
    with pytest.raises(SaveError, match="could not be written"):
        progress.save(2, tensors(2), carried(2))
    (tmp_path / name).rmdir()
    again = Progress(tmp_path, PRINT)
    assert again.done == 2 and same(again.carried(), carried(1)) and same(again.load(1), tensors(1))
    again.save(2, tensors(2), carried(2))
    assert Progress(tmp_path, PRINT).done == 3


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError, match="cannot be used to keep progress in"):
        Progress(tmp_path / "file", PRINT)


def test_a_step_counts_only_once_everything_of_it_is_written(tmp_path):
    kept(tmp_path)
    manifest = tmp_path / "progress.json"
    assert json.loads(manifest.read_text()) == {"fingerprint": PRINT, "done": 2}
    manifest.write_text(json.dumps({"fingerprint": PRINT, "done": 1}))  # as it was before the second step ended
    assert Progress(tmp_path, PRINT).done == 1
