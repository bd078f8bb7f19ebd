"""Classes of devices, each with the machine that plans are made for and the program that runs the model there."""

from __future__ import annotations

from dataclasses import dataclass

from hf_quant.errors import UnknownName
from hf_quant.hardware.profile import Profile
from hf_quant.hardware.profiles import PROFILES, get_profile
from hf_quant.registry import unknown


@dataclass(frozen=True)
class Device:
    """Where a model is to run.

    Args:
        name: As users give it.
        profile: The machine that plans are made for.
        export: Name of the export target that runs there; None where this package does.
        reason: Why this profile and this target, in a sentence; empty for a machine that is its own profile.
    """

    name: str
    profile: Profile
    export: str | None = None
    reason: str = ""


_CLASSES = {
    "mobile": (
        "raspberry-pi-5",
        "executorch",
        "Phones have run Cortex-A76 cores or later ones since 2019, so the plan is one for these; their programs run "
        "no Python, and ExecuTorch needs none.",
    ),
    "edge": (
        "raspberry-pi-4",
        "onnx",
        "Small boards may have no dot products of 8-bit integers, so the plan is one for a board without; ONNX Runtime "
        "has builds for all of them.",
    ),
    "desktop": (
        "x86-avx2",
        "onnx",
        "Every desktop processor since 2015 has AVX2, so the plan needs no more; ONNX Runtime runs on all systems.",
    ),
}
"""Name of a class of devices to its profile, its export target, and why."""
DEVICES = (*_CLASSES, *PROFILES)
"""Names that `get_device` knows: classes of devices, and profiles."""


def get_device(name: str | Profile) -> Device:
    """The device of a name, which is that of a class of devices or of a profile, or of a profile of the caller's own.

    Raises:
        UnknownName: With the known names, and the nearest.
    """
    if isinstance(name, Profile):
        return Device(name.name, name)
    if name in _CLASSES:
        profile, export, reason = _CLASSES[name]
        return Device(name, get_profile(profile), export, reason)
    if name not in PROFILES:
        raise UnknownName(unknown("device", name, DEVICES))
    return Device(name, get_profile(name))
