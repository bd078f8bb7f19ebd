"""The table of formats: literal, complete, and what it says is so."""

import pytest
import torch

from hf_quant.config.formats import FORMATS
from hf_quant.config.scheme import Scheme, TensorScheme
from hf_quant.errors import ConfigError
from hf_quant.formats import even_format, float_format, format_of

SCHEMES = [TensorScheme(name, bits) for name, facts in FORMATS.items() for bits in facts.bits]
every_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: str(Scheme(scheme)))


@every_scheme
def test_every_row_names_a_class_that_takes_its_schemes(scheme):
    if not scheme.has_scales:
        assert torch.finfo(float_format(scheme).dtype).bits == scheme.bits
        with pytest.raises(ConfigError, match="has no scales; formats that have: int, nf4"):
            format_of(scheme)
        return
    format = format_of(scheme)
    assert format.scale_dtype is torch.float32 and format.highest > 0 and format.span[0] < 0 < format.span[1]


@every_scheme
def test_an_even_grid_is_had_by_those_who_say_so(scheme):
    if scheme.facts.is_even:
        levels = torch.arange(*even_format(scheme).span)[:16]
        steps = torch.linspace(-1, 1, 5) * even_format(scheme).quant_max
        assert torch.equal(format_of(scheme).nearest(steps.clone(), None), steps.round()) and len(levels)
    else:
        with pytest.raises(ConfigError, match=f"a test needs an even grid, of format int: '{scheme.format}' has none"):
            even_format(scheme, "a test")


@every_scheme
def test_a_zero_point_is_taken_by_those_who_say_so(scheme):
    values = {**scheme.to_dict(), "symmetric": False}
    if scheme.facts.may_be_asymmetric:
        assert not TensorScheme.from_dict(values).symmetric
    else:
        with pytest.raises(ConfigError, match="symmetric"):
            TensorScheme.from_dict(values)


@pytest.mark.parametrize(
    ("scheme", "text"),
    [
        (TensorScheme("nf4", 4, granularity="group", group_size=64), "NF4 g64"),
        (TensorScheme("nf4", 4, rotation=32, scale_dtype="float16"), "NF4 rot32 float16 scales"),
        (TensorScheme(bits=3, symmetric=False, scale_dtype="bfloat16"), "W3A16 asym bfloat16 scales"),
        (TensorScheme("bfloat", 16), "BF16"),
        (TensorScheme("float", 32, granularity="tensor"), "FP32"),
    ],
)
def test_schemes_are_written_as_their_format_says(scheme, text):
    assert str(Scheme(scheme)) == text
