"""Random damage to a checkpoint of another program: ``python fuzz.py FOLDER ROUNDS SEED WORK``; prints outcomes."""

import collections
import json
import random
import shutil
import sys
import warnings
from pathlib import Path

warnings.simplefilter("ignore")

import torch  # noqa: E402

from hf_quant.errors import HfQuantError  # noqa: E402
from hf_quant.workflows.convert_checkpoint import convert_checkpoint  # noqa: E402

JUNK = [None, True, False, 0, 1, -1, 2, 3, 7, 2**31, 10**30, 0.5, "", "x", "re:(", "Linear", [], {}, [1], {"a": 1}]


def places(value, path=()):
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def damage_config(path, rng):
    values = json.loads(path.read_text())
    *parents, key = rng.choice([each for each in places(values["quantization_config"])])
    holder = values["quantization_config"]
    for parent in parents:
        holder = holder[parent]
    if rng.random() < 0.7 or isinstance(holder, list):
        holder[key] = rng.choice(JUNK)
    else:
        del holder[key]
    path.write_text(json.dumps(values))


def damage_bytes(path, rng):
    content = bytearray(path.read_bytes())
    end = len(content)
    if path.suffix == ".safetensors" and rng.random() < 0.5:
        end = 8 + int.from_bytes(content[:8], "little")
    elif path.suffix == ".gguf" and rng.random() < 0.5:
        end = min(end, 4096)
    if rng.random() < 0.15:
        content = content[: rng.randrange(len(content))]
    else:
        for _ in range(rng.choice([1, 1, 2, 8])):
            content[rng.randrange(end)] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def main(folder, rounds, seed, work):
    folder, work, rng = Path(folder), Path(work), random.Random(int(seed))
    torch.set_num_threads(1)
    outcomes = collections.Counter()
    for index in range(int(rounds)):
        damaged, output = work / "damaged", work / "ours"
        for each in (damaged, output):
            shutil.rmtree(each, ignore_errors=True)
        shutil.copytree(folder, damaged)
        weights = next(path for path in damaged.iterdir() if path.suffix in (".safetensors", ".gguf"))
        config = damaged / "config.json"
        if config.exists() and rng.random() < 0.5:
            damage_config(config, rng)
        else:
            damage_bytes(weights, rng)
        try:
            convert_checkpoint(weights if weights.suffix == ".gguf" else damaged, output)
            outcomes["converted"] += 1
        except HfQuantError as error:
            outcomes[type(error).__name__] += 1
            assert not output.exists() and not list(work.glob(".ours*")), "something was left behind"
        except Exception as error:
            print("round", index, "raised", type(error).__name__, str(error)[:300])
            raise
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main(*sys.argv[1:])
