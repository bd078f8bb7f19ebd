"""Counters of energy are read as the kernel writes them, and where there are none it is said why."""

import os

import pytest
import torch

from hf_quant.evaluation.energy import POWERCAP, RaplMeter, meter_for

CPU = torch.device("cpu")
RANGE = 262_143_328_850


def zone(root, number, name, microjoules, top=RANGE):
    """A folder as the kernel's powercap driver shows it."""
    folder = root / f"intel-rapl:{number}"
    folder.mkdir()
    for file, value in (("name", name), ("energy_uj", microjoules), ("max_energy_range_uj", top)):
        (folder / file).write_text(f"{value}\n")
    return folder


def test_joules_of_all_packages_are_added_and_parts_of_them_are_not(tmp_path):
    packages = [zone(tmp_path, 0, "package-0", 1_000_000), zone(tmp_path, 1, "package-1", 5_000_000)]
    others = [zone(tmp_path, "0:0", "core", 0), zone(tmp_path, 2, "psys", 0)]
    meter, name = meter_for(CPU, tmp_path)
    assert name == "RAPL, all processor packages"
    start = meter.read()
    for folder in packages + others:
        (folder / "energy_uj").write_text(str(int((folder / "energy_uj").read_text()) + 2_500_000))
    assert meter.joules(start, meter.read()) == pytest.approx(5.0)


def test_a_counter_that_began_anew_goes_on(tmp_path):
    folder = zone(tmp_path, 0, "package-0", RANGE - 1_000_000)
    meter = RaplMeter(tmp_path)
    start = meter.read()
    (folder / "energy_uj").write_text("2000000")
    assert meter.joules(start, meter.read()) == pytest.approx(3.0, abs=1e-5)


def test_a_machine_without_counters_says_so(tmp_path):
    meter, reason = meter_for(CPU, tmp_path)
    assert meter is None and reason == f"not readable here: no processor package in {tmp_path}"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_counters_that_only_root_may_read_are_said_to_be_so(tmp_path):
    (zone(tmp_path, 0, "package-0", 0) / "energy_uj").chmod(0)
    meter, reason = meter_for(CPU, tmp_path)
    assert meter is None and "only root" in reason


def test_devices_without_a_counter_are_named():
    meter, reason = meter_for(torch.device("mps"))
    assert meter is None and reason == "not readable here: no counter for mps"


def test_this_machine_either_counts_or_says_why_not():
    meter, name = meter_for(CPU)
    if meter is None:
        assert name.startswith("not readable here") and str(POWERCAP) in name
    else:
        start = meter.read()
        assert meter.joules(start, meter.read()) >= 0
