"""Options that benchmarks of many cells share."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

import torch


def parser_of(description: str | None, examples: str) -> argparse.ArgumentParser:
    """A parser whose help has the script's own words and examples, and ``--threads``."""
    parser = argparse.ArgumentParser(
        description=description, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch (default: %(default)s)")
    return parser


def add_names(parser: argparse.ArgumentParser, option: str, names: Iterable[str], note: str = "") -> None:
    """An option that takes any of `names`, by default all; `note` is added to its help."""
    choices = list(names)
    text = f"of {', '.join(choices)} (default: all{note})"
    parser.add_argument(option, nargs="+", choices=choices, default=choices, metavar="NAME", help=text)
