"""``hf-quant convert-checkpoint``: what it says, and that the other commands work on what it writes."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from hf_quant import evaluate_drop
from hf_quant.cli.main import app
from hf_quant.errors import LayoutError
from tests.evaluation.tiny import WORDS, tiny_tokenizer

CHECKPOINTS = Path(__file__).parents[1] / "importing" / "checkpoints"


def hf_quant(*arguments):
    result = CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "160"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """The folder of a converted checkpoint, and what the command printed."""
    folder = tmp_path_factory.mktemp("converted") / "ours"
    return folder, hf_quant("convert-checkpoint", CHECKPOINTS / "gptq-mixed", "-o", folder)


def test_it_says_what_became_of_the_modules(converted):
    folder, printed = converted
    assert "12 modules W4A16 g32 float16 scales" in printed and "2 modules W8A16 g32" in printed
    assert f"written to {folder}" in printed


def test_what_it_wrote_is_inspected_checked_and_evaluated(converted, tmp_path):
    folder, _ = converted
    assert "W4A16 g32 float16 scales" in hf_quant("inspect", folder)
    assert "14 quantized modules" in hf_quant("check", folder)
    ours = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    floats = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).dequantize()
    words = WORDS[: ours.config.vocab_size - 5]
    texts = [" ".join(words[(start + 7 * step) % len(words)] for step in range(20)) for start in range(6)]
    tokenizer = tiny_tokenizer(words)
    report = evaluate_drop(floats, ours, "causal-lm", texts, tokenizer=tokenizer, resamples=50, progress=False)
    (change,) = [metric for metric in report.metrics if metric.name == "perplexity"]
    assert change.quantized == pytest.approx(change.reference, rel=1e-4)


def test_what_cannot_be_kept_is_an_error(tmp_path):
    with pytest.raises(LayoutError, match="act-order"):
        hf_quant("convert-checkpoint", CHECKPOINTS / "gptq-4bit-act-order", "-o", tmp_path / "ours")
