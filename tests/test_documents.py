"""What the README and the notebooks show runs as it stands there, and what documents list is what there is."""

import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import nbformat
import pytest
import torch
from nbclient import NotebookClient
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hf_quant.algorithms import BLOCK_SOLVERS, SOLVERS, TRANSFORMS
from hf_quant.config.presets import PRESETS
from hf_quant.config.recipe import Recipe
from hf_quant.evaluation import METRICS, TASKS
from hf_quant.observers import OBSERVERS
from tests.evaluation.tiny import task_model, task_rows, tiny_tokenizer
from tests.test_floors import FILES, FLOOR, room_of

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
README = (ROOT / "README.md").read_text(encoding="utf-8")
CALIBRATION = (ROOT / "docs" / "calibration.md").read_text(encoding="utf-8")
EVALUATION = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
DEPLOY = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
PLANNING = (ROOT / "docs" / "planning.md").read_text(encoding="utf-8")
BENCHMARKING = (ROOT / "docs" / "benchmarking.md").read_text(encoding="utf-8")


def blocks(language, *documents):
    return re.findall(rf"```{language}\n(.*?)```", "".join(documents), re.DOTALL)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A directory in which the README's model names are tiny real checkpoints."""
    folder = tmp_path_factory.mktemp("readme")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    text = "\n\n".join(f"the number {number} follows {number - 1}" for number in range(1000))
    words = Tokenizer(models.WordPiece(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.train_from_iterator([text], trainers.WordPieceTrainer(vocab_size=128, special_tokens=["<unk>"]))
    for name in ("your/model", "smollm2"):
        LlamaForCausalLM(config).save_pretrained(folder / name)
        PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(folder / name)
    task_model("text-classification").save_pretrained(folder / "sentiment")
    tiny_tokenizer().save_pretrained(folder / "sentiment")
    rows = task_rows("text-classification")
    (folder / "reviews.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (folder / "texts.txt").write_text(text)
    (folder / "recipes").symlink_to(ROOT / "recipes")
    return folder


@pytest.mark.parametrize(
    "code",
    blocks("python", README, CALIBRATION, EVALUATION, BENCHMARKING, PLANNING, DEPLOY),
    ids=lambda code: code.splitlines()[0],
)
def test_python_blocks_run(code, workplace):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=workplace, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


COMMANDS = """
    import json, sys
    from hf_quant.cli.main import main
    for arguments in json.loads(sys.argv[1]):
        sys.argv = ["hf-quant", *arguments]
        try:
            main()
        except SystemExit as stop:
            if stop.code:
                sys.exit(f"hf-quant {' '.join(arguments)} ended with {stop.code}")
"""


@pytest.mark.timeout(1200)  # a dozen commands, one after another
def test_shell_commands_run(workplace):
    lines = [
        shlex.split(line, comments=True)[1:]
        for block in blocks("bash", README, CALIBRATION, EVALUATION, DEPLOY)
        for line in block.splitlines()
        if line.startswith("hf-quant ")
    ]
    assert len(lines) >= 3
    # In one process, since importing everything takes longer than most of them.
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(COMMANDS), json.dumps(lines)],
        cwd=workplace,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_of_a_document_lead_somewhere(path):
    targets = re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8"))
    assert [target for target in targets if not (path.parent / target).exists()] == []


def test_make_targets_that_documents_name_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for path in DOCUMENTS:
        for target in re.findall(r"^make ([\w-]+)", path.read_text(encoding="utf-8"), re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{path.name} names {target}"


def test_every_guide_is_listed_where_contributors_look():
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    guides = sorted(path.name for path in (ROOT / "docs").glob("adding_*.md"))
    assert [name for name in guides if f"(docs/{name})" not in contributing] == []


def test_the_rooms_of_the_architecture_are_those_of_the_package():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \|", text, re.MULTILINE)
    written = {room: int(floor) for floor, rooms in rows for room in re.findall(r"`(\w+)`", rooms)}
    assert written == {room: FLOOR[room] for room in map(room_of, FILES)}


def test_tasks_and_metrics_of_the_document_are_those_there_are():
    rows = re.findall(r"^\| `([\w-]+)` \|", EVALUATION, re.MULTILINE)
    assert [row for row in rows if not row.startswith("--")] == list(TASKS)
    (listed,) = re.findall(r"need no network: (.*?)\. Any", EVALUATION, re.DOTALL)
    assert re.findall(r"`([\w-]+)`", listed) == list(METRICS)


def test_presets_of_the_readme_are_those_there_are():
    rows = "".join(re.findall(r"^\| (`[^|]+) \|", README, re.MULTILINE))
    assert sorted(re.findall(r"`([\w-]+)`", rows)) == sorted(PRESETS)
    for row in re.findall(r"^\| `(?:int|w)[\w-]+` \|.*$", README, re.MULTILINE):
        name, rotation = re.match(r"\| `([\w-]+)` \|[^|]+\| (\w+) \|", row).groups()
        assert str(PRESETS[name].linear.weight.rotation or "none") == rotation


def test_recipes_of_the_document_are_those_there_are():
    rows = re.findall(r"^\|[^|]+\| `([\w-]+\.yaml)` \| (yes|no) \|", CALIBRATION, re.MULTILINE)
    paths = [path for path in (ROOT / "recipes").glob("*.yaml") if not path.stem.startswith("qat_")]
    takes_data = {path.name: bool(Recipe.from_file(path).calibration) for path in paths}
    assert {name: data == "yes" for name, data in rows} == takes_data


@pytest.mark.parametrize("table", [TRANSFORMS, {**SOLVERS.table, **BLOCK_SOLVERS.table}, OBSERVERS])
def test_algorithms_of_the_document_are_those_there_are(table):
    rows = re.findall(r"^\| `([\w-]+)` \|", CALIBRATION, re.MULTILINE)
    assert set(table) <= set(rows)
    assert set(rows) == {*TRANSFORMS, *SOLVERS, *BLOCK_SOLVERS, *OBSERVERS}


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.name)
def test_notebooks_run(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(tmp_path)}}).execute()
