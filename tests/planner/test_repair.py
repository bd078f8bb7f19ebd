"""Repair measures, mends what was predicted wrongly, and never leaves the budget."""

import pytest

from hf_quant.errors import ConfigError, EvaluationError
from hf_quant.planner.limits import limits_of
from hf_quant.planner.repair import repair
from hf_quant.planner.search.greedy import greedy
from hf_quant.planner.search.uniform import uniform
from tests.planner.problems import model, tangled


def scaled(problem, factor):
    return lambda assignment: factor * problem.totals(assignment).loss


def test_a_missed_target_is_met_by_raising_units_one_at_a_time():
    problem = model()
    solution = greedy(problem, "drop<=5%")
    repaired = repair(problem, "drop<=5%", solution, scaled(problem, 1.3), 20)
    assert repaired.log[0].measured > 0.05 and not repaired.log[-1].measured > 0.05
    assert repaired.met and repaired.solution.measured_loss <= 0.05
    assert repaired.solution.bytes > solution.bytes
    raised = repaired.log[1]
    assert raised.kept and " to " in raised.change and "target 0.05" in raised.reason


def test_room_below_a_target_is_given_back_as_bytes():
    problem = model()
    solution = greedy(problem, "drop<=5%")
    repaired = repair(problem, "drop<=5%", solution, scaled(problem, 0.4), 20)
    assert repaired.met and repaired.solution.bytes < solution.bytes
    assert "leaves room" in repaired.log[-1].reason


def test_a_target_that_cannot_be_met_within_the_size_is_said_to_be_missed():
    problem = model()
    budget = f"drop<=5%,{greedy(problem, 'drop<=5%').bytes}B"
    repaired = repair(problem, budget, greedy(problem, budget), scaled(problem, 10), 15)
    assert not repaired.met and repaired.solution.measured_loss > 0.05


def test_without_a_target_slack_is_spent_first():
    problem = model()
    solution = greedy(problem, "3bpw")
    repaired = repair(problem, "4.5bpw", solution, scaled(problem, 1), 30)
    assert "it fits" in repaired.log[1].reason
    assert repaired.solution.measured_loss < solution.predicted_loss
    assert repaired.solution.bytes > solution.bytes


@pytest.mark.parametrize("seed", range(3))
def test_changes_never_leave_the_budget_and_never_make_it_worse(seed):
    problem, asked = model(seed=seed, timed=True), []
    size = limits_of(problem, "4.5bpw").bytes
    time = problem.totals(greedy(problem, "4.5bpw").assignment).milliseconds * 1.01
    budget = f"4.5bpw,{time}ms"
    start = uniform(problem, budget)

    def measure(assignment):
        asked.append(assignment)
        return tangled(problem)(assignment)

    repaired = repair(problem, budget, start, measure, 12)
    for totals in map(problem.totals, asked):
        assert totals.bytes <= size and totals.milliseconds <= time
    assert len(asked) == len(set(asked)) == len(repaired.log) <= 12
    assert repaired.solution.measured_loss == min(step.measured for step in repaired.log)
    assert repaired.solution.measured_loss < tangled(problem)(start.assignment)


def test_measurements_end_where_nothing_is_left_to_do():
    problem = model(units=1)
    repaired = repair(problem, "99%", greedy(problem, "99%"), scaled(problem, 1), 50)
    assert len(repaired.log) < 8


def test_impossible_calls_are_refused():
    problem = model()
    solution = greedy(problem, "4.5bpw")
    with pytest.raises(ConfigError, match="measurements"):
        repair(problem, "4.5bpw", solution, scaled(problem, 1), 0)
    with pytest.raises(ConfigError, match="beyond the budget"):
        repair(problem, "3bpw", solution, scaled(problem, 1))
    with pytest.raises(EvaluationError, match="NaN"):
        repair(problem, "4.5bpw", solution, lambda assignment: float("nan"))
