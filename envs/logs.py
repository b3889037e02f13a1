"""A world fitted to interaction logs: the users of a dataset, ready to be recommended to.

    train part      --fit--> response model --Platt, on validation--> judged on the test part --> World.report
    all parts       --fit, likewise      --> the truth, shifted to the base rate --> World's vectors and biases
    items           --k-means--> topics        ratings --shrunk means--> quality
    train part      --> World.history, World.item_popularity: all that an agent may know

The truth is fitted to all parts, so a world knows more of its users than any tower, which reads the train part only.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.metrics import roc_auc_score
from torch import Tensor

from ..agents.tower import History
from ..platform.draws import derive
from ..platform.errors import InputError
from ..platform.logs import LIKED_STARS, Logs
from ..platform.settings import WorldSettings
from ..platform.split import Split
from .calibration import base_rate_shift, judge, platt
from .features import item_inputs, shrunk_mean, standardised
from .response import Fit, ResponseModel, fit_response, labelled_pairs, one_thread, seen_keys, tune_response
from .topics import cluster_topics, name_topics
from .world import World

LONGEST_HISTORY = 200
"""Interactions of a user that an agent may read, the last ones."""

BEST, BEST_USERS = 10, 500
"""The report's `top10_*` looks at this many unseen items, those a user would like most, of this many users."""

RATE_PAIRS = 4_000_000
"""Pairs over which the base rate is set."""

SEEN_SHARE = 0.95
"""Above this share of all pairs seen there is nothing left to recommend."""

_FIT, _VALIDATION, _TEST, _TRUTH, _TOPICS, _JUDGES, _RATE, _BEST = range(1, 9)


def world_from_logs(
    logs: Logs,
    split: Split,
    settings: WorldSettings,
    *,
    item_features: NDArray[np.floating] | None,
    name: str,
    seed: int,
    interests: int = 1,
) -> World:
    """Fits a world to logs. The same arguments give the same world.

    Args:
        logs: n interactions of U users with N items.
        split: which rows are train, validation and test.
        settings: dimensions, topics, base rate, share of the judge users, mechanics.
        item_features: `(N, m)` content embeddings, or None.
        name: of the world, for tables and messages.
        seed: of the fit, the topics and the choice of the judge users.
        interests: of a user in the response model; more than 1 make a world of another class, to judge in.

    Returns:
        the world. Its `report` has, for the liked, the low-rated and drawn unseen items of the test part: `log_loss`,
        `brier`, `ece` and the same of a constant (`_constant`), `auc`, and `auc_rated` (liked against low-rated only,
        where both exist); of the fit: `factor_std`, `epochs`, `platt_scale`, `platt_shift`; of the world:
        `base_rate`, `base_rate_shift`, the click probability of users' `BEST` unseen items (`top10_mean`, `top10_low`,
        `top10_high`: mean, 10 and 90 % quantile over users), `topic_smallest` and `topic_largest` in items.

    Raises:
        InputError: too little to fit: fewer than 2 users or items, a part without a liked item, no unseen item left;
            more topics than items, or a base rate of 0 or 1.
    """
    parts = _checked_parts(logs, split, settings, name)
    inputs = item_inputs(logs, item_features)
    chosen, scale, report = _fit_and_judge(logs, parts, inputs, settings.factors, seed, interests)
    truth, facts = _fit_truth(logs, inputs, chosen, scale, settings, seed, interests)
    topic = cluster_topics(inputs.numpy(), truth.item_vectors.numpy(), settings.topics, derive(seed, _TOPICS))
    sizes = np.bincount(topic)
    facts |= {"topic_smallest": float(sizes.min()), "topic_largest": float(sizes.max())}
    train = parts[0]
    popularity = np.bincount(train.items[train.positive], minlength=logs.num_items).astype(np.float32)
    train_users, judge_users = _divide_users(logs.num_users, settings.judge_share, seed)
    return World(
        name=name,
        item_vectors=truth.item_vectors,
        item_bias=truth.item_bias,
        item_topic=torch.from_numpy(topic),
        item_quality=torch.from_numpy(_quality(logs)),
        user_vectors=truth.user_vectors,
        user_bias=truth.user_bias,
        temperature=truth.temperature,
        history=History(*train.padded(longest=LONGEST_HISTORY)),
        train_users=train_users,
        judge_users=judge_users,
        item_popularity=torch.from_numpy(popularity),
        mechanics=settings.mechanics,
        user_ids=logs.user_ids,
        item_ids=logs.item_ids,
        item_titles=logs.item_titles,
        topic_names=name_topics(topic, logs, popularity),
        report=report | facts,
    )


def _checked_parts(logs: Logs, split: Split, settings: WorldSettings, name: str) -> list[Logs]:
    for what, count in (("user(s)", logs.num_users), ("item(s)", logs.num_items)):
        if count < 2:
            raise InputError(f"{name}: the dataset has {count} {what}; a world needs at least 2, so ingest more")
    if settings.topics > logs.num_items:
        raise InputError(f"world.topics={settings.topics}: {name} has only {logs.num_items} items; set it lower")
    if not 0 < settings.base_rate < 1:
        raise InputError(f"world.base_rate={settings.base_rate:g}: must lie between 0 and 1, such as 0.12")
    if not logs.positive.any():
        raise InputError(f"{name}: nobody likes anything (a click, or {LIKED_STARS:g} stars and up); check the ratings")
    parts = [logs.rows(mask) for mask in (split.train, split.validation, split.test)]
    for part, rows in zip(("train", "validation", "test"), parts, strict=True):
        if not rows.positive.any():
            raise InputError(f"{name}: no liked item in the {part} part, which a world needs; ingest more interactions")
    if len(seen_keys(logs)) > SEEN_SHARE * logs.num_users * logs.num_items:
        raise InputError(f"{name}: the users have seen nearly every item, so none is new to them; ingest more items")
    return parts


def _fit_and_judge(
    logs: Logs, parts: list[Logs], inputs: Tensor, factors: int, seed: int, interests: int
) -> tuple[Fit, float, dict[str, float]]:
    """The fit and the Platt scale that suit the validation part, and what they are worth on the test part."""
    train, validation, test = parts
    known = np.union1d(seen_keys(train), seen_keys(validation))
    tuning = labelled_pairs(validation, known, derive(seed, _VALIDATION))
    judging = labelled_pairs(test, seen_keys(logs), derive(seed, _TEST))
    fit = tune_response(train, inputs, factors, derive(seed, _FIT), tuning, interests=interests)
    model = fit.model
    scale, shift = platt(model.logits(tuning.users, tuning.items).numpy(), tuning.labels.numpy())
    predicted = expit(scale * model.logits(judging.users, judging.items).numpy().astype(np.float64) + shift)
    labels = judging.labels.numpy()
    report = judge(predicted, labels, constant=float(tuning.labels.mean()))
    rated = labels[: len(test)]
    if rated.min() < rated.max():
        report["auc_rated"] = float(roc_auc_score(rated, predicted[: len(test)]))
    report |= {"factor_std": fit.factor_std, "epochs": float(fit.epochs), "platt_scale": scale, "platt_shift": shift}
    return fit, scale, report


def _fit_truth(
    logs: Logs, inputs: Tensor, chosen: Fit, scale: float, settings: WorldSettings, seed: int, interests: int
) -> tuple[ResponseModel, dict[str, float]]:
    """The model of all parts at the wanted base rate, and the facts of it."""
    epochs = max(1, chosen.epochs)
    start = derive(seed, _TRUTH)
    fit = fit_response(logs, inputs, settings.factors, start, chosen.factor_std, epochs=epochs, interests=interests)
    fitted = fit.model
    users, items = random_pairs(logs.num_users, logs.num_items, derive(seed, _RATE))
    shift = base_rate_shift(scale * fitted.logits(users, items).numpy(), settings.base_rate)
    truth = fitted.rescaled(scale, shift)
    rate = float(truth.logits(users, items).sigmoid().mean())
    return truth, {"base_rate": rate, "base_rate_shift": shift, **_best_unseen(truth, logs, derive(seed, _BEST))}


def random_pairs(users: int, items: int, seed: int) -> tuple[Tensor, Tensor]:
    """All (user, item) pairs, or `RATE_PAIRS` drawn ones where there are more."""
    if users * items <= RATE_PAIRS:
        flat = torch.arange(users * items)
    else:
        flat = torch.from_numpy(np.random.default_rng(seed).integers(users * items, size=RATE_PAIRS))
    return flat // items, flat % items


def _best_unseen(truth: ResponseModel, logs: Logs, seed: int) -> dict[str, float]:
    """Click probability of a user's `BEST` unseen items: mean, 10 % and 90 % quantile over `BEST_USERS` users."""
    users = np.sort(np.random.default_rng(seed).permutation(logs.num_users)[:BEST_USERS])
    with one_thread():
        logits = truth.catalog_logits(torch.from_numpy(users))
    row = np.searchsorted(users, logs.users).clip(max=len(users) - 1)
    chosen = users[row] == logs.users
    logits[row[chosen], logs.items[chosen]] = -torch.inf
    best = logits.topk(min(BEST, logs.num_items), dim=1).values
    means = (best.sigmoid().sum(1) / best.isfinite().sum(1).clamp(min=1)).numpy()
    low, high = np.quantile(means, [0.1, 0.9])
    return {"top10_mean": float(means.mean()), "top10_low": float(low), "top10_high": float(high)}


def _quality(logs: Logs) -> NDArray[np.float32]:
    """`(N,)` the items' shrunk mean rating, standardised over the rated items; 0 for an item without a rating."""
    mean = shrunk_mean(logs.items, logs.ratings, logs.num_items)
    rated = np.zeros(logs.num_items, bool)
    rated[logs.items[~np.isnan(logs.ratings)]] = True
    quality = np.zeros(logs.num_items, np.float32)
    quality[rated] = standardised(mean[rated])
    return quality


def _divide_users(users: int, judge_share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Train and judge users, ascending: a seeded draw of `judge_share` of all, at least one on either side."""
    judges = min(max(round(judge_share * users), 1), users - 1)
    order = torch.from_numpy(np.random.default_rng(derive(seed, _JUDGES)).permutation(users))
    return order[judges:].sort().values, order[:judges].sort().values
