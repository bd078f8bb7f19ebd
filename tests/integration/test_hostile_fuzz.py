"""Random damage, in a process of its own: an error or a model in range, never a fault and never silence."""

import json
import subprocess
import sys

import pytest

ROUNDS = 150
"""Per target; about a hundredth of a second each."""

FUZZER = '''
import collections, json, pathlib, random, sys, warnings
warnings.simplefilter("ignore")
import torch
import transformers
from hf_quant.errors import HfQuantError
from tests.integration.tampering import CONFIG, WEIGHTS, SCHEMES, Tamper, assert_in_range, load, logits, save_all

target, seed, rounds, root = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), pathlib.Path(sys.argv[4])
transformers.logging.set_verbosity(transformers.logging.CRITICAL)
transformers.logging.disable_progress_bar()
torch.set_num_threads(1)
rng = random.Random(seed)
tamper = Tamper(save_all(root / "intact"), root / "damaged")

def flipped(content, start, end):
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 8])):
        content[rng.randrange(start, end)] ^= 1 << rng.randrange(8)
    return bytes(content)

def header_end(content):
    return 8 + int.from_bytes(content[:8], "little")

def places(value, path=()):
    """Every place in nested JSON, as a path of keys."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))

JUNK = [None, True, False, 0, 1, -1, 2, 3, 7, 2**31, 10**30, 0.5, "", "x", "re:(a+)+$", "*", "float"]
JUNK += [[], {}, [1], {"a": 1}]

def mutated(values):
    """One to three edits below quantization_config: another value, a removed key, a renamed key, two swapped."""
    section = values["quantization_config"]
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        options = [p for p in places(section) if p != ("quant_method",)]
        if not options:
            return
        *parents, key = rng.choice(options)
        holder = section
        for parent in parents:
            holder = holder[parent]
        action = rng.randrange(4)
        if action == 0 or isinstance(holder, list):
            holder[key] = rng.choice(JUNK)
        elif action == 1:
            del holder[key]
        elif action == 2:
            holder[str(key) + rng.choice(["x", ".weight", "*", " "])] = holder.pop(key)
        else:
            other = rng.choice([other for other in holder if other != "quant_method"])
            holder[key], holder[other] = holder[other], holder[key]

def damage(name):
    if target == "header":
        return tamper.bytes(name, WEIGHTS, lambda content: flipped(content, 0, header_end(content)))
    if target == "body":
        return tamper.bytes(name, WEIGHTS, lambda content: flipped(content, header_end(content), len(content)))
    if target == "config-bytes":
        return tamper.bytes(name, CONFIG, lambda content: flipped(content, 0, len(content)))
    return tamper.config(name, mutated)

outcomes, foreign = collections.Counter(), {}
names = sorted(name for name in SCHEMES if name != "bert-fp16")
for index in range(rounds):
    name = names[index % len(names)]
    directory = damage(name)
    print(index, name, file=sys.stderr, flush=True)
    try:
        model = load(directory)
        assert_in_range(model)
        logits(model)
        outcomes["loaded"] += 1
    except HfQuantError as error:
        assert len(str(error)) > 20, error
        outcomes["refused"] += 1
    except AssertionError:
        raise
    except Exception as error:
        outcomes["raised elsewhere"] += 1
        foreign.setdefault(f"{type(error).__module__}.{type(error).__name__}", f"{index} {name}: {str(error)[:200]}")
print(json.dumps({"outcomes": outcomes, "foreign": foreign}))
'''


def fuzz(target, seed, rounds, directory):
    command = [sys.executable, "-c", FUZZER, target, str(seed), str(rounds), str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, f"exit {done.returncode} (negative: signal)\n{done.stderr[-3000:]}"
    report = json.loads(done.stdout.splitlines()[-1])
    assert sum(report["outcomes"].values()) == rounds
    return report


def check(report, target):
    outcomes, foreign = report["outcomes"], report["foreign"]
    assert outcomes["refused"] > 0, report
    if target in ("body", "plan"):
        # Bits of a body cannot be anybody else's to reject, nor can a plan.
        assert not foreign, report


@pytest.mark.parametrize("target", ["header", "body", "plan", "config-bytes"])
def test_random_damage_never_crashes_and_never_loads_out_of_range(tmp_path, target):
    check(fuzz(target, 0, ROUNDS, tmp_path), target)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("seed", range(1, 4))
@pytest.mark.parametrize("target", ["header", "body", "plan", "config-bytes"])
def test_much_random_damage_never_crashes_and_never_loads_out_of_range(tmp_path, target, seed):
    check(fuzz(target, seed, 20 * ROUNDS, tmp_path), target)
