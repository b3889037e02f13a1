"""Playing a world: one slate, one response, for B users at once.

    slate -> looked at (position bias, or a cascade) -> clicked (appeal, satiation) -> converted, dwelt on, satisfied
          -> satiation, patience and taste move on -> the user stays or leaves

Every draw is a function of (seed, session, step), so a session plays the same whatever batch it is in. B is the number
of sessions, K the slate, Z the topics, d the dimensions of the world's latent space.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..platform import draws
from ..platform.settings import Mechanics
from .appeal import of_items, shares
from .world import World

USER, CLICK, LOOK, CONVERT, DWELL, TASTE, INTENT = range(7)
"""Streams of draws, one for each kind of chance."""

SPENT = 1e-4
"""Patience from here down is none: thirds of a click do not add up to whole numbers in float32."""

DWELL_SPREAD = 0.5
"""Standard deviation of the logarithm of the dwell time."""


@dataclass(frozen=True)
class State:
    """Where B sessions stand.

    Attributes:
        session: `(B,)` int64, the sessions' numbers under the seed.
        user: `(B,)` int64, index into the world's users.
        step: `(B,)` int64, slates shown so far.
        taste: `(B, M * d)` float32, the users' interests, drifting.
        satiation: `(B, Z)` float32 >= 0, logits.
        patience: `(B,)` float32; a user leaves at 0.
    """

    session: Tensor
    user: Tensor
    step: Tensor
    taste: Tensor
    satiation: Tensor
    patience: Tensor

    def put(self, rows: Tensor, other: State) -> State:
        """A state with the R sessions of `other` in `rows` `(R,)` int64, and this one's elsewhere."""
        return State(**{name: mine.index_copy(0, rows, getattr(other, name)) for name, mine in vars(self).items()})


@dataclass(frozen=True)
class Response:
    """What B users did with their slates.

    Attributes:
        click, conversion: `(B, K)` float32, 0 or 1.
        dwell_s: `(B, K)` float32, seconds; 0 without a click.
        satisfaction: `(B, K)` float32 in [-1, 1]; 0 without a click.
        left: `(B,)` bool, the user's patience is spent.
    """

    click: Tensor
    conversion: Tensor
    dwell_s: Tensor
    satisfaction: Tensor
    left: Tensor


def begin(world: World, users: Tensor, seed: int, session: Tensor, spread: Tensor | None = None) -> State:
    """Sessions `session` `(B,)`, each by a user drawn from `users` by (seed, session), with an intent of the day.

    `spread` `(d,)` is the tastes' standard deviation, where the caller has it already.
    """
    zero = torch.zeros_like(session)
    drawn = draws.uniform(seed, session, zero, USER, 1)[:, 0]
    user = users[(drawn * len(users)).long().clamp_max(len(users) - 1)]
    spread = world.user_vectors.std(0) if spread is None else spread
    intent = draws.normal(seed, session, zero, INTENT, world.user_vectors.shape[1])
    if world.user_own is not None:
        intent = intent * world.user_own[user]
    return State(
        session=session,
        user=user,
        step=zero,
        taste=world.user_vectors[user] + world.mechanics.intent * spread * intent,
        satiation=torch.zeros(len(session), world.num_topics, device=session.device),
        patience=torch.full((len(session),), world.mechanics.patience, device=session.device),
    )


def appeal(world: World, state: State, items: Tensor) -> Tensor:
    """Logits `(B, K)` of a click on `items` `(B, K)`, were they looked at; before satiation where the user cascades."""
    liking = of_items(state.taste, world.item_vectors[items], world.combine, world.temperature)
    logit = liking + world.item_bias[items] + world.user_bias[state.user][:, None]
    return logit - state.satiation.gather(1, world.item_topic[items]) if world.reading == "places" else logit


def attraction(world: World, state: State, items: Tensor, logit: Tensor) -> Tensor:
    """`(B, K)`: the chance of a click on `items` `(B, K)` that are looked at, from their `appeal`."""
    if world.reading == "places":
        return torch.sigmoid(logit)
    return torch.sigmoid(logit) * torch.exp(-WEARINESS * state.satiation.gather(1, world.item_topic[items]))


def look_probability(world: World, places: int, device: torch.device) -> Tensor:
    """`(K,)`: the chance that a place of the slate is looked at, k ** -bias (Joachims et al. 2017, position bias)."""
    return torch.arange(1, places + 1, device=device, dtype=torch.float32) ** -world.mechanics.position_bias


WEARINESS = 0.5
"""Cascade: what a logit of satiation takes from the logarithm of the chance of a click, as at a chance of a half."""

GO_ON, GO_ON_AFTER_CLICK = 0.96, 0.91
"""Cascade: the chance of reading on after a place without a click, and after a click. Where a quarter is clicked, 7.9
of ten places are looked at, against 8.0 in the other class at a position bias of 0.15."""


def read_down(chance: Tensor, attracted: Tensor) -> Tensor:
    """Which places `(B, K)` are looked at by users who read down the slate and stop at some place.

    The dependent click model (Guo, Liu, Wang 2009). `chance` `(B, K)` in [0, 1) decides on reading on; `attracted`
    `(B, K)` bool is what the user clicks if looked at.
    """
    on = chance < torch.where(attracted, GO_ON_AFTER_CLICK, GO_ON)
    first = torch.ones_like(on[:, :1])
    return torch.cat([first, on[:, :-1]], dim=1).long().cumprod(dim=1).bool()


def respond(world: World, state: State, slate: Tensor, seed: int) -> tuple[State, Response]:
    """Shows `slate` `(B, K)` and lets the users react.

    Returns:
        The state after the step, and the response.
    """
    places = slate.shape[1]
    counts = {LOOK: places, CLICK: places, CONVERT: places, DWELL: 2 * places, TASTE: 2 * state.taste.shape[1]}
    chance = draws.uniforms(seed, state.session, state.step, counts)
    logit = appeal(world, state, slate)
    attracted = chance[CLICK] < attraction(world, state, slate, logit)
    if world.reading == "places":
        looked = chance[LOOK] < look_probability(world, places, slate.device)
    else:
        looked = read_down(chance[LOOK], attracted)
    click = (looked & attracted).float()
    quality = world.item_quality[slate]
    converted = chance[CONVERT] < torch.sigmoid(world.mechanics.conversion_bias + quality)
    noise = draws.gaussian(chance[DWELL])
    dwell = world.mechanics.dwell_s * torch.exp(0.3 * (logit.clamp(-3, 3) + quality) + DWELL_SPREAD * noise)
    moved = _move_on(world, state, slate, click, draws.gaussian(chance[TASTE]))
    response = Response(
        click=click,
        conversion=click * converted,
        dwell_s=click * dwell,
        satisfaction=click * torch.tanh(0.5 * (quality + logit)),
        left=moved.patience <= SPENT,
    )
    return moved, response


def _move_on(world: World, state: State, slate: Tensor, click: Tensor, walk: Tensor) -> State:
    """Satiation builds up where items were shown, patience is spent on poor slates, taste drifts to what was clicked.

    `walk` `(B, d)` is standard normal.
    """
    rules = world.mechanics
    shown = torch.zeros_like(state.satiation).scatter_add_(1, world.item_topic[slate], torch.ones_like(click))
    clicks = click.sum(1)
    pull = (world.item_vectors[slate] * click[:, :, None]).sum(1) / clicks.clamp_min(1.0)[:, None]
    pulled = rules.drift * (clicks > 0)[:, None]
    moved = pulled * _towards(world, state.taste, pull) + rules.drift_noise * walk
    if world.user_own is not None:
        moved = moved * world.user_own[state.user]
    if world.user_tiring is not None:
        shown = shown * world.user_tiring[state.user][:, None]
    return replace(
        state,
        step=state.step + 1,
        taste=state.taste + moved,
        satiation=rules.satiation_fade * state.satiation + rules.satiation_gain * shown,
        patience=patience_after(rules, state.patience, clicks),
    )


def _towards(world: World, taste: Tensor, pull: Tensor) -> Tensor:
    """`(B, M * d)`: the way from the interests to `pull` `(B, d)`, for each as far as it stands behind it."""
    if taste.shape[1] == pull.shape[1]:
        return pull - taste
    interests = taste.view(len(taste), -1, pull.shape[1])
    part = shares((interests * pull[:, None, :]).sum(2), world.combine, world.temperature)
    return (part[:, :, None] * (pull[:, None, :] - interests)).flatten(1)


def patience_after(rules: Mechanics, patience: Tensor, clicks: Tensor) -> Tensor:
    """What is left of `patience` after a slate with that many `clicks`; both broadcast."""
    target = rules.patience_target
    missed = (1.0 - clicks / target).clamp(0.0, 1.0) if target > 0 else torch.zeros_like(clicks)
    won = rules.patience_recovery * (missed == 0)
    return (patience - missed + won).clamp_max(rules.patience)
