"""Search strategies: from a problem and a budget to an assignment. One a file."""

from hf_quant.registry import Registry

STRATEGIES = Registry(
    "search strategy",
    {
        "ilp": "hf_quant.planner.search.ilp:ilp",
        "greedy": "hf_quant.planner.search.greedy:greedy",
        "evolutionary": "hf_quant.planner.search.evolutionary:evolutionary",
        "rl": "hf_quant.planner.search.rl:rl",
        "uniform": "hf_quant.planner.search.uniform:uniform",
        "random": "hf_quant.planner.search.random_search:random_search",
        "proportional": "hf_quant.planner.search.proportional:proportional",
    },
)

OPTIONS = {name: {"evaluations": 30, "seed": 0} for name in ("evolutionary", "rl", "random")}
"""Options, with their defaults, of the strategies that measure plans themselves; others have none."""
