import itertools

import pytest

from hf_quant.config.presets import PRESETS
from hf_quant.config.scheme import Scheme, TensorScheme
from hf_quant.errors import ConfigError, UnknownName
from hf_quant.portability import TARGETS
from hf_quant.portability.facts import KINDS, Part, Rule
from tests.naming import naming

WEIGHTS = [
    TensorScheme(bits=bits, symmetric=symmetric, rotation=rotation, **grid)
    for bits in (2, 3, 4, 5, 6, 7, 8, 16)
    for symmetric in (True, False)
    for rotation in (None, 64)
    for grid in (
        {"granularity": "channel"},
        {"granularity": "tensor"},
        {"granularity": "group", "group_size": 128},
        {"granularity": "group", "group_size": 24},
    )
] + [TensorScheme(format="nf4", bits=4, granularity="group", group_size=64), TensorScheme(format="bfloat", bits=16)]
INPUTS = [
    None,
    TensorScheme(bits=8, granularity="token", dynamic=True),
    TensorScheme(bits=8, symmetric=False, granularity="token", dynamic=True),
    TensorScheme(bits=8, granularity="tensor", dynamic=True),
    TensorScheme(bits=8, symmetric=False, granularity="tensor"),
    TensorScheme(bits=8, granularity="tensor"),
    TensorScheme(bits=16, granularity="token", dynamic=True),
    TensorScheme(bits=8, granularity="group", group_size=128, dynamic=True),
]


def schemes():
    for weight, given in itertools.product(WEIGHTS, INPUTS):
        try:
            yield Scheme(weight, given)
        except ConfigError:
            continue


def parts():
    for scheme in schemes():
        for made_as in ("linear", "conv1d", "derived", "experts"):
            for kind in ("linear", "head"):
                yield Part("m", kind, 384, scheme, made_as, dimensions=2 if kind == "head" else 3)
        if scheme.input is None:
            yield Part("m", "embedding", 384, scheme, "embedding")
            yield Part("m", "head", 384, scheme, "linear", owner="table")


def verdict(target, preset, kind="linear", **facts):
    scheme = PRESETS[preset].scheme_for(kind, 256) if isinstance(preset, str) else preset
    if scheme.weight.granularity == "group" and scheme.weight.group_size is None:
        given = scheme.input and TensorScheme(bits=8, granularity="group", group_size=128, dynamic=True)
        scheme = Scheme(
            TensorScheme(bits=4, symmetric=scheme.weight.symmetric, granularity="group", group_size=128), given
        )
    return TARGETS[target].verdict(Part("m", kind, 256, scheme, **facts))


@pytest.mark.parametrize("target", list(TARGETS))
def test_the_scheme_that_a_refusal_names_is_taken(target):
    facts, kinds = TARGETS[target], set()
    for part in parts():
        with naming(part):
            said = facts.verdict(part)
            kinds.add(said.kind)
            assert said.kind in KINDS and said.module == "m"
            if said.kind != "refused":
                continue
            assert said.reason and said.override and said.rules
            if said.scheme is None:
                assert part.made_as == "experts" or "float" in said.override
            else:
                taken = facts.verdict(Part(part.name, part.kind, part.width, said.scheme, part.made_as, part.owner))
                assert taken.kind != "refused"
    assert len(kinds) >= 3


def test_plain_linears_have_a_portable_scheme_for_every_target():
    for target, scheme in itertools.product(TARGETS, schemes()):
        with naming(target, scheme):
            assert TARGETS[target].portable(Part("m", "linear", 384, scheme)) is not None


def test_a_rotation_is_named_as_what_to_leave_out_where_nothing_rotates():
    for target in ("compressed-tensors", "vllm", "sglang", "gguf"):
        said = verdict(target, "int8")
        assert (said.kind, said.override) == ("refused", "rotation=0") and said.scheme.weight.rotation is None
    for target in ("onnx", "openvino", "executorch"):
        assert verdict(target, "int8").kind == "equivalent"


@pytest.mark.parametrize(
    ("target", "preset", "kind"),
    [
        ("compressed-tensors", "w4a16", "refused"),
        ("vllm", "w4a16", "exact"),
        ("onnx", "w4a16", "exact"),
        ("onnx", "int4", "exact"),
        ("onnx", "int8-static", "exact"),
        ("gguf", "w4a16", "equivalent"),
        ("compressed-tensors", "int4", "refused"),
        ("vllm", "int4", "refused"),
        ("executorch", "int4", "refused"),
        ("tensorrt", "int8-static", "refused"),
        ("coreml", "int4", "refused"),
        ("coreml", "w4a16", "exact"),
        ("onnx", "int16", "refused"),
    ],
)
def test_presets_are_taken_as_the_table_says(target, preset, kind):
    assert verdict(target, preset).kind == kind


def test_packed_zero_points_are_refused_by_plain_transformers_unless_they_are_accepted():
    scheme = Scheme(TensorScheme(bits=4, symmetric=False, granularity="group", group_size=128))
    part, facts = Part("m", "linear", 256, scheme), TARGETS["compressed-tensors"]
    assert facts.verdict(part).scheme.weight.symmetric
    assert facts.verdict(part, ["asymmetric"]).kind == "exact"


def test_siblings_follow_the_first_of_them_in_vllm_alone():
    first, other = (Scheme(TensorScheme(bits=bits, granularity="group", group_size=64)) for bits in (4, 8))
    together = {"q": first, "k": other, "v": first}
    leader, follower = (Part(name, "linear", 256, together[name], siblings=together) for name in "qk")
    assert TARGETS["vllm"].verdict(leader).kind == "exact"
    said = TARGETS["vllm"].verdict(follower)
    assert (said.kind, said.scheme, said.rules) == ("refused", first, ("siblings",))
    assert TARGETS["compressed-tensors"].verdict(follower).kind == "exact"


def test_siblings_of_a_float_one_stay_float_in_vllm():
    scheme = Scheme(TensorScheme(bits=4, granularity="group", group_size=64))
    said = TARGETS["vllm"].verdict(Part("q", "linear", 256, scheme, siblings={"q": scheme, "k": None}))
    assert (said.kind, said.scheme) == ("refused", None)


def test_all_reasons_of_a_refusal_are_told():
    said = verdict("compressed-tensors", "int4")
    assert said.rules == ("input-groups", "asymmetric")
    assert said.override == "weights only, symmetric weights"
    assert said.scheme == Scheme(TensorScheme(bits=4, granularity="group", group_size=128))


def test_fixes_that_lead_nowhere_end_in_float():
    rules = (
        Rule("a", lambda part: part.scheme.weight.bits == 4, "refused", "", lambda part: Scheme(TensorScheme(bits=5))),
        Rule("b", lambda part: part.scheme.weight.bits == 5, "refused", "", lambda part: Scheme(TensorScheme(bits=4))),
    )
    facts = type(TARGETS["onnx"])("a loop", rules)
    assert facts.portable(Part("m", "linear", 64, Scheme(TensorScheme(bits=4)))) is None


def test_an_unknown_target_is_told_with_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'onnx'"):
        TARGETS["onxx"]
