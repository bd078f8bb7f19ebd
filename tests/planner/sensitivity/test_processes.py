"""Two processes share an analysis and both have the table that one process makes."""

import json

import pytest
import torch

from hf_quant.planner.offered import SCHEMES
from hf_quant.planner.sensitivity import MEASURES
from hf_quant.planner.sensitivity.analysis import _dealt, analyse
from hf_quant.planner.sensitivity.table import LossTable
from tests.integration.test_distributed_runs import WORLD, in_all_ranks
from tests.integration.tiny import tiny_model, token_ids

SCHEME = (SCHEMES["3 bits"],)
ROWS = {"many": 3, "one": 1}
"""Sequences, and fewer than processes: then modules are shared."""

ANALYSE = """
    import json, sys
    from accelerate import PartialState
    from tests.planner.sensitivity.test_processes import MEASURES, ROWS, table

    state = PartialState(cpu=True)
    found = {f"{measure} {rows}": table(measure, rows).to_dict() for measure in MEASURES for rows in ROWS}
    with open(f"{sys.argv[1]}/{state.process_index}.json", "w") as file:
        json.dump(found, file)
"""


def table(measure, rows):
    return analyse(tiny_model("llama"), [{"input_ids": token_ids(rows=ROWS[rows])}], SCHEME, measure, progress=False)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of the processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    in_all_ranks(ANALYSE, folder)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(WORLD)]


@pytest.mark.parametrize("rows", list(ROWS))
@pytest.mark.parametrize("measure", list(MEASURES))
def test_both_have_the_table_of_one(measure, rows, found):
    first, second = (LossTable.from_dict(each[f"{measure} {rows}"]) for each in found)
    alone = table(measure, rows)
    assert first == second and first.modules == alone.modules
    losses = [torch.tensor(each.losses) for each in (first, alone)]
    assert torch.allclose(*losses, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_rounding_of_weights_is_shared_evenly(ranks):
    sizes = {"embedding": 28, "head": 28, **{f"layers.{index}": 1 + index % 3 for index in range(30)}}
    dealt = _dealt(sizes, ranks)
    loads = [sum(sizes[name] for name in sizes if dealt[name] == rank) for rank in range(ranks)]
    assert set(dealt) == set(sizes) and max(loads) - min(loads) <= min(sizes.values())
    assert _dealt(dict(reversed(sizes.items())), ranks) == dealt  # ranks agree without asking each other
