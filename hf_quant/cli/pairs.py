"""Options of commands that are pairs, such as ``--override PATTERN=PRESET``."""

from __future__ import annotations

from collections.abc import Sequence

from hf_quant.errors import ConfigError


def pairs_of(entries: Sequence[str] | None, option: str, form: str, example: str) -> dict[str, str]:
    """Names to values, from entries ``NAME=VALUE``. The last ``=`` divides, so that a name may have one: ``a=b=C``.

    Args:
        entries: Entries as they were given, in order; None if there are none.
        option: Name of the option, for error messages: ``--override``.
        form: Form of an entry, for error messages: ``PATTERN=PRESET``.
        example: Example of an entry, for error messages.

    Raises:
        ConfigError: An entry has no ``=``, or nothing on one side of it; or a name is given twice.
    """
    found: dict[str, str] = {}
    for entry in entries or ():
        name, _, value = entry.rpartition("=")
        if not name or not value:
            raise ConfigError(f"{option} takes {form}, such as {example!r}, divided by the last '=', not {entry!r}")
        if name in found:
            raise ConfigError(f"{option} {name!r} is given twice, {found[name]!r} and {value!r}: give it once")
        found[name] = value
    return found
