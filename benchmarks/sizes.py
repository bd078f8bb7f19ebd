"""Whole-file size of INT8 and INT4 checkpoints at the shapes of BERT-base and GPT-2, random weights.

python -m benchmarks.sizes
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel
from transformers.utils import logging

import hf_quant

MODELS = {
    "BERT-base (BertModel)": lambda: BertModel(BertConfig()),
    "GPT-2 124M (GPT2LMHeadModel)": lambda: GPT2LMHeadModel(GPT2Config()),
}


def file_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.glob("*.safetensors"))


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    for name, build in MODELS.items():
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder:
            build().save_pretrained(folder)
            original = file_bytes(Path(folder))
        print(f"{name}: float32 {original:,} bytes")
        for preset in ("int8", "int4"):
            torch.manual_seed(0)
            model = hf_quant.quantize(build(), preset, progress=False)
            with tempfile.TemporaryDirectory() as folder:
                model.save_pretrained(folder)
                size = file_bytes(Path(folder))
            print(f"  {preset}: {size:,} bytes, {size / original:.2%} of float32")


if __name__ == "__main__":
    main()
