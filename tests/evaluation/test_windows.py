"""Each token is scored once, with what comes before it in its window."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hf_quant.errors import EvaluationError
from hf_quant.evaluation.windows import windows


@given(st.integers(0, 300), st.integers(1, 64), st.integers(1, 64), st.booleans())
def test_each_token_is_scored_once_and_with_context(tokens, length, stride, begun):
    assume(stride <= length and length >= (1 if begun else 2))
    found = list(windows(tokens, length, stride, begun))
    scored = [token for window in found for token in range(window.scored, window.end)]
    assert len(scored) == len(set(scored)) and scored == sorted(scored)
    for window in found:
        assert window.end - window.start <= length and window.end <= tokens
        assert window.scored >= window.start + (0 if begun else 1)
    missed = set(range(tokens)) - set(scored)
    if begun:
        assert not missed
    else:
        # Only where no window reaches back: the first token of the text, and of windows that do not overlap.
        assert missed <= ({0} if stride < length else set(range(0, tokens, stride)))


def test_windows_that_overlap_score_what_is_new():
    found = [(window.start, window.scored, window.end) for window in windows(11, 6, 3)]
    assert found == [(0, 1, 6), (3, 6, 9), (6, 9, 11)]


@pytest.mark.parametrize(("length", "stride"), [(1, 1), (0, None), (4, 5), (4, 0), (4, -1)])
def test_windows_that_would_skip_tokens_are_refused(length, stride):
    with pytest.raises(EvaluationError, match="need a length of at least 2 and a stride from 1"):
        list(windows(20, length, stride))
