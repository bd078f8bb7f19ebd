"""Machines that plans can be made for, one a file."""

from __future__ import annotations

from hf_quant.hardware.profile import Profile
from hf_quant.registry import Registry

PROFILES = Registry(
    "hardware",
    {
        "host": "hf_quant.hardware.profiles.host:profile",
        "x86-avx2": "hf_quant.hardware.profiles.x86_avx2:profile",
        "x86-avx512-vnni": "hf_quant.hardware.profiles.x86_avx512_vnni:profile",
        "nvidia-sm75": "hf_quant.hardware.profiles.nvidia_sm75:profile",
        "nvidia-sm80": "hf_quant.hardware.profiles.nvidia_sm80:profile",
        "nvidia-sm90": "hf_quant.hardware.profiles.nvidia_sm90:profile",
        "apple-m1": "hf_quant.hardware.profiles.apple_m1:profile",
        "apple-m2": "hf_quant.hardware.profiles.apple_m2:profile",
        "raspberry-pi-4": "hf_quant.hardware.profiles.raspberry_pi_4:profile",
        "raspberry-pi-5": "hf_quant.hardware.profiles.raspberry_pi_5:profile",
    },
)
"""Each is a function without arguments, so that `host` looks at the machine only when it is asked for."""


def get_profile(name: str) -> Profile:
    """The profile called `name`.

    Raises:
        UnknownName: With the known names, and the nearest.
    """
    found: Profile = PROFILES[name]()
    return found
