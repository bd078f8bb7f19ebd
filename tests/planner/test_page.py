"""Plans as pages: bits and sensitivities stand where their modules are."""

import numpy as np
import pytest

from hf_quant.errors import ConfigError
from hf_quant.planner.offered import SCHEMES
from hf_quant.planner.page.grid import grid_of
from hf_quant.planner.page.pictures import bit_map, fronts, heat_map
from hf_quant.planner.page.write import write_plan_page
from hf_quant.planner.problem import Option, Problem, Unit
from hf_quant.planner.report import search_report
from hf_quant.planner.search import STRATEGIES
from hf_quant.planner.sensitivity.table import LossTable
from hf_quant.reporting.plots.canvas import style

BERT = ("attention.self.query", "attention.output.dense", "intermediate.dense", "output.dense")
NAMES = ("embed", *(f"encoder.layer.{block}.{kind}" for block in (0, 1, 2) for kind in BERT), "pooler.dense")
INT4, INT8 = SCHEMES["4 bits"], SCHEMES["8 bits"]


def table(loss=lambda place: 10.0**-place):
    rows = tuple((loss(place), loss(place) / 100) for place in range(len(NAMES)))
    return LossTable("fisher", "nats", NAMES, (INT4, INT8), rows)


def report(budget="5bpw", times=False):
    units = tuple(
        Unit(
            (name,),
            1000,
            tuple(
                Option(scheme, size, 10.0**-place / size, 0.001 * size if times else None)
                for scheme, size in ((INT4, 500), (INT8, 1000), (None, 4000))
            ),
        )
        for place, name in enumerate(NAMES)
    )
    problem = Problem(units, fixed_bytes=0, float_bytes=4000 * len(NAMES))
    found = [STRATEGIES["greedy"](problem, each) for each in (budget, "4.2bpw", "8bpw")]
    return search_report(problem, budget, found[0], alternatives=found)


def shown(picture, panel=0):
    """The values of a map, ``[kinds, blocks]``."""
    return np.ma.filled(picture.figure.axes[panel].collections[0].get_array(), np.nan)


def test_a_grid_has_blocks_across_and_kinds_down_in_words_that_tell_them_apart():
    grid = grid_of(NAMES)
    assert grid.blocks == (0, 1, 2) and grid.outside == ("embed", "pooler.dense")
    assert grid.kinds == ("attention.self.query", "attention.output.dense", "intermediate.dense", "output.dense")
    assert grid_of(["h.0.attn.c_attn", "h.0.mlp.c_fc"]).kinds == ("c_attn", "c_fc")
    assert grid.places["encoder.layer.2.output.dense"] == (3, 2)
    assert grid_of(["fc", "head"]).places == {}


def test_experts_of_a_block_are_one_row_with_their_mean():
    names = [f"layers.{i}.experts.{e}.{part}" for i in range(2) for e in range(40) for part in ("up", "down")]
    grid = grid_of([*names, "layers.0.attn", "layers.1.attn"])
    assert grid.kinds == ("up", "down", "attn")
    values = {name: float(index) for index, name in enumerate(names)}
    assert grid.means(values)[:2].tolist() == [[39.0, 119.0], [40.0, 120.0]]
    assert np.isnan(grid.means(values)[2]).all()


def test_the_heat_map_shows_each_loss_at_its_module():
    with style():
        picture = heat_map(table())
    assert len(picture.figure.axes) == 3  # two schemes and the bar
    assert shown(picture, 0)[3, 2] == pytest.approx(10.0 ** -NAMES.index("encoder.layer.2.output.dense"))
    assert shown(picture, 1)[0, 0] == pytest.approx(10.0**-1 / 100)


def test_losses_that_are_none_or_not_above_zero_are_blank():
    with style():
        picture = heat_map(table(lambda place: -1.0 if place == 1 else 0.5))
        nothing = heat_map(table(lambda place: -1.0))
    assert np.isnan(shown(picture)[0, 0]) and shown(picture)[1, 0] == 0.5
    assert nothing is None


def test_the_map_of_bits_shows_what_each_module_has():
    found = report()
    with style():
        values = shown(bit_map(found))
    bits = {unit.modules[0]: unit.bits for unit in found.units}
    assert values[0, 0] == bits["encoder.layer.0.attention.self.query"] and len(set(bits.values())) > 1


@pytest.mark.parametrize("times", [False, True])
def test_there_is_a_front_for_time_where_times_are_known(times):
    with style():
        assert [picture.title for picture in fronts([report(times=times)])] == [
            "Size against loss",
            *(["Time against loss"] if times else []),
        ]


def test_a_page_has_all_budgets_and_needs_no_script(tmp_path):
    file = write_plan_page(tmp_path / "plans.html", [report("4.5bpw"), report("6bpw")], table())
    text = file.read_text()
    for words in ("Plan for 4.5bpw", "Plan for 6bpw", "Sensitivity by fisher", "pooler.dense"):
        assert words in text
    assert "<script" not in text
    assert "<image" not in text and "data:" not in text, "the page's own policy shows no images"
    assert write_plan_page(tmp_path / "front.png", report()).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("name", "reports"), [("plans.pdf", [report()]), ("plans", [report()]), ("plans.html", [])])
def test_what_cannot_be_shown_is_refused(name, reports, tmp_path):
    with pytest.raises(ConfigError):
        write_plan_page(tmp_path / name, reports)
    assert not list(tmp_path.iterdir())
