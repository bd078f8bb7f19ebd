"""Problems with numbers of all kinds, and the whole answer to small ones."""

import math
import random
from itertools import pairwise, product

from hypothesis import strategies as st

from hf_quant.config.scheme import Scheme, TensorScheme
from hf_quant.planner.problem import Option, Problem, Unit

SCHEMES = [Scheme(TensorScheme(bits=bits)) for bits in (2, 3, 4, 5, 6, 8)] + [None]


def model(units=12, seed=0, timed=False, spread=1.5):
    """A problem as models give them: units of unlike sizes and sensitivities, losses that fall with the bits."""
    numbers = random.Random(seed)
    made = []
    for number in range(units):
        weights = numbers.choice([1000, 3000, 3000, 8000])
        sensitivity = math.exp(numbers.gauss(0, spread)) * 0.1
        options = []
        for scheme in SCHEMES:
            bits = 32 if scheme is None else scheme.weight.bits + 0.25
            loss = 0.0 if scheme is None else sensitivity * 4.0**-bits * 16
            options.append(Option(scheme, int(weights * bits / 8), loss, weights * bits * 1e-5 if timed else None))
        made.append(Unit((f"layers.{number}",), weights, tuple(options)))
    size = 500 + sum(unit.options[-1].bytes for unit in made)
    return Problem(tuple(made), fixed_bytes=500, float_bytes=size, fixed_milliseconds=0.1 if timed else 0.0)


def tangled(problem):
    """A loss that does not add up: neighbours that are both coarse lose far more than each alone."""

    def loss(assignment):
        options = problem.chosen(assignment)
        coarse = [0.0 if option.scheme is None else 2.0**-option.scheme.weight.bits for option in options]
        together = sum(a * b for a, b in pairwise(coarse))
        first = 2 * coarse[0]  # the prediction does not know how much the first unit matters
        return problem.totals(assignment).loss + 4 * together + first

    return loss


@st.composite
def problems(draw, timed=False, most_units=5, most_options=4):
    """Any numbers: losses that rise with bytes, equal options, units with one option."""
    units = []
    for number in range(draw(st.integers(1, most_units))):
        schemes = draw(st.lists(st.sampled_from(SCHEMES), min_size=1, max_size=most_options, unique=True))
        options = tuple(
            Option(
                scheme,
                draw(st.integers(0, 400)),
                draw(st.floats(-0.01, 2.0, allow_subnormal=False)),
                draw(st.floats(0, 5, allow_subnormal=False)) if timed else None,
            )
            for scheme in schemes
        )
        units.append(Unit((f"m{number}",), draw(st.integers(1, 500)), options))
    most = sum(max(option.bytes for option in unit.options) for unit in units)
    fixed = draw(st.integers(0, 50))
    return Problem(tuple(units), fixed_bytes=fixed, float_bytes=fixed + most + 1 + draw(st.integers(0, 200)))


def everything(problem):
    """All assignments, with their totals."""
    for assignment in product(*(range(len(unit.options)) for unit in problem.units)):
        yield assignment, problem.totals(assignment)


def budget_between(draw, problem, cost):
    """A limit that some assignment keeps exactly, or that lies between two."""
    costs = sorted({cost(totals) for _, totals in everything(problem)})
    return draw(st.sampled_from(costs))
