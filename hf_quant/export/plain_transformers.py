"""A checkpoint that plain Transformers reads, in a process that knows nothing of this package."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from hf_quant.errors import ExportError
from hf_quant.export.comparing import allowed_error, relative_error, sample
from hf_quant.export.config import dtype_of
from hf_quant.export.target import Comparison

_SCRIPT = """
import sys
import torch, transformers
from safetensors.torch import load_file, save_file
folder, name, dtype, given, found, threads = sys.argv[1:]
torch.set_num_threads(int(threads))
transformers.logging.set_verbosity_error()
model = getattr(transformers, name).from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
with torch.no_grad():
    result = model(**load_file(given))
output = result.logits if "logits" in result else result[0]
assert "hf_quant" not in sys.modules
versions = {"transformers": transformers.__version__}
if "compressed_tensors" in sys.modules:
    versions["compressed-tensors"] = sys.modules["compressed_tensors"].__version__
save_file({"output": output.float().contiguous()}, found, metadata=versions)
"""


def verify(model: Any, directory: Path) -> Comparison:
    """Compare a checkpoint, opened by plain Transformers, with the model that it was made of, on random inputs.

    Raises:
        ExportError: Transformers cannot open it.
        EvaluationError: What the model reads is not known.
    """
    inputs, expected = sample(model)
    with tempfile.TemporaryDirectory() as place:
        given, found = Path(place, "given.safetensors"), Path(place, "found.safetensors")
        save_file({name: tensor.cpu().contiguous() for name, tensor in inputs.items()}, given)
        dtype = str(dtype_of(model)).removeprefix("torch.")
        arguments = [str(directory.absolute()), type(model).__name__, dtype, str(given), str(found)]
        done = subprocess.run(
            [sys.executable, "-c", _SCRIPT, *arguments, str(torch.get_num_threads())],
            cwd=place,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            why = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
            raise ExportError(f"Transformers cannot open what was written: {why[0]}; verify=False writes it still")
        output = load_file(found)["output"]
    error, allowed = relative_error(output, expected.cpu()), allowed_error(model, inputs, expected)
    figures = {"relative error of outputs": error, "allowed": allowed}
    return Comparison("plain Transformers", figures, error <= allowed)
