"""What a slate is expected to bring: the reward of a step without the dice, exactly, from the response model.

click probability of each place  ->  clicks, conversions, minutes, satisfaction  ->  their expected sum
                                 ->  distribution of the number of clicks        ->  chance that the user stays
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..platform.settings import RewardSettings
from . import session
from .world import World


def expected_reward(world: World, state: session.State, slate: Tensor, settings: RewardSettings) -> Tensor:
    """`(B,)`: the mean of `batched.reward` over all that could happen, given the state and the slate.

    Args:
        world: who responds.
        state: of B sessions, before the slate is shown.
        slate: `(B, K)` int64; -1 leaves a place empty.
        settings: what the parts of the reward count.
    """
    items = slate.clamp_min(0)
    logit = session.appeal(world, state, items)
    attraction = session.attraction(world, state, items, logit) * (slate >= 0)
    go_on = _go_on(world, attraction, slate >= 0)
    click = attraction * _looked_at(world, go_on)
    quality = world.item_quality[items]
    total = settings.click * click.sum(1)
    if settings.conversion:
        converted = torch.sigmoid(world.mechanics.conversion_bias + quality)
        total = total + settings.conversion * (click * converted).sum(1)
    if settings.dwell:
        # The mean of a log-normal time lies above its median.
        scale = world.mechanics.dwell_s / 60.0 * math.exp(session.DWELL_SPREAD**2 / 2)
        minutes = scale * torch.exp(0.3 * (logit.clamp(-3, 3) + quality))
        total = total + settings.dwell * (click * minutes).sum(1)
    if settings.satisfaction:
        total = total + settings.satisfaction * (click * torch.tanh(0.5 * (quality + logit))).sum(1)
    if settings.staying:
        total = total + settings.staying * _stays(world, state, attraction, slate >= 0)
    return total


def _go_on(world: World, attraction: Tensor, shown: Tensor) -> Tensor:
    """`(B, K)`: the chance that a user who is at a place reads on; an empty place stops nobody."""
    after = attraction * session.GO_ON_AFTER_CLICK + (1 - attraction) * session.GO_ON
    return after.masked_fill(~shown, 1.0)


def _looked_at(world: World, go_on: Tensor) -> Tensor:
    """`(K,)` or `(B, K)`: the chance that a place is looked at."""
    if world.reading == "places":
        return session.look_probability(world, go_on.shape[1], go_on.device)
    return torch.cat([torch.ones_like(go_on[:, :1]), go_on[:, :-1].cumprod(1)], dim=1)


def _stays(world: World, state: session.State, attraction: Tensor, shown: Tensor) -> Tensor:
    """`(B,)`: the chance that patience lasts beyond the slate, from the distribution of the number of clicks."""
    if world.reading == "places":
        counts = click_distribution(attraction * session.look_probability(world, shown.shape[1], shown.device))
    else:
        counts = cascade_distribution(attraction, shown)
    clicks = torch.arange(counts.shape[1], device=counts.device, dtype=counts.dtype)
    left = session.patience_after(world.mechanics, state.patience[:, None], clicks[None, :]) > session.SPENT
    return (counts * left).sum(1)


def click_distribution(click: Tensor) -> Tensor:
    """`(B, K + 1)`: P(0 clicks) .. P(K clicks) of independent places with probabilities `click` `(B, K)`.

    The Poisson binomial distribution, one place at a time.
    """
    counts = torch.zeros(click.shape[0], click.shape[1] + 1, device=click.device, dtype=click.dtype)
    counts[:, 0] = 1.0
    for place in range(click.shape[1]):
        counts = _raised(counts, click[:, place : place + 1]) + counts * (1 - click[:, place : place + 1])
    return counts


def cascade_distribution(attraction: Tensor, shown: Tensor) -> Tensor:
    """The same for users who read down the slate and stop; places that are not `shown` `(B, K)` are passed over."""
    stopped = torch.zeros(attraction.shape[0], attraction.shape[1] + 1, device=attraction.device)
    reading = stopped.clone()
    reading[:, 0] = 1.0
    for place in range(attraction.shape[1]):
        chance, there = attraction[:, place : place + 1], shown[:, place : place + 1]
        clicked, passed = _raised(reading, chance), reading * (1 - chance)
        on, after = session.GO_ON, session.GO_ON_AFTER_CLICK
        stopped = torch.where(there, stopped + clicked * (1 - after) + passed * (1 - on), stopped)
        reading = torch.where(there, clicked * after + passed * on, reading)
    return stopped + reading


def _raised(counts: Tensor, chance: Tensor) -> Tensor:
    """The part `chance` `(B, 1)` of each count, one click further."""
    return torch.cat([torch.zeros_like(chance), counts[:, :-1] * chance], dim=1)
