"""What can go wrong with demonstration data, besides a missing package."""

from __future__ import annotations

from hf_quant.errors import HfQuantError


class BadArchive(HfQuantError, ValueError):
    """A downloaded archive does not hold what it should."""


class DownloadFailed(HfQuantError, OSError):
    """An archive could not be fetched."""


class NotTrained(HfQuantError, FileNotFoundError):
    """A model that a script of this repository trains has not been trained yet."""
