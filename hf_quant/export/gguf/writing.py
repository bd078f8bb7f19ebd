"""One GGUF file, which llama.cpp and Ollama read."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

from hf_quant.errors import ConfigError
from hf_quant.export.gguf.architecture import architecture_of
from hf_quant.export.gguf.tensors import entries
from hf_quant.export.gguf.verifying import verify
from hf_quant.export.gguf.vocabulary import describe
from hf_quant.export.target import Target

logger = logging.getLogger(__name__)

FILE = "model.gguf"


def write(model: Any, directory: Path, tokenizer: Any, *, vocabulary: bool | str = True) -> None:
    """Write ``model.gguf``, and the ``Modelfile`` that Ollama makes a model by; see `target.Target`.

    Args:
        model: Quantized, none of whose modules is refused.
        directory: An empty folder.
        tokenizer: Becomes a part of the file; None: callers have to give token ids.
        vocabulary: Whether it does; also as ``"true"`` or ``"false"``.

    Raises:
        ConfigError: `vocabulary` is something else.
        ExportError: llama.cpp has no such model or tokenizer, or float16 does not hold scales.
    """
    import gguf

    if str(vocabulary).lower() not in ("true", "false"):
        raise ConfigError(f"vocabulary is true or false, not {vocabulary!r}")
    vocabulary = str(vocabulary).lower() == "true"
    architecture = architecture_of(model)
    facts = architecture.describe(model)
    found = list(entries(model, architecture))
    writer = gguf.GGUFWriter(directory / FILE, architecture.name)
    writer.add_type("model")
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for name, value in facts.items():
        getattr(writer, f"add_{name}")(value)
    if vocabulary and tokenizer is None:
        logger.warning("no tokenizer is known: %s has none, and takes token ids only; give tokenizer=", FILE)
    describe(writer, tokenizer if vocabulary else None, model.get_input_embeddings().num_embeddings)
    kinds: Counter[str] = Counter()
    for entry in found:
        kind, data = entry.stored()
        kinds[kind] += data.numel()
        writer.add_tensor_info(
            entry.name, data.shape, data.numpy().dtype, data.numel(), gguf.GGMLQuantizationType[kind]
        )
    most = kinds.most_common(1)[0][0]
    writer.add_file_type(gguf.LlamaFileType.ALL_F32 if most == "F32" else gguf.LlamaFileType[f"MOSTLY_{most}"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    # Made a second time, so that no two are in memory at once.
    for entry in found:
        writer.write_tensor_data(entry.stored()[1].numpy())
    writer.close()
    (directory / "Modelfile").write_text(f"FROM ./{FILE}\n", encoding="utf-8")


_RUN = (
    f"llama-cli -m {{directory}}/{FILE}",
    "ollama create MODEL -f {directory}/Modelfile",
)
TARGET = Target(write, _RUN, packages=("gguf",), runtime=("gguf",), extra="gguf", verify=verify)
