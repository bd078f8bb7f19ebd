import json
import signal

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from hf_quant.cli.main import app
from hf_quant.errors import CalibrationError, ConfigError, HfQuantError
from tests.integration.tiny import run_python, tiny_model

TEXTS = [f"the number {number} follows {number - 1} and precedes {number + 1}" for number in range(60)]
RECIPE = """\
preset: w4a16
overrides: {"*.down_proj": w8a16}
solver: gptq
calibration: {samples: 8, sequence_length: 24}
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny Llama with a tokenizer."""
    folder = tmp_path_factory.mktemp("float")
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Whitespace()
    trained.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=128, special_tokens=["<unk>", "</s>", "<pad>"]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=trained, eos_token="</s>", pad_token="<pad>")
    tokenizer.save_pretrained(folder)
    tiny_model("llama").save_pretrained(folder)
    return folder


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n\n".join(TEXTS))
    return path


def hf_quant(*arguments):
    """In this process, which is a quarter of a minute faster than another; gives what is printed."""
    result = CliRunner().invoke(app, ["quantize", *map(str, arguments)], env={"COLUMNS": "120"})
    if result.exception is not None:
        raise result.exception
    return result.stdout


def written(folder):
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    return load_file(folder / "model.safetensors"), config


def test_a_run_that_was_killed_goes_on_and_ends_with_a_table_of_errors(checkpoint, recipe, texts, tmp_path):
    output = tmp_path / "out"
    command = [checkpoint, "--recipe", recipe, "--data", texts, "-o", output, "--keep-float", "lm_head"]
    killed = run_python(
        """
        import os, signal, sys
        from hf_quant.calibration.resume import Progress
        from hf_quant.cli.main import main

        save = Progress.save

        def deadly(self, step, *args):
            save(self, step, *args)
            os.kill(os.getpid(), signal.SIGKILL)

        Progress.save = deadly
        main()
        """,
        "quantize",
        *command,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    progress = tmp_path / ".out.progress"
    assert (progress / "step-00000.safetensors").exists() and not output.exists()

    with pytest.raises(ConfigError, match=r"data differ.*--restart"):
        hf_quant(*command, "--samples", "4")

    printed = hf_quant(*command)
    assert not progress.exists()
    table = printed[printed.index("relative error") :]
    assert "model.layers.0" in table and "model.layers.1" in table
    hf_quant(*command[:-3], tmp_path / "whole", *command[-2:])
    (tensors, config), (expected, whole) = written(output), written(tmp_path / "whole")
    assert config == whole and config["recipe"]["solver"] == {"gptq": {}}
    assert config["recipe"]["modules_to_not_convert"] == ["lm_head"]
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in tensors)
    assert (output / "tokenizer.json").exists()


def test_a_preset_takes_data_from_a_column_of_a_table(checkpoint, tmp_path):
    table = tmp_path / "texts.csv"
    table.write_text("\n".join(["id,review", *(f'n{index},"{text}"' for index, text in enumerate(TEXTS))]))
    command = [checkpoint, "int8-static", "--data", table, "--samples", 4, "--sequence-length", 16]
    with pytest.raises(CalibrationError, match="text_column"):
        hf_quant(*command, "-o", tmp_path / "out")
    hf_quant(*command, "--text-column", "review", "-o", tmp_path / "out", "--resume", tmp_path / "deep" / "kept")
    tensors, config = written(tmp_path / "out")
    assert "model.layers.0.mlp.up_proj.input_scale" in tensors and config["calibration_fingerprint"]
    assert not (tmp_path / "deep" / "kept").exists() and not (tmp_path / ".out.progress").exists()


def test_wrong_arguments_are_refused_with_the_fix(checkpoint, recipe, texts, tmp_path):
    output = ("--output", tmp_path / "out")
    empty = tmp_path / "empty.yaml"
    empty.write_text("solver: gptq")
    for arguments, message in [
        ((*output,), "or --recipe with a name or a file, one of them"),
        (("int4", "--recipe", recipe, *output), "or --recipe with a name or a file, one of them"),
        (("--recipe", tmp_path / "nothing.yaml", *output), r"nothing\.yaml cannot be read"),
        (("--recipe", empty, *output), "exactly one of preset, scheme and plan; got none"),
        (("--recipe", recipe, *output), "--data on the command line"),
        (("int4", "--samples", 4, *output), "need --data, too"),
        (("int4", "--restart", *output), "need --data, too"),
        (("int8-static", "--data", tmp_path / "nothing.jsonl", *output), "cannot read"),
        (("int8-static", "--data", texts, "--samples", 0, *output), "samples must be a positive integer"),
    ]:
        with pytest.raises(HfQuantError, match=message):
            hf_quant(checkpoint, *arguments)
    assert not (tmp_path / "out").exists()


def test_help_shows_a_recipe_and_data():
    assert "--recipe llama-int4-balanced --data texts.txt" in " ".join(hf_quant("--help").split())
