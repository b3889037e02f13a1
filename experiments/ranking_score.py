"""From ranked lists to the numbers of `evaluate --ranking`.

lists (V, K) by name  ->  Scored: values (V,) of each user, numbers of the whole
                      ->  rows with intervals, gains over the best baseline, gaps between groups of users
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..agents.baselines import BASELINES
from ..platform.dataset import Dataset
from ..platform.ranking_metrics import Catalog, Floats, Lists, accuracy, character, gain, intervals, spread
from ..platform.ranking_protocol import RankingSplit

LEAST_USERS = 20
"""Of a group of users that is told of; a smaller one says little."""

TERCILES = ("low", "medium", "high")

UNKNOWN = "not stated"
"""The group of users of whom a source does not say an attribute that it says of others."""


@dataclass(frozen=True)
class Scored:
    """How one who ranks did: `values` of each of V users, and numbers of the `whole`."""

    values: dict[str, Floats]
    whole: dict[str, float]


def score(lists: Lists, split: RankingSplit, catalog: Catalog, places: Sequence[int]) -> Scored:
    """The lists `(V, K)` of `split.users`, at each depth of `places`."""
    relevant = split.relevant[split.users]
    values = accuracy(lists, relevant, places) | character(lists, catalog, places)
    return Scored(values, spread(lists, catalog, places))


def row(name: str, scored: Scored, seed: int) -> dict[str, Any]:
    """`{"name", "ndcg@10", "ndcg@10_low", "ndcg@10_high", ...}`: means over the users, with 95 % intervals."""
    names = list(scored.values)
    values = np.stack([scored.values[each] for each in names])
    bounds = intervals(values, seed)
    found: dict[str, Any] = {"name": name}
    for each, mean, (low, high) in zip(names, values.mean(1), bounds, strict=True):
        found |= {each: _short(mean), f"{each}_low": _short(low), f"{each}_high": _short(high)}
    return found | {each: _short(value) for each, value in scored.whole.items()}


def gains(scored: Mapping[str, Scored], measure: str, seed: int) -> dict[str, Any]:
    """How far each agent and the team are above the best baseline, the users paired; empty without a baseline.

    The best is picked by what it reached on the same users, which is in its favour.
    """
    means = {name: found.values[measure].mean() for name, found in scored.items() if name in BASELINES}
    if not means:
        return {}
    best = max(means, key=means.__getitem__)
    base = scored[best].values[measure]
    told = {}
    for name in scored:
        if name not in BASELINES:
            found = gain(scored[name].values[measure], base, seed)
            told[name] = {key: None if value is None else _short(value) for key, value in found.items()}
    return {"baseline": best, "measure": measure, best: _short(means[best]), "of": told}


def group_gaps(
    scored: Mapping[str, Scored], split: RankingSplit, dataset: Dataset, measure: str
) -> dict[str, dict[str, Any]]:
    """How groups of users fare, and the gap between the best and the worst served, by activity and by attribute.

    `{"activity": {"groups": [{"group", "users", measure: {name: mean}}], "gap": {name: ...}}, ...}`.
    """
    found = {}
    for attribute, members in (("activity", _terciles(split)), *_attributes(split, dataset)):
        groups = [
            {
                "group": group,
                "users": int(inside.sum()),
                measure: {name: _short(each.values[measure][inside].mean()) for name, each in scored.items()},
            }
            for group, inside in members.items()
        ]
        levels = {name: [group[measure][name] for group in groups] for name in scored}
        found[attribute] = {
            "groups": groups,
            "gap": {name: _short(max(means) - min(means)) for name, means in levels.items()},
        }
    return found


def _terciles(split: RankingSplit) -> dict[str, NDArray[np.bool_]]:
    """Users by how many likes their histories hold: about a third each; a third without users is left out."""
    likes = np.diff(split.liked.indptr)[split.users]
    third = np.searchsorted(np.quantile(likes, [1 / 3, 2 / 3]), likes, side="left")
    found = {}
    for place, name in enumerate(TERCILES):
        inside = third == place
        if inside.any():
            found[f"{name}, {likes[inside].min():,} to {likes[inside].max():,} likes"] = inside
    return found


def _attributes(split: RankingSplit, dataset: Dataset) -> Iterator[tuple[str, dict[str, NDArray[np.bool_]]]]:
    """Groups of at least `LEAST_USERS` by each attribute of the users, where there are two or more.

    An attribute is `NAME: VALUE`, or a word that is said of some.
    """
    table: pa.Table = dataset.table("users")
    facts = zip(table["user_id"].to_pylist(), table["attributes"].to_pylist(), strict=True)
    known = {user: {name: value or "yes" for name, _, value in map(_parts, words or ())} for user, words in facts}
    users = [known.get(split.logs.user_ids[user], {}) for user in split.users.tolist()]
    for attribute in sorted({name for user in users for name in user}):
        values = np.array([user.get(attribute, UNKNOWN) for user in users])
        names, counts = np.unique(values, return_counts=True)
        large = [name for name, count in zip(names.tolist(), counts, strict=True) if count >= LEAST_USERS]
        if len(large) > 1:
            yield attribute, {name: values == name for name in large}


def _parts(word: str) -> tuple[str, str, str]:
    return word.partition(": ")


def _short(value: float) -> float:
    return round(float(value), 6)
