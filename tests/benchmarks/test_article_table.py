"""The article's table: sizes are those of files, and what was not measured says so."""

import sys
from dataclasses import replace

import pytest
from transformers import LlamaForCausalLM

import hf_quant
from benchmarks import article_table, checkpoints
from benchmarks.article.losses import NoCheckpoint, losses
from benchmarks.article.rows import MEASURED_WHOLE, PRESETS, ROWS, Row
from benchmarks.article.sizes import FLOAT, computed, weighed, write
from hf_quant.evaluation.file_size import directory_bytes
from tests.integration.tiny import tiny_config, tiny_model
from tests.reporting.samples import benchmark_report, drop_report

TINY = Row("Tiny", "tiny", LlamaForCausalLM, "llama", ("1 MB", "1 MB", "1 x", "0 %"), layers=1)
LARGE = next(row for row in ROWS if row.shape == "llama-70b")


@pytest.fixture
def tiny(monkeypatch):
    config = tiny_config("llama-gqa").to_diff_dict()
    monkeypatch.setitem(checkpoints.SHAPES, "tiny", {**config, "model_type": "llama"})
    return TINY


def test_computed_sizes_agree_to_the_byte_with_files_that_are_written(tiny, tmp_path):
    write(tiny, checkpoints.checkpoint("tiny", tmp_path), "int4", tmp_path / "int4")
    assert directory_bytes(tmp_path / "int4") == computed(tiny)["int4"]


@pytest.mark.slow
@pytest.mark.parametrize("preset", [FLOAT, *PRESETS])
def test_it_is_so_for_bert_base(preset, tmp_path):
    row = next(row for row in ROWS if row.shape == "bert-base")
    assert weighed(row, tmp_path, (preset,))[preset] == computed(row)[preset]


def test_sizes_of_the_large_ones_are_those_of_their_weights():
    sizes = computed(LARGE)
    weights = 68_976_648_192
    assert 4 * weights < sizes[FLOAT] < 4.0001 * weights
    assert 1.0 * weights < sizes["int8"] < 1.001 * weights
    assert 0.5 * weights < sizes["int4"] < 0.54 * weights


def test_what_was_not_measured_says_so(tiny):
    article, int8, int4 = article_table.lines(tiny, {}, {})
    assert article[:2] == ("Tiny", "article, INT8")
    assert [line[1] for line in (int8, int4)] == ["int8", "int4"]
    for line in (int8, int4):
        assert line[2].endswith("(computed)") and line[3].endswith("(computed)")
        assert line[5:] == ("not measured", "not measured")


def test_a_measured_size_says_whether_the_computed_agrees(tiny):
    expected = computed(tiny)
    kept = {"weighed": {"tiny": {"int8": expected["int8"], "int4": expected["int4"] + 1}}}
    _, int8, int4 = article_table.lines(tiny, kept, {})
    assert "measured, agrees to the byte" in int8[3]
    assert f"measured, computed: {expected['int4']:,} bytes" in int4[3]


def test_speeds_of_a_few_layers_say_so(tiny):
    kept = {"speeds": {"tiny": {"int8": benchmark_report(speed=2.0).to_dict()}}}
    _, int8, int4 = article_table.lines(tiny, kept, {})
    assert "each next token 1 x 128: 1.9" in int8[5] or "each next token 1 x 128: 2.0" in int8[5]
    assert int8[5].endswith("(1 of 2 layers)") and int4[5] == "not measured"
    (machine,) = [note for note in article_table.footnotes(kept, {}) if note.startswith("Speed-ups")]
    assert "a CPU, 2 threads" in machine


def test_speeds_that_others_disturbed_say_so():
    quiet, busy = (replace(benchmark_report(), other_cores=cores).to_dict() for cores in (0.1, 0.7))
    assert not any("busy" in note for note in article_table.footnotes({"speeds": {"a": {"int8": quiet}}}, {}))
    notes = article_table.footnotes({"speeds": {"a": {"int8": quiet, "int4": busy}}}, {})
    assert any("up to 0.7 cores busy" in note for note in notes)


def test_losses_go_to_the_row_of_their_family_and_preset_and_name_the_model(tmp_path):
    folder = tmp_path / "small-int4"
    hf_quant.quantize(tiny_model("llama"), "int4", progress=False).save_pretrained(folder)
    drop = replace(drop_report(str(folder)), reference=str(tmp_path / "small"))
    found = losses([hf_quant.write_report(tmp_path / "drop.json", drop)])
    assert set(found) == {("llama", "int4")}
    _, int8, int4 = article_table.lines(LARGE, {}, found)
    assert int4[6] == "0.42 % (-0.21 to 1.15) of accuracy (small-int4)" and int8[6] == "not measured"


def test_a_loss_of_a_checkpoint_that_is_gone_is_refused(tmp_path):
    file = hf_quant.write_report(tmp_path / "drop.json", drop_report(str(tmp_path / "gone")))
    with pytest.raises(NoCheckpoint, match="evaluate it again"):
        losses([file])


def test_the_command_prints_the_articles_models(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["article_table", "--json", str(tmp_path / "kept.json")])
    article_table.main()
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 3 * len(ROWS) and all(row.title in printed for row in ROWS)
    assert len({line.count("|") for line in lines}) == 1
    assert "Sizes are of the weights' files" in printed


def test_whole_models_are_measured_whole():
    assert all((row.layers is None) == (row.shape in MEASURED_WHOLE) for row in ROWS)
