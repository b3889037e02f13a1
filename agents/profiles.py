"""How a tower reads a user: history in, query out. Pure functions of tensors, one for each kind of tower.

    history (B, L)  ->  chunks of users  ->  PROFILES[tower.profile_kind]  ->  prior, gain  ->  queries (B, d)

A user with no history, or none that says anything, gets the tower's prior: the mean query of the users it was fitted
on. The gain makes the queries of all towers one size: components of 1 in the root mean square over those users.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..platform.errors import InputError
from ..platform.logs import Logs
from .attention import attention
from .tower import PAD, History, ProfileFunction, Tower

LONGEST = 50
"""Interactions of a user's history that a fit reads, the latest ones."""

ROW_NUMBERS = 8
"""Vectors are padded to a multiple of this in a batched product: then a row has the same bits in any batch."""

CHUNK_NUMBERS = 1 << 24
"""Gathered numbers (B * L * d) handled at once."""

SEEN_WEIGHT = 0.1
"""In the mean, what an interaction says of a user's interests beside how much the item was liked."""

LIKED_WEIGHT = 0.5
"""From this weight on an interaction is a like: four stars, or a click without a rating."""

SLOPE_VARIANCE = 0.25
"""Prior variance of a user's sensitivity around 1."""

PRIOR_RATINGS = 5.0
"""Average ratings that each user's mean rating starts from."""

LEAST_SENSITIVITY = 0.05
"""A query is never quite zero, so that it always ranks the items."""

FIT_USERS = 20_000
"""At most so many users, spread over all of them, say how large queries are and what the prior is."""


def profile(tower: Tower, history: History) -> Tensor:
    """The users' queries `(B, d)`, finite and never all zero. A row depends on that user's history alone."""
    read = PROFILES[tower.profile_kind]
    users, length = history.items.shape
    size = max(1, CHUNK_NUMBERS // max(1, length * tower.dim))
    chunks = []
    for start in range(0, users, size):
        chunk = History(*(part[start : start + size] for part in vars(history).values()))
        chunks.append(read(tower, chunk))
    query = torch.cat(chunks) if chunks else tower.item_vectors.new_zeros(0, tower.dim)
    return tower.extras["gain"] * torch.where((query == 0).all(1, keepdim=True), tower.extras["prior"], query)


def calibrated(tower: Tower, logs: Logs) -> Tower:
    """The tower with what `profile` needs to know of the users it was fitted on, in `extras`.

    `prior` `(d,)`: their mean query, of those whose history says something. `gain` scalar: what makes their queries'
    components 1 in the root mean square, so that queries of all towers are of one size to the policies. `taste` scalar:
    the root mean square that leaves to the columns that are not common.
    """
    history = History(*logs.padded(LONGEST))
    sample = torch.linspace(0, len(history) - 1, min(len(history), FIT_USERS), dtype=torch.float64).long()
    bare = {**tower.extras, "prior": torch.zeros(tower.dim), "gain": torch.tensor(1.0)}
    queries = profile(replace(tower, extras=bare), history.rows(sample))
    queries = queries[(queries != 0).any(1)]
    if not len(queries):
        raise InputError(f'no user has a history that the "{tower.name}" agent can read')
    size = queries.square().mean().sqrt()
    taste = queries[:, : tower.dim - tower.common].square().mean().sqrt() / size
    return replace(tower, extras={**tower.extras, "prior": queries.mean(0), "gain": 1 / size, "taste": taste})


def ridge(tower: Tower, history: History) -> Tensor:
    """The user factor that implicit ALS would give (Hu, Koren and Volinsky 2008, equation 4).

        x = (Yt Y + Yt (C - I) Y + reg I)^-1 Yt C p,    C = 1 + alpha * weight, p = 1 where weight > 0

    The weights of an item met more than once add up. Extras: `gram` = Yt Y + reg I `(d, d)`, `alpha` scalar.
    """
    liked = torch.where(history.weights > 0, history.items, PAD)
    items, order = liked.sort(dim=1, stable=True)
    present = items != PAD
    first = present & (items != pad(items[:, :-1], (1, 0), value=PAD))
    extra = tower.extras["alpha"] * history.weights.gather(1, order) * present
    spare = -tower.dim % ROW_NUMBERS
    rows = pad(tower.item_vectors[items.clamp_min(0)], (0, spare))
    gram = torch.block_diag(tower.extras["gram"], torch.eye(spare, device=rows.device))
    system = gram + (rows * extra[:, :, None]).mT @ rows
    target = ((extra + first)[:, :, None] * rows).sum(1)
    return torch.cholesky_solve(target[:, :, None], torch.linalg.cholesky(system))[:, : tower.dim, 0]


def popular_ridge(tower: Tower, history: History) -> Tensor:
    """`ridge` on all columns but the last, whose weight is `pull` for everyone: the item's popularity.

    The factor of a user with little history is short, so popularity leads there, and alone for a stranger; the more is
    known of a user, the longer the factor and the less popularity counts. Extras: those of `ridge`, and `pull` scalar.
    """
    query = ridge(replace(tower, item_vectors=tower.item_vectors[:, :-1]), history)
    return torch.cat([query, tower.extras["pull"].expand(len(query), 1)], dim=1)


def mean(tower: Tower, history: History) -> Tensor:
    """The mean vector of the history's items, each by how much it was liked plus `SEEN_WEIGHT`."""
    present = history.items != PAD
    weights = (history.weights + SEEN_WEIGHT) * present
    rows = tower.item_vectors[history.items.clamp_min(0)]
    return (weights[:, :, None] * rows).sum(1) / weights.sum(1, keepdim=True).clamp_min(SEEN_WEIGHT)


def linear(tower: Tower, history: History) -> Tensor:
    """The sum of what each interaction says, `inputs[i]`: an item-to-item model, factorised.

        query = sum_i w_i * fade^(interactions since i) * inputs[i],    w_i = 1 if liked, else `low`

    Extras: `inputs` `(N, d)`, `low` scalar, `fade` scalar in (0, 1].
    """
    present = history.items != PAD
    since = present.sum(1, keepdim=True) - present.cumsum(1)
    liked = history.weights >= LIKED_WEIGHT
    weights = torch.where(liked, 1.0, tower.extras["low"]) * tower.extras["fade"] ** since * present
    rows = tower.extras["inputs"][history.items.clamp_min(0)]
    return (weights[:, :, None] * rows).sum(1)


def sensitivity(tower: Tower, history: History) -> Tensor:
    """How strongly a user follows polarity, s >= 0 and 1 on average, on the first axis: `s * e_0`. With the extra
    `trust`, a scalar that is the same for all, on the last one: `s * e_0 + trust * e_last`.

    s is the posterior mean of a slope under the prior N(1, `SLOPE_VARIANCE`). With z an item's polarity, a rating is
    evidence through stars = s * slope * z + noise, a click without a rating through z = s * lift + noise of variance 1.
    Extras: `response` `(4,)` = mean rating, slope (stars per unit of z), variance of the noise, lift.
    """
    mean_rating, slope, noise, lift = tower.extras["response"].unbind()
    stars, rated = centred_ratings(history, mean_rating)
    clicked = (history.weights > 0) & (history.items != PAD) & ~rated
    polarity = tower.item_vectors[:, 0][history.items.clamp_min(0)]
    agreement = (slope / noise) * (polarity * stars).sum(1) + lift * (polarity * clicked).sum(1)
    evidence = (slope**2 / noise) * (polarity**2 * rated).sum(1) + lift**2 * clicked.sum(1)
    followed = (1 / SLOPE_VARIANCE + agreement) / (1 / SLOPE_VARIANCE + evidence)
    query = tower.item_vectors.new_zeros(len(history), tower.dim)
    query[:, 0] = followed.clamp_min(LEAST_SENSITIVITY)
    if "trust" in tower.extras:
        query[:, -1] += tower.extras["trust"]
    return query


def centred_ratings(history: History, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Ratings less `mean` and less the user's own mean difference from it, and where there is one, both `(B, L)`.

    A user's mean is drawn towards `mean` as if by `PRIOR_RATINGS` more ratings. 0 where there is no rating.
    """
    rated = (history.ratings > 0) & (history.items != PAD)
    stars = (history.ratings - mean) * rated
    own = stars.sum(1, keepdim=True) / (rated.sum(1, keepdim=True) + PRIOR_RATINGS)
    return (stars - own) * rated, rated


PROFILES: dict[str, ProfileFunction] = {
    "ridge": ridge,
    "popular_ridge": popular_ridge,
    "mean": mean,
    "linear": linear,
    "attention": attention,
    "sensitivity": sensitivity,
}
"""What `Tower.profile_kind` may name."""
