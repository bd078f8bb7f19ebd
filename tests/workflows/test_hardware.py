import pytest

from hf_quant.config.presets import PRESETS
from hf_quant.errors import UnknownName
from hf_quant.kernels.dispatch import KERNEL_VARIABLE, KERNELS
from hf_quant.workflows.hardware import hardware_report


def test_every_preset_gets_a_kernel():
    report = hardware_report()
    assert [choice.preset for choice in report.choices] == list(PRESETS)
    assert all(choice.kernel in (*KERNELS, "torch") for choice in report.choices)


def test_kernels_passed_over_say_why():
    for choice in hardware_report().choices:
        assert choice.kernel not in choice.passed_over
        assert all(choice.passed_over.values())


def test_a_forced_kernel_is_reported(monkeypatch):
    monkeypatch.setenv(KERNEL_VARIABLE, "aten_dequantize")
    report = hardware_report()
    assert report.forced_kernel == "aten_dequantize"
    assert {choice.kernel for choice in report.choices} == {"aten_dequantize", "torch"}


def test_an_unknown_forced_kernel_is_an_error_that_names_the_known(monkeypatch):
    monkeypatch.setenv(KERNEL_VARIABLE, "aten_dequantise")
    with pytest.raises(UnknownName, match="did you mean 'aten_dequantize'"):
        hardware_report()
