"""Fixed policies that every result is held against, played through the same environment as the team.

random, popular                  know nothing of the user
cf, content, sentiment           one agent alone
equal_weights, best_static       all agents under fixed weights; the best are searched on training users
greedy_oracle, horizon_oracle    see tastes and satiation; the second also what a slate does to the next ones
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ..platform import draws
from ..platform.ranking import descending_keys, key_index, smallest
from .appeal import of_catalog
from .batched import BatchedEnv, Stage, Step
from .session import WEARINESS

RANDOM_STREAM = 100

Act = Callable[[BatchedEnv, Mapping[str, Tensor]], Step]
"""A policy: plays one step of the environment from its observations."""


@dataclass(frozen=True)
class Outcome:
    """How B sessions went under a policy.

    Attributes:
        returns: `(B,)` float32, sum of the team's reward until the session ended.
        lengths: `(B,)` int64, slates shown.
        clicks: `(B,)` float32.
    """

    returns: Tensor
    lengths: Tensor
    clicks: Tensor


@torch.no_grad()
def play(
    env: BatchedEnv, act: Act, numbers: Tensor | None = None, watch: Callable[[Step], None] | None = None
) -> Outcome:
    """Plays the env's sessions to their ends; a session that ended is stepped on with the rest but counts no more."""
    observations = env.reset() if numbers is None else env.start(numbers)
    returns = torch.zeros(env.sessions, device=env.device)
    clicks, lengths, alive = returns.clone(), returns.long(), torch.ones_like(returns, dtype=torch.bool)
    for _ in range(env.experiment.env.horizon):
        step = act(env, observations)
        if watch is not None:
            watch(step)
        returns += step.reward * alive
        clicks += step.response.click.sum(1) * alive
        lengths += alive
        alive = alive & ~step.done
        observations = step.observations
        if not bool(alive.any()):
            break
    return Outcome(returns, lengths, clicks)


def top(scores: Tensor, places: int) -> Tensor:
    """`(B, places)` items with the highest scores `(B, N)`, ties to the lower index."""
    index = torch.arange(scores.shape[1], device=scores.device)
    return key_index(smallest(descending_keys(scores, index), places))


def random(env: BatchedEnv, _: Mapping[str, Tensor]) -> Step:
    """Items drawn at random, by (seed, session, step)."""
    state = env.state
    scores = draws.uniform(env.seed, state.session, state.step, RANDOM_STREAM, env.world.num_items)
    return env.show(top(env.unseen(scores), env.slate))


def popular(env: BatchedEnv, _: Mapping[str, Tensor]) -> Step:
    """The items that were liked most often in the train part."""
    return env.show(top(env.unseen(env.world.item_popularity.expand(env.sessions, -1)), env.slate))


def weighted(weights: Tensor) -> Act:
    """The towers as they are under fixed weights `(A,)`, or `(B, A)` for different ones in each row."""

    def act(env: BatchedEnv, _: Mapping[str, Tensor]) -> Step:
        return env.step({}, weights.expand(env.sessions, -1))

    return act


def _appeals(env: BatchedEnv) -> Tensor:
    """`(B, N)` what orders the catalog by the chance of a click now, items already shown far below."""
    world, state = env.world, env.state
    liking = of_catalog(state.taste, world.item_vectors, world.combine, world.temperature) + world.item_bias
    tired = state.satiation[:, world.item_topic]
    if world.reading == "places":
        return env.unseen(liking - tired)
    return env.unseen(logsigmoid(liking + world.user_bias[state.user][:, None]) - WEARINESS * tired)


def greedy_oracle(env: BatchedEnv, _: Mapping[str, Tensor]) -> Step:
    """The K items most likely to be clicked now."""
    return env.show(top(_appeals(env), env.slate))


def horizon_oracle(caution: float, spread: float) -> Act:
    """A planner that sees the hidden state and pays now for what satiation will cost.

    Showing an item of a topic makes every later item of it less wanted, and more so the longer the topic is worn. The
    logit of an item therefore loses `caution` times the satiation of its topic over again, and `spread` for each item
    of the topic that is already on the slate; with both at 0 this is the greedy oracle. The two are searched by
    simulation (`search_horizon`), so that it is never the worse of the two on the sessions searched.
    """

    def act(env: BatchedEnv, _: Mapping[str, Tensor]) -> Step:
        topic = env.world.item_topic
        scores = _appeals(env) - caution * env.state.satiation[:, topic]
        slate = []
        for _place in range(env.slate):
            best = scores.argmax(1, keepdim=True)
            slate.append(best)
            scores.scatter_(1, best, -torch.inf)
            if spread > 0:
                scores -= spread * (topic == topic[best])
        return env.show(torch.cat(slate, dim=1))

    return act


CAUTIONS = (0.0, 1.0, 2.0, 4.0, 8.0)
SPREADS = (0.0, 0.2, 0.5)


def search_horizon(env: BatchedEnv) -> tuple[float, float]:
    """Caution and spread of the horizon-aware oracle with the best mean return on the env's sessions."""
    tried = {
        pair: play(env, horizon_oracle(*pair)).returns.mean().item() for pair in itertools.product(CAUTIONS, SPREADS)
    }
    return max(tried, key=lambda pair: tried[pair])


SEARCH_SESSIONS = (2_048, 6_144)
"""Sessions of a round of the search for static weights, at least and at most."""

SEARCH_SCORES = 32_000_000
"""Between those, so many sessions times items."""


def simplex(agents: int, parts: int) -> Tensor:
    """`(W, agents)`: all weights that are multiples of 1 / parts and sum to 1."""
    cuts = itertools.combinations(range(parts + agents - 1), agents - 1)
    rows = [[b - a - 1 for a, b in itertools.pairwise((-1, *cut, parts + agents - 1))] for cut in cuts]
    return torch.tensor(rows, dtype=torch.float32) / parts


def search_sessions(num_items: int) -> int:
    """Sessions of a round of a search in a catalog of that many items."""
    fewest, most = SEARCH_SESSIONS
    return min(max(SEARCH_SCORES // num_items, fewest), most)


def search_weights(make_env: Callable[[int], BatchedEnv], rounds: int = 3) -> Tensor:
    """The best static weights `(A,)`, by successive halving over a grid of the simplex.

    Each round plays one number of sessions in all, fewer where the catalog is large, shared out among the weights
    still in the running, and keeps the better third;
    every weight plays the same sessions, so that luck is shared too (Jamieson and Talwalkar 2016).

    Args:
        make_env: gives an environment of that many sessions, on training users.
    """
    env = make_env(1)
    sessions = search_sessions(env.world.num_items)
    field = simplex(len(env.recommenders), 6 if len(env.recommenders) <= 3 else 4).to(env.device)
    for turn in range(rounds):
        each = max(1, sessions // len(field))
        numbers = torch.arange(each, device=env.device).repeat(len(field)) + turn * sessions
        rows = field.repeat_interleave(each, dim=0)
        scores = play(make_env(len(numbers)), weighted(rows), numbers).returns.view(len(field), each).mean(1)
        field = field[scores.topk(max(1, len(field) // 3)).indices]
    return field[0]


def yardsticks(stage: Stage) -> dict[str, Act]:
    """Every yardstick by the name it has in tables."""
    names = stage.ensemble.recommenders
    alone = torch.eye(len(names), device=stage.ensemble.device)
    return {
        "random": random,
        "popular": popular,
        **{name: weighted(alone[place]) for place, name in enumerate(names)},
        "equal_weights": weighted(torch.full_like(alone[0], 1.0 / len(names))),
        "best_static": weighted(stage.best_static),
        "greedy_oracle": greedy_oracle,
        "horizon_oracle": horizon_oracle(*stage.horizon_rule),
    }
