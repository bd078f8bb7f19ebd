"""Reinforcement learning: an actor gives each unit its level in turn, and the measured loss is the reward.

After HAQ (Wang et al., arXiv:1811.08886): deep deterministic policy gradients (Lillicrap et al., arXiv:1509.02971) with
one action a unit from 0 to 1, the unit's features and the action before it as state, actions lowered until the limits
of the hardware are kept, and one reward for the whole episode. Different from HAQ, the actor says what to change of the
best assignment so far, which at first is the start: from nothing, hundreds of episodes go by before it is as good as
`greedy`.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hf_quant.planner.budget import Budget
from hf_quant.planner.limits import Limits, limits_of
from hf_quant.planner.problem import Assignment, Problem
from hf_quant.planner.search.base import Evaluate, Solution
from hf_quant.planner.search.evaluator import Evaluator
from hf_quant.planner.search.feasible import feasible
from hf_quant.planner.search.greedy import descended
from hf_quant.planner.search.moves import Ladder, Walk

_WIDTH = 64
_UPDATES = 4
"""Number of training batches after each episode."""
_BATCH = 64
_MEMORY = 64
"""Number of episodes that are kept to learn from."""
_NOISE = 0.35
_NOISE_DECAY = 0.99
_LEAST_NOISE = 0.15
_REACH = 0.3
"""Largest change by the actor, as a share of a unit's levels."""
_HABIT = 0.05
"""Weight of the penalty on the actor's squared change: a critic that knows little should not lead it far."""
_RATE = 1e-3
_BASELINE_DECAY = 0.9
_REPEATS = 100
"""Number of repeated assignments in a row after which the search ends."""


def rl(
    problem: Problem,
    budget: Budget | str | float,
    evaluate: Evaluate | None = None,
    evaluations: int = 100,
    seed: int = 0,
    start: Assignment | None = None,
    progress: bool = False,
) -> Solution:
    """Reinforcement learning with an actor and a critic, from `start` or from what `greedy` finds.

    torch's global random state is neither read nor changed.
    """
    limits = limits_of(problem, budget)
    first = descended(problem, limits) if start is None else tuple(start)
    with Evaluator(problem, limits, evaluate, evaluations, "rl", progress) as evaluator:
        evaluator(first)
        world = _World(problem, limits, first)
        agent = _Agent(world, seed)
        scale = _Reward(evaluator, first)
        noise, repeats, best = _NOISE, 0, first
        while evaluator.left and repeats < _REPEATS:
            actions = agent.act(noise)
            assignment = world.bounded(actions, agent.random)
            if evaluator.seen(assignment):
                repeats += 1
                continue
            repeats = 0
            # What was done counts, not what was asked for: the critic learns the limits so.
            agent.remember(world.actions(assignment), scale(assignment))
            if evaluator.rank(assignment) < evaluator.rank(best):
                best = assignment
                agent.best = world.actions(best)
            agent.learn()
            noise = max(_LEAST_NOISE, noise * _NOISE_DECAY)
        return evaluator.best()


class _World:
    """A search problem as states and actions for an agent."""

    def __init__(self, problem: Problem, limits: Limits, first: Assignment):
        self.problem, self.limits, self.first = problem, limits, first
        self.ladder = Ladder(problem, limits)
        self.base = feasible(problem, limits)
        self.features = _standardized(torch.tensor([self._features(unit) for unit in range(len(problem.units))]))

    def _features(self, unit: int) -> list[float]:
        entry, rungs = self.problem.units[unit], self.ladder.rungs[unit]
        low, high = entry.options[rungs[0]], entry.options[rungs[-1]]
        start = entry.options[self.first[unit]]
        return [
            unit / len(self.problem.units),
            math.log(entry.weights),
            math.log1p(abs(high.bytes - low.bytes)),
            math.log1p(high.milliseconds or 0.0),
            float(len(rungs)),
            low.loss - high.loss,
            start.loss,
            8 * start.bytes / entry.weights,
        ]

    def level(self, unit: int, index: int) -> int:
        """Level of a unit's option, on the ladder or not: the number of cheaper levels, at most the highest level."""
        top = len(self.ladder.rungs[unit]) - 1
        cost = self.ladder.cost(unit, index)
        return min(top, sum(self.ladder.cost(unit, rung) < cost for rung in self.ladder.rungs[unit]))

    def actions(self, assignment: Assignment) -> Tensor:
        """Actions that an assignment stands for: each level as a share of the highest, float32 `[units]`."""
        tops = [max(1, len(rungs) - 1) for rungs in self.ladder.rungs]
        return torch.tensor([self.level(unit, index) / tops[unit] for unit, index in enumerate(assignment)])

    def bounded(self, actions: Tensor, numbers: random.Random) -> Assignment:
        """The assignment that actions stand for, lowered until limits are kept.

        First where an action was rounded up most; units that were rounded alike take turns by chance.
        """
        levels = [action * (len(rungs) - 1) for action, rungs in zip(actions.tolist(), self.ladder.rungs, strict=True)]
        indices = tuple(rungs[round(level)] for level, rungs in zip(levels, self.ladder.rungs, strict=True))
        walk = Walk(self.problem, self.limits, indices)
        jitter = [numbers.uniform(0, 0.5) for _ in levels]

        def rounded_up() -> list[int]:
            above = [self.level(unit, index) - levels[unit] + jitter[unit] for unit, index in enumerate(walk.indices)]
            return sorted(range(len(above)), key=lambda unit: -above[unit])

        walk.down(self.ladder, self.base, rounded_up)
        if self.limits.loss is None:
            walk.up(self.ladder, lambda: reversed(rounded_up()))
        return walk.assignment


class _Reward:
    """Reward of an assignment: its loss, negative and scaled so that the start has about 0; clipped to -3 and 3."""

    def __init__(self, evaluator: Evaluator, first: Assignment):
        self.evaluator, self.first = evaluator, evaluator(first)
        options = evaluator.problem.units
        spread = math.fsum(max(o.loss for o in u.options) - min(o.loss for o in u.options) for u in options)
        self.scale = max(abs(self.first) if math.isfinite(self.first) else 0.0, 0.05 * spread, 1e-12)

    def __call__(self, assignment: Assignment) -> float:
        loss = self.evaluator(assignment)
        target = self.evaluator.limits.loss
        if target is None:
            reward = (self.first - loss) / self.scale if math.isfinite(self.first) else -loss / self.scale
        elif loss <= target:
            reward = 1 - self.evaluator.problem.totals(assignment).bytes / self.evaluator.problem.float_bytes
        else:
            reward = (target - loss) / self.scale
        return -3.0 if math.isnan(reward) else min(3.0, max(-3.0, reward))


@dataclass(eq=False)
class _Episode:
    actions: Tensor
    reward: float


class _Agent:
    """Actor and critic networks, and the episodes that they learn from."""

    def __init__(self, world: _World, seed: int):
        self.features, self.best = world.features, world.actions(world.first)
        self.random = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        width = self.features.shape[1]
        self.actor = self._network(width + 1)
        self.critic = self._network(width + 2)
        nn.init.zeros_(self.actor[-1].weight)  # type: ignore[arg-type]
        self.actor_steps = torch.optim.Adam(self.actor.parameters(), _RATE)
        self.critic_steps = torch.optim.Adam(self.critic.parameters(), _RATE)
        self.episodes: list[_Episode] = []
        self.baseline = 0.0

    def _network(self, inputs: int) -> nn.Sequential:
        layers = [nn.utils.skip_init(nn.Linear, *size) for size in ((inputs, _WIDTH), (_WIDTH, _WIDTH), (_WIDTH, 1))]
        with torch.no_grad():
            for layer in layers:
                layer.weight.normal_(0, layer.in_features**-0.5, generator=self.generator)
                layer.bias.zero_()
        return nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])

    def change(self, features: Tensor, before: Tensor) -> Tensor:
        """The actor's change of the best actions `[n]`, for features `[n, f]` and the actions before them `[n]`."""
        return _REACH * torch.tanh(self.actor(torch.cat([features, before[:, None]], 1))[:, 0])

    def act(self, noise: float) -> Tensor:
        """Actions of one episode, float32 `[units]`, with truncated normal noise as in HAQ on some of the units."""
        actions, before = [], torch.zeros(1)
        # On few units in most episodes: with noise on all, no reward could be traced to an action.
        few = 2 / len(self.best)
        share = max(few, self.random.choice([few, few, 0.1, 0.4]))
        with torch.no_grad():
            for unit in range(len(self.best)):
                action = (self.best[unit] + self.change(self.features[unit : unit + 1], before)).clamp(0, 1)
                if self.random.random() < share:
                    action = torch.tensor([self._truncated(float(action), noise)])
                actions.append(action)
                before = action
        return torch.cat(actions)

    def _truncated(self, mean: float, deviation: float) -> float:
        while True:
            value = self.random.gauss(mean, deviation)
            if 0 <= value <= 1:
                return value

    def remember(self, actions: Tensor, reward: float) -> None:
        """Add an episode to the memory and move the baseline towards its reward."""
        self.baseline = _BASELINE_DECAY * self.baseline + (1 - _BASELINE_DECAY) * reward
        # The best stays: it is what the actor should not forget.
        if len(self.episodes) == _MEMORY:
            best = max(self.episodes, key=lambda episode: episode.reward)
            self.episodes.remove(next(episode for episode in self.episodes if episode is not best))
        self.episodes.append(_Episode(actions, reward))

    def learn(self) -> None:
        """Train the critic towards the rewards of past episodes, then the actor towards what the critic values.

        All steps of an episode get its reward, less the baseline; with no other reward and no discount, that is their
        value, and no target networks are needed.
        """
        for _ in range(_UPDATES):
            picked = torch.randint(len(self.episodes), (_BATCH,), generator=self.generator)
            units = torch.randint(len(self.best), (_BATCH,), generator=self.generator)
            rows = torch.stack([self.episodes[int(number)].actions for number in picked])
            value = torch.tensor([self.episodes[int(number)].reward for number in picked]) - self.baseline
            done = rows.gather(1, units[:, None])[:, 0]
            before = torch.where(units > 0, rows.gather(1, (units - 1).clamp(min=0)[:, None])[:, 0], 0.0)
            features = self.features[units]
            error = (self._value(features, before, done) - value).square().mean()
            self._step(self.critic_steps, error)
            change = self.change(features, before)
            gain = self._value(features, before, (self.best[units] + change).clamp(0, 1))
            self._step(self.actor_steps, (_HABIT * (change / _REACH).square() - gain).mean())

    def _value(self, features: Tensor, before: Tensor, action: Tensor) -> Tensor:
        return self.critic(torch.cat([features, before[:, None], action[:, None]], 1))[:, 0]

    def _step(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        self.actor_steps.zero_grad()
        self.critic_steps.zero_grad()
        loss.backward()
        optimizer.step()


def _standardized(features: Tensor) -> Tensor:
    """Features with each column scaled to mean 0 and deviation 1; constant columns become 0."""
    centred = features - features.mean(0)
    return centred / centred.square().mean(0).sqrt().clamp(min=1e-6)
