"""The verdict on calibrated INT4 beside other programs says who is ahead, and at how many bits."""

import pytest

from benchmarks.calibration_peers import Cell, Result, table, verdict
from benchmarks.peers.contenders import OURS, contenders


def entry(program, method, perplexity, bits, settings=True):
    cell = Cell("", method, program, "", {} if settings else None, False, 16, 512, 20, 0)
    return cell, Result(perplexity, bits, 1.0, 10**6)


def judged(*entries):
    return verdict(*zip(*entries, strict=True))


@pytest.mark.parametrize(("perplexity", "words"), [(29.0, "no worse (-3.33%)"), (31.5, "worse (+5.00%)")])
def test_the_best_of_both_are_compared(perplexity, words):
    ours = [entry(OURS, "RTN", 40.0, 4.375), entry(OURS, "GPTQ", perplexity, 4.375)]
    theirs = [entry("gptqmodel", "GPTQ", 30.0, 4.3125), entry("auto-round", "SignRound", 33.0, 4.3125)]
    assert f"perplexity {perplexity:.3f} at 4.3750 bits: {words}" in judged(*ours, *theirs)


def test_the_best_that_takes_no_more_bits_is_named_too():
    ours = [entry(OURS, "large", 29.0, 4.375), entry(OURS, "small", 32.0, 4.25)]
    lines = judged(*ours, entry("gptqmodel", "GPTQ", 30.0, 4.3125)).splitlines()
    assert "large" in lines[1] and "no worse" in lines[1]
    assert "small" in lines[2] and "worse (+6.67%)" in lines[2]


def test_no_verdict_without_both_sides():
    assert judged(entry(OURS, "GPTQ", 29.0, 4.375)) == ""


def test_the_table_shows_what_is_won_back_of_the_loss_of_rounding():
    entries = [entry(OURS, "fp32", 20.0, 32.0, settings=False), entry(OURS, "RTN", 30.0, 4.375)]
    entries.append(entry("gptqmodel", "GPTQ", 22.5, 4.3125))
    assert "| gptqmodel | GPTQ | yes | 4.3125 | 22.500 | +12.50% | 75% | 1 s | 1 MB |" in table(
        *zip(*entries, strict=True)
    )


def test_every_peer_contends():
    assert {each.program for each in contenders(50)} == {OURS, "gptqmodel", "llmcompressor", "auto-round"}
    assert not any(each.symmetric for each in contenders(50))
