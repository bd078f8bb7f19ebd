import pytest

from hf_quant.config.presets import PRESETS
from hf_quant.errors import UnknownName
from hf_quant.kernels.dispatch import KERNEL_VARIABLE, KERNELS
from hf_quant.kernels.native import library
from hf_quant.kernels.native.ops import SCHEMAS
from hf_quant.workflows.hardware import NATIVE, OPS, hardware_report

is_built = pytest.mark.skipif(library.load() is None, reason="installed without a compiler")


@pytest.fixture
def without_library(monkeypatch):
    """As where nothing was built: the loader finds no file."""
    monkeypatch.delenv(library.ISA_VARIABLE, raising=False)
    monkeypatch.setattr(library, "_candidates", lambda: iter([]))
    library.load.cache_clear()
    library.absence.cache_clear()
    yield
    monkeypatch.undo()
    library.load.cache_clear()
    library.absence.cache_clear()


def test_every_preset_gets_a_kernel():
    report = hardware_report()
    assert [choice.preset for choice in report.choices] == list(PRESETS)
    assert all(choice.kernel in (*KERNELS, "torch") for choice in report.choices)


def test_every_op_of_the_library_is_reported():
    assert set(SCHEMAS) < set(OPS)
    assert [choice.op for choice in hardware_report().ops] == list(OPS)


@is_built
def test_with_the_library_every_op_is_native_and_so_are_presets_of_up_to_8_bits():
    report = hardware_report()
    assert {choice.kernel for choice in report.ops} == {NATIVE}
    kernels = {choice.preset: choice.kernel for choice in report.choices}
    assert {kernels[preset] for preset in ("int8", "w8a16", "int4", "w4a16")} == {NATIVE}
    assert report.native_absence is None
    assert report.native_isa == library.isa() and report.native_isa in report.runnable_isas


@is_built
def test_native_kernels_share_the_threads_of_torch():
    report = hardware_report()
    assert report.native_threads == report.threads


def test_without_the_library_the_report_says_why_and_what_runs_instead(without_library):
    report = hardware_report()
    assert report.native_isa is None and report.runnable_isas == () and report.native_threads == 1
    assert report.native_absence == "which is built on installation where there is a C++ compiler"
    assert NATIVE not in {choice.kernel for choice in (*report.ops, *report.choices)}
    reasons = {choice.passed_over[NATIVE] for choice in report.choices if choice.kernel != "torch"}
    assert reasons == {f"needs the native library, {report.native_absence}"}


def test_kernels_passed_over_say_why():
    for choice in hardware_report().choices:
        assert choice.kernel not in choice.passed_over
        assert all(choice.passed_over.values())


def test_a_forced_kernel_is_reported(monkeypatch):
    monkeypatch.setenv(KERNEL_VARIABLE, "aten_dequantize")
    report = hardware_report()
    assert report.forced_kernel == "aten_dequantize"
    assert {choice.kernel for choice in report.choices} == {"aten_dequantize", "torch"}


def test_a_forced_kernel_leaves_nothing_native_but_the_rounding_of_weights(monkeypatch):
    monkeypatch.setenv(KERNEL_VARIABLE, "aten_dequantize")
    assert {choice.op for choice in hardware_report().ops if choice.kernel == NATIVE} <= {"quantize"}


def test_a_forced_kernel_that_cannot_run_a_preset_is_reported_with_the_reason(monkeypatch):
    monkeypatch.setenv(KERNEL_VARIABLE, "aten_int8")
    [choice] = [choice for choice in hardware_report().choices if choice.preset == "int4"]
    assert choice.kernel is None
    assert choice.passed_over == {"aten_int8": "needs 8-bit weights and inputs"}


def test_an_unknown_forced_kernel_is_an_error_that_names_the_known(monkeypatch):
    monkeypatch.setenv(KERNEL_VARIABLE, "aten_dequantise")
    with pytest.raises(UnknownName, match="did you mean 'aten_dequantize'"):
        hardware_report()
