"""Imports point down: a file imports its own folder and lower floors only."""

import ast
import graphlib
from pathlib import Path

import pytest

import hf_quant

PACKAGE = Path(hf_quant.__file__).parent
FLOORS = [
    "errors",
    "registry extending staging",
    "config hardware data",
    "formats",
    "kernels layouts observers",
    "modules",
    "fusion",
    "calibration evaluation opening",
    "algorithms portability reporting",
    "planner export importing qat",
    "hub",  # below integration, whose saving writes the model card
    "quantizing",
    "training",
    "integration",
    "workflows demo",
    "cli",
]
FLOOR = {room: height for height, rooms in enumerate(FLOORS) for room in rooms.split()}
TOP = {PACKAGE / "__init__.py", PACKAGE / "__main__.py"}
"""What is above all floors: the public names, and what runs the command."""
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path not in TOP)


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_names(source, package):
    """Absolute names that `source`, a module of `package`, imports anywhere: in functions and for type checking too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            above = parts[: len(parts) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def imported_rooms(source, package):
    """Rooms of hf_quant that `source` imports; "" for the package itself, which imports from the top floors."""
    for name in imported_names(source, package):
        root, *rest = name.split(".")
        if root == "hf_quant":
            yield rest[0] if rest and rest[0] in FLOOR else ""


@pytest.mark.parametrize("room", sorted({room_of(path) for path in FILES}))
def test_imports_point_down(room):
    for path in (path for path in FILES if room_of(path) == room):
        package = ".".join(["hf_quant", *path.relative_to(PACKAGE).parts[:-1]])
        for other in imported_rooms(path.read_text(encoding="utf-8"), package):
            assert other, f"{path} imports from the top of the package: name the file that has it"
            assert other == room or FLOOR[other] < FLOOR[room], f"{path} imports {other}"


def test_every_file_and_folder_has_a_floor():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.rglob("*.py"))}
    assert {room_of(path) for path in FILES} | folders <= set(FLOOR)


def test_no_room_is_on_two_floors():
    assert sum(len(rooms.split()) for rooms in FLOORS) == len(FLOOR)


@pytest.mark.parametrize(
    ("source", "rooms"),
    [
        ("import hf_quant.kernels.ops", ["kernels"]),
        ("from hf_quant.modules import base, swap", ["modules", "modules"]),
        ("from hf_quant import kernels", ["kernels"]),
        ("from hf_quant import Plan", [""]),
        ("import hf_quant", [""]),
        ("def late():\n    from hf_quant.cli import main", ["cli"]),
        ("if TYPE_CHECKING:\n    import hf_quant.hub.card", ["hub"]),
        ("from . import rtn", ["algorithms"]),
        ("from ..formats import packing", ["formats"]),
        ("from .. import qat", ["qat"]),
        ("import hf_quantum, torch", []),
    ],
)
def test_every_way_to_import_is_seen(source, rooms):
    assert list(imported_rooms(source, "hf_quant.algorithms")) == rooms


def test_no_file_imports_itself_by_way_of_others():
    """Not even for type checking: what two files need of each other is an idea of its own."""
    names = {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in FILES
    }
    graph = {}
    for name, path in names.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        found = set(imported_names(path.read_text(encoding="utf-8"), package))
        graph[name] = {other for other in found | {each.rpartition(".")[0] for each in found} if other in names} - {
            name
        }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))
