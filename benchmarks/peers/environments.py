"""Virtual environments of the peers, made with pip when they are first asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TORCH = "torch==2.13.0"
"""Held in every environment, so that no peer pulls in another build, with gigabytes of CUDA."""

PACKAGES = {
    "auto-round": "auto-round==0.16.1",
    "gptqmodel": "gptqmodel==7.6.0",
    "llmcompressor": "llmcompressor==0.14.0.1",
}
"""Name of an environment to what is installed in it."""

_DONE = ".complete"


def interpreter(folder: Path, name: str) -> Path:
    """The Python of environment `name` of `PACKAGES` in `folder`.

    On a machine whose package index has no CPU build of torch, name one in ``PIP_EXTRA_INDEX_URL`` to save gigabytes.

    Raises:
        subprocess.CalledProcessError: pip could not install it.
    """
    environment = folder / name
    python = environment / "bin" / "python"
    if not (environment / _DONE).exists():
        if not _has(python, PACKAGES[name]):
            print(f"Making {environment}", file=sys.stderr, flush=True)
            subprocess.run([sys.executable, "-m", "venv", "--clear", environment], check=True)
            constraint = environment / "constraints.txt"
            constraint.write_text(TORCH + "\n", encoding="utf-8")
            pip: list[str | Path] = [
                python,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "-c",
                constraint,
            ]
            # Torch first: what is built from source wants to see it.
            for package in (TORCH, PACKAGES[name]):
                subprocess.run([*pip, package], check=True, stdout=sys.stderr)
        (environment / _DONE).touch()
    return python


def _has(python: Path, package: str) -> bool:
    name, version = package.split("==")
    code = f"import importlib.metadata as m; raise SystemExit(m.version({name!r}) != {version!r})"
    return python.exists() and subprocess.run([python, "-c", code], stderr=subprocess.DEVNULL).returncode == 0
