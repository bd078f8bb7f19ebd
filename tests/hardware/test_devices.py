import pytest

from hf_quant.errors import UnknownName
from hf_quant.export import TARGETS
from hf_quant.hardware.devices import DEVICES, get_device
from hf_quant.hardware.profiles import PROFILES, get_profile


@pytest.mark.parametrize("name", DEVICES)
def test_every_device_has_a_profile_and_those_that_are_classes_an_export_and_a_reason(name):
    device = get_device(name)
    assert device.name == name and device.profile.name in PROFILES
    is_class = name not in PROFILES
    assert (device.export in TARGETS) == bool(device.reason) == is_class
    assert is_class or device.profile.name == name


def test_classes_of_devices_are_mobile_edge_and_desktop():
    assert [name for name in DEVICES if name not in PROFILES] == ["mobile", "edge", "desktop"]


def test_a_profile_of_ones_own_is_a_device():
    profile = get_profile("raspberry-pi-4")
    device = get_device(profile)
    assert device.profile is profile and device.name == profile.name and device.export is None


def test_an_unknown_device_is_told_with_all_that_are_known():
    with pytest.raises(UnknownName, match=r"did you mean 'mobile'.*raspberry-pi-5"):
        get_device("mobil")
