"""Runs code in a fresh Python whose `huggingface_hub` talks to a `HubServer`.

A process of its own, because the client reads `HF_ENDPOINT`, `HF_HOME` and the like once, when it is imported.
"""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]

# What a Python process needs of its surroundings; above all no HF_* variable of the developer's own.
KEPT = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "SYSTEMROOT", "TMPDIR", "TEMP")


def run_client(code: str, hub, *, token: str | None, home: Path, timeout: float = 200) -> subprocess.CompletedProcess:
    """Run `code` against `hub`; the test fails, showing what the client wrote, unless it exits with 0.

    Args:
        code: Python source, indented or not. It may import this checkout's package.
        hub: the `HubServer` to talk to.
        token: the token the client is logged in with; None for an anonymous one.
        home: the client's home and cache. Give two clients two homes to make the second one download.
    """
    home.mkdir(parents=True, exist_ok=True)
    script = home / "client.py"
    script.write_text(textwrap.dedent(code), encoding="utf-8")
    environment = {name: os.environ[name] for name in KEPT if name in os.environ} | {
        "HOME": str(home),
        "HF_HOME": str(home / "huggingface"),
        "HF_ENDPOINT": hub.endpoint,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        # With `hf_xet` installed the client uploads through Xet without asking the server whether it has any.
        "HF_HUB_DISABLE_XET": "1",
        # For a checkpoint without safetensors transformers would ask a Space on the real Hub to convert it.
        "DISABLE_SAFETENSORS_CONVERSION": "1",
        "NO_PROXY": "127.0.0.1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(CHECKOUT),
    }
    if token is not None:
        environment["HF_TOKEN"] = token
    try:
        done = subprocess.run(
            [sys.executable, str(script)], env=environment, cwd=home, capture_output=True, text=True, timeout=timeout
        )
    except subprocess.TimeoutExpired as late:
        pytest.fail(f"the client was still running after {timeout} s; it wrote:\n{late.stderr or b''}")
    if done.returncode != 0:
        asked = "\n".join(f"{status} {method} {path}" for method, path, status in hub.requests[-10:])
        pytest.fail(f"the client exited with {done.returncode}:\n{done.stderr}\nits last requests:\n{asked}")
    return done
