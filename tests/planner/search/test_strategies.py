"""What every search strategy promises, tried on all that the table names."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_quant.errors import ConfigError, EvaluationError, InfeasibleBudget, UnknownName
from hf_quant.planner.budget import Budget
from hf_quant.planner.limits import limits_of
from hf_quant.planner.search import STRATEGIES
from tests.planner.problems import budget_between, everything, model, problems, tangled

EACH = pytest.mark.parametrize("name", list(STRATEGIES))
SOME = settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))


def tried(name, problem, budget, **options):
    """The solution, or None where the budget cannot be kept or need not be."""
    try:
        return STRATEGIES[name](problem, budget, evaluations=5, **options)
    except InfeasibleBudget:
        return None


@EACH
@SOME
@given(data=st.data(), timed=st.booleans(), seed=st.integers(0, 99))
def test_every_step_keeps_the_budget_to_the_byte(name, data, timed, seed):
    problem = data.draw(problems(timed=timed))
    size = budget_between(data.draw, problem, lambda totals: totals.bytes)
    time = budget_between(data.draw, problem, lambda totals: totals.milliseconds) if timed else None
    if not size or time == 0:
        return
    budget = Budget(bytes=size, milliseconds=time)
    solution = tried(name, problem, budget, seed=seed)
    fits = [one for one, totals in everything(problem) if limits_keep(budget, totals)]
    if solution is None:
        assert not fits
        return
    for step in solution.history:
        assert step.assignment in fits
        assert problem.totals(step.assignment).bytes == step.bytes
    assert solution.assignment in fits
    assert solution.evaluations == len(solution.history) <= 5


def limits_keep(budget, totals):
    return totals.bytes <= budget.bytes and (budget.milliseconds is None or totals.milliseconds <= budget.milliseconds)


@EACH
@SOME
@given(data=st.data(), seed=st.integers(0, 99))
def test_with_time_alone_every_step_is_fast_enough(name, data, seed):
    problem = data.draw(problems(timed=True))
    time = budget_between(data.draw, problem, lambda totals: totals.milliseconds)
    if time == 0:
        return
    solution = tried(name, problem, Budget(milliseconds=time), seed=seed)
    assert solution is None or all(step.milliseconds <= time for step in solution.history)


@EACH
def test_the_budget_is_spent(name):
    problem = model(units=20)
    solution = STRATEGIES[name](problem, "5.0bpw", evaluations=10)
    assert 4.85 < problem.bits_per_weight(solution.assignment) <= 5.0


@EACH
def test_a_target_is_met_within_the_size_that_was_allowed(name):
    problem = model(units=20)
    solution = STRATEGIES[name](problem, "drop<=5%,25%", evaluations=30)
    assert solution.bytes <= 0.25 * problem.float_bytes
    if name != "random":  # which finds one by chance only
        assert solution.predicted_loss <= 0.05


@EACH
def test_seeds_decide_everything(name):
    problem = model()
    runs = [STRATEGIES[name](problem, "4.5bpw", tangled(problem), 20, seed=seed) for seed in (3, 3, 4)]
    assert runs[0] == runs[1]
    assert runs[0].evaluations == 1 or runs[0].history != runs[2].history


@EACH
def test_no_assignment_is_measured_twice_and_the_best_measured_is_returned(name):
    problem, asked = model(), []

    def measure(assignment):
        asked.append(assignment)
        return tangled(problem)(assignment)

    solution = STRATEGIES[name](problem, "4.5bpw", measure, 15)
    assert len(asked) == len(set(asked)) == solution.evaluations <= 15
    assert solution.measured_loss == min(map(tangled(problem), asked)) == tangled(problem)(solution.assignment)


@EACH
def test_without_measuring_there_is_no_measured_loss(name):
    solution = STRATEGIES[name](model(), "4.5bpw", evaluations=5)
    assert solution.measured_loss is None and solution.loss == solution.predicted_loss


@EACH
@pytest.mark.parametrize(
    ("budget", "message"), [("1bpw", r"1bpw cannot be kept: .* needs 2\.25bpw"), ("100%", "float model keeps to 100%")]
)
def test_infeasible_budgets_are_refused_before_anything_is_measured(name, budget, message):
    with pytest.raises(InfeasibleBudget, match=message):
        STRATEGIES[name](model(), budget, lambda assignment: pytest.fail("measured"))


@EACH
def test_two_limits_that_contradict_each_other_are_refused(name):
    problem = model(timed=True)
    limits = limits_of(problem, "2.25bpw")
    # Every option of more bytes takes more time here, so that only the time's own least is feasible with it.
    with pytest.raises(InfeasibleBudget):
        STRATEGIES[name](problem, Budget(bytes=limits.bytes, milliseconds=0.2))


@EACH
def test_a_loss_that_is_nan_is_refused(name):
    with pytest.raises(EvaluationError, match="NaN"):
        STRATEGIES[name](model(), "4.5bpw", lambda assignment: float("nan"))


@EACH
def test_no_evaluations_at_all_are_refused(name):
    with pytest.raises(ConfigError, match="evaluations must be"):
        STRATEGIES[name](model(), "4.5bpw", evaluations=0)


@pytest.mark.parametrize("name", ["evolutionary", "rl", "random"])
def test_a_start_beyond_the_budget_is_refused(name):
    problem = model()
    with pytest.raises(ConfigError, match="beyond the budget"):
        STRATEGIES[name](problem, "4.5bpw", start=tuple(len(unit.options) - 1 for unit in problem.units))


def test_unknown_strategies_are_named_with_those_that_are_known():
    with pytest.raises(UnknownName, match="did you mean 'greedy'"):
        STRATEGIES["greedi"]


@pytest.mark.parametrize(("name", "seed"), [("evolutionary", 0), ("evolutionary", 1), ("rl", 0), ("rl", 1)])
def test_searches_that_measure_improve_on_their_start_where_losses_do_not_add_up(name, seed):
    problem = model(units=16, seed=seed)
    loss = tangled(problem)
    start = STRATEGIES["greedy"](problem, "4.5bpw").assignment
    found = STRATEGIES[name](problem, "4.5bpw", loss, 60, seed=seed, start=start)
    assert found.measured_loss < 0.95 * loss(start)


@pytest.mark.parametrize("name", ["evolutionary", "rl"])
def test_searches_shrink_a_model_that_loses_less_than_predicted(name):
    problem = model(units=16)
    start = STRATEGIES["greedy"](problem, "drop<=5%").assignment
    found = STRATEGIES[name](problem, "drop<=5%", lambda one: problem.totals(one).loss / 3, 40, start=start)
    assert found.measured_loss <= 0.05
    assert found.bytes < problem.totals(start).bytes


@pytest.mark.parametrize("name", ["evolutionary", "rl"])
def test_searches_grow_a_model_that_loses_more_than_predicted_until_it_meets_the_target(name):
    problem = model(units=16)
    start = STRATEGIES["greedy"](problem, "drop<=5%").assignment
    found = STRATEGIES[name](problem, "drop<=5%", lambda one: problem.totals(one).loss * 1.2, 60, start=start)
    assert found.measured_loss <= 0.05
