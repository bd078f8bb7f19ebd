import json

import pytest

import hf_quant
from hf_quant.config.scheme import Scheme, TensorScheme
from hf_quant.export import TARGETS as EXPORT_TARGETS
from hf_quant.portability import TARGETS
from hf_quant.portability.facts import Part, Verdict
from hf_quant.portability.overrides import overrides_of
from hf_quant.portability.report import PortabilityReport
from hf_quant.quantizing.config import HfQuantConfig
from tests.integration.tiny import tiny_model


def test_every_export_target_has_facts():
    assert set(EXPORT_TARGETS) <= set(TARGETS)


@pytest.mark.parametrize("preset", ["int8", "int4", "w4a16", "int16", "bf16"])
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_a_model_made_with_the_overrides_of_a_report_is_portable(family, preset):
    quantized = hf_quant.quantize(tiny_model(family), preset)
    for target in TARGETS:
        report = hf_quant.portability(quantized, target)
        assert report.is_portable == (not report.overrides)
        if report.is_portable:
            continue
        assert all(verdict.scheme is not None for verdict in report.refused)
        again = hf_quant.quantize(tiny_model(family), HfQuantConfig(preset, overrides=report.overrides))
        assert hf_quant.portability(again, target).is_portable, target


def test_modules_that_share_a_weight_get_one_scheme():
    rotated, plain = Scheme(TensorScheme(rotation=64)), Scheme(TensorScheme())
    parts = [Part("table", "embedding", 64, rotated), Part("head", "head", 64, rotated, owner="table")]
    verdicts = [Verdict("table", "container"), Verdict("head", "refused", "", "rotation=0", plain)]
    assert overrides_of(parts, verdicts) == {"table": plain, "head": plain}
    verdicts[1] = Verdict("head", "refused", "", "keep it float", None)
    assert overrides_of(parts, verdicts) == {"table": None, "head": None}
    assert overrides_of(parts, [Verdict("table", "exact"), Verdict("head", "exact")]) == {}


def test_inputs_in_groups_that_are_no_more_become_floats():
    groups = TensorScheme(bits=4, granularity="group", group_size=32)
    inputs = TensorScheme(granularity="group", group_size=32, dynamic=True)
    parts = [Part("a", "linear", 64, Scheme(groups)), Part("b", "linear", 64, Scheme(groups, inputs), owner="a")]
    verdicts = [Verdict("a", "refused", "", "8 bits", Scheme(TensorScheme())), Verdict("b", "exact")]
    assert overrides_of(parts, verdicts) == {"a": Scheme(TensorScheme()), "b": Scheme(TensorScheme())}


def test_a_report_counts_kinds_and_names_layers_in_short():
    verdicts = [Verdict(f"layers.{i}.up", "refused", "it turns", "rotation=0") for i in range(3)]
    report = PortabilityReport("there", "Somewhere", (*verdicts, Verdict("head", "exact")))
    text = str(report)
    assert text.splitlines()[0] == "there (Somewhere): 1 exact, 3 REFUSED"
    assert "layers.{0-2}.up: it turns; ask for rotation=0" in text
    assert report.refused == tuple(verdicts) and not report.is_portable


def test_a_report_is_json_with_reasons_and_schemes():
    scheme = Scheme(TensorScheme(bits=4))
    verdicts = (Verdict("a", "refused", "why", "less", scheme), Verdict("b", "exact"))
    values = json.loads(json.dumps(PortabilityReport("there", "Somewhere", verdicts).to_dict()))
    assert values["modules"] == {"refused": 1, "exact": 1}
    assert values["verdicts"] == [
        {"module": "a", "kind": "refused", "reason": "why", "override": "less", "scheme": scheme.to_dict()}
    ]
