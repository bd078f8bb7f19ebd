"""Schemes: valid on construction, JSON and back, wrong keys and values refused with the way out."""

import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_quant.config.formats import FORMATS
from hf_quant.config.scheme import GRANULARITIES, Scheme, TensorScheme
from hf_quant.errors import ConfigError

integer_weights = st.builds(
    lambda bits, symmetric, shared: TensorScheme(
        bits=bits, symmetric=symmetric, granularity=shared[0], group_size=shared[1]
    ),
    st.sampled_from(FORMATS["int"].bits),
    st.booleans(),
    st.sampled_from([("tensor", None), ("channel", None), ("group", None), ("group", 8), ("group", 128)]),
)
inputs = st.builds(
    lambda bits, symmetric, shared: TensorScheme(
        bits=bits, symmetric=symmetric, granularity=shared[0], dynamic=shared[1]
    ),
    st.sampled_from([8, 16]),
    st.booleans(),
    st.sampled_from([("token", True), ("tensor", True), ("tensor", False)]),
)
floats = st.sampled_from(
    [Scheme(TensorScheme("float", bits)) for bits in (16, 32)] + [Scheme(TensorScheme("bfloat", 16))]
)
schemes = st.builds(Scheme, integer_weights, st.none() | inputs) | floats


@settings(deadline=None, derandomize=True, max_examples=100)
@given(schemes)
def test_a_scheme_survives_json(scheme):
    assert Scheme.from_dict(json.loads(json.dumps(scheme.to_dict()))) == scheme


@settings(deadline=None, derandomize=True, max_examples=50)
@given(schemes)
def test_a_scheme_survives_pickle_and_hashes_alike(scheme):
    copy = pickle.loads(pickle.dumps(scheme))
    assert copy == scheme and hash(copy) == hash(scheme)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(schemes)
def test_dicts_hold_format_bits_and_what_differs_from_the_default(scheme):
    values = scheme.weight.to_dict()
    assert values["format"] == scheme.weight.format and values["bits"] == scheme.weight.bits
    assert all(values[key] != getattr(TensorScheme(), key) for key in values.keys() - {"format", "bits"})


def test_schemes_cannot_be_changed():
    with pytest.raises(AttributeError):
        TensorScheme().bits = 4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format": "itn"}, "no format 'itn'; did you mean 'int'"),
        ({"bits": 9}, r"format 'int' has no 9-bit variant; use one of \(2, 3, 4, 5, 6, 7, 8, 16\)"),
        ({"bits": 1}, "no 1-bit variant"),
        ({"format": "float", "bits": 8}, "format 'float' has no 8-bit variant"),
        ({"format": "bfloat", "bits": 32}, "format 'bfloat' has no 32-bit variant"),
        ({"bits": True}, "TensorScheme.bits must be int, not True"),
        ({"bits": 8.0}, "TensorScheme.bits must be int, not 8.0"),
        ({"bits": "8"}, "TensorScheme.bits must be int, not '8'"),
        ({"symmetric": 1}, "TensorScheme.symmetric must be bool, not 1"),
        ({"dynamic": None}, "TensorScheme.dynamic must be bool, not None"),
        ({"format": None}, "TensorScheme.format must be str, not None"),
        ({"granularity": "chanel"}, "no granularity 'chanel'; did you mean 'channel'"),
        ({"group_size": 32}, "group_size=32 needs granularity=\"group\", not 'channel'"),
        ({"granularity": "group", "group_size": 0}, "group_size must be a positive integer or None, not 0"),
        ({"granularity": "group", "group_size": -32}, "not -32"),
        ({"granularity": "group", "group_size": True}, "not True"),
        ({"granularity": "group", "group_size": 32.0}, "not 32.0"),
        ({"format": "bfloat", "bits": 16, "symmetric": False}, "format 'bfloat' has no scales"),
        ({"format": "float", "bits": 16, "granularity": "group"}, "format 'float' has no scales"),
        ({"format": "float", "bits": 16, "scale_dtype": "float16"}, "format 'float' has no scales"),
        ({"format": "float", "bits": 16, "rotation": 16}, "rotation is None or, beside scales"),
        ({"format": "nf4", "bits": 8}, "format 'nf4' has no 8-bit variant"),
        ({"format": "nf4", "bits": 4, "symmetric": False}, r"format 'nf4' has no zero points: .* one of \['int'\]"),
        ({"scale_dtype": "float8"}, "no scale_dtype 'float8'; .*Known: float32, bfloat16, float16"),
        ({"scale_dtype": 16}, "no scale_dtype 16"),
    ],
)
def test_wrong_values_are_refused_with_the_valid_ones(values, message):
    with pytest.raises(ConfigError, match=message):
        TensorScheme(**values)
    with pytest.raises(ConfigError, match=message):
        Scheme.from_dict({"weight": values})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"weight": {"bit": 8}}, "no TensorScheme key 'bit'; did you mean 'bits'"),
        ({"weight": {}, "inputs": None}, "no Scheme key 'inputs'; did you mean 'input'"),
        ({"weight": {}, "input": {"per_token": True}}, "no TensorScheme key 'per_token'"),
        ({"input": None}, 'a Scheme needs the key "weight"'),
        ({"weight": None}, "takes TensorScheme objects"),
        ({"weight": "int8"}, "TensorScheme is written as an object with keys, not as 'int8'"),
        (["weight"], "Scheme is written as an object with keys"),
    ],
)
def test_unknown_keys_are_refused_with_the_nearest(values, message):
    with pytest.raises(ConfigError, match=message):
        Scheme.from_dict(values)


@pytest.mark.parametrize(
    ("weight", "input", "message"),
    [
        (TensorScheme(granularity="token"), None, 'a weight cannot be per "token" or dynamic'),
        (TensorScheme(dynamic=True), None, 'a weight cannot be per "token" or dynamic'),
        (
            TensorScheme(),
            TensorScheme(dynamic=True),
            'inputs are quantized per "token", "tensor" or "group", not \'channel\'',
        ),
        (TensorScheme(), TensorScheme(granularity="group"), "static inputs have one scale"),
        (TensorScheme(), TensorScheme(granularity="group", dynamic=True), "need weights in the same groups"),
        (
            TensorScheme(granularity="group", group_size=64),
            TensorScheme(granularity="group", group_size=32, dynamic=True),
            "inputs in groups of 32 need weights in the same groups, not group 64",
        ),
        (
            TensorScheme(granularity="group"),
            TensorScheme(granularity="group", dynamic=True, symmetric=False),
            "inputs in groups are symmetric",
        ),
        (TensorScheme(), TensorScheme(bits=4, granularity="tensor"), "8 or 16 bits, not 4"),
        (TensorScheme(), TensorScheme(granularity="token"), "static inputs have one scale"),
        (
            TensorScheme("float", 16),
            TensorScheme(granularity="tensor"),
            "int beside a weight of int, .* not int beside float",
        ),
        (TensorScheme(), TensorScheme("float", 16), "not float beside int"),
        (TensorScheme("nf4", 4), TensorScheme(granularity="token", dynamic=True), "not int beside nf4"),
        (TensorScheme(), TensorScheme("nf4", 4, granularity="token", dynamic=True), "not nf4 beside int"),
        (
            TensorScheme(),
            TensorScheme(granularity="token", dynamic=True, scale_dtype="float16"),
            "scale_dtype belongs to the weight",
        ),
    ],
)
def test_what_makes_no_sense_for_a_weight_or_an_input_is_refused(weight, input, message):
    with pytest.raises(ConfigError, match=message):
        Scheme(weight, input)


def test_every_granularity_is_usable_somewhere():
    for granularity in GRANULARITIES:
        scheme = TensorScheme(granularity=granularity, dynamic=granularity == "token")
        assert Scheme(TensorScheme(), scheme) if granularity == "token" else Scheme(scheme)


@pytest.mark.parametrize(
    ("scheme", "text"),
    [
        (Scheme(TensorScheme()), "W8A16"),
        (Scheme(TensorScheme(), TensorScheme(granularity="token", dynamic=True)), "W8A8"),
        (Scheme(TensorScheme(bits=4, symmetric=False, granularity="group")), "W4A16 gauto asym"),
        (Scheme(TensorScheme(bits=4, granularity="group", group_size=64)), "W4A16 g64"),
        (Scheme(TensorScheme(granularity="tensor")), "W8A16 per tensor"),
        (Scheme(TensorScheme("bfloat", 16)), "BF16"),
        (Scheme(TensorScheme("float", 32)), "FP32"),
    ],
)
def test_schemes_read_as_people_write_them(scheme, text):
    assert str(scheme) == text
