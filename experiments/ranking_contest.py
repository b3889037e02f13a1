"""Who ranks in `evaluate --ranking`, and how.

    a split  ->  baselines and towers fitted on its `fit` rows                       Contest.fit
             ->  lists (V, K) for its V users by name, the team's by static fusion   Contest.rank

Baselines leave out of a user's list what the user liked, or has met where `unseen` is `rated`. Agents leave out what
the user has met in either case: they know all of the history, and a team never proposes what is in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from ..agents.baselines import BASELINES, Parameters, Scores
from ..agents.ensemble import Ensemble
from ..agents.tower import History, Tower
from ..agents.towers import fit_towers
from ..platform.dataset import Dataset
from ..platform.draws import derive
from ..platform.fusion import Ballots, fuse
from ..platform.ranking import descending_keys, key_index, smallest
from ..platform.ranking_metrics import Lists
from ..platform.ranking_protocol import RankingSplit
from ..platform.settings import Experiment

Say = Callable[[str], None]
Unseen = Literal["liked", "rated"]

TEAM = "team_static"

BALLOT = 1_000
"""Items on an agent's ballot here; a session needs few, a ranking as many as may matter."""

CHUNK = 512
"""Users ranked for at once."""

READ_NUMBERS = 1 << 26
"""Places of all padded histories together; with many users the oldest interactions of the longest are cut."""

TIE = 1e-4
"""Most that chance adds to an agent's score, of a standard deviation of 1: equal scores are not in the order of ids."""

AWAY = -1e9
"""Added to the score of what may not be listed."""

TELL_S = 5.0
"""Seconds between two lines about texts being encoded."""


@dataclass(frozen=True)
class Fitted:
    """Baselines and towers, fitted on one split."""

    baselines: dict[str, Scores]
    towers: dict[str, Tower]


@dataclass(frozen=True)
class Contest:
    """What stays the same from split to split.

    Attributes:
        names: the agents.
        unseen: what baselines leave out of a list.
        length: K, places of a list.
        parameters: of each baseline.
        weights: of the agents' static fusion, summing to 1.
    """

    dataset: Dataset
    experiment: Experiment
    names: tuple[str, ...]
    unseen: Unseen
    length: int
    say: Say
    parameters: dict[str, Parameters] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)

    def fit(self, split: RankingSplit) -> Fitted:
        """Everything fitted on the split's `fit` rows."""
        seed = self.experiment.seed
        baselines = {name: BASELINES[name].fit(split.fit_likes, found, seed) for name, found in self.parameters.items()}
        return Fitted(baselines, self.fit_agents(split))

    def fit_agents(self, split: RankingSplit) -> dict[str, Tower]:
        """The agents' towers, from the cache where they are in it."""
        logs = split.train_logs(self.dataset)
        settings = self.experiment.agents.model_copy(update={"names": self.names})
        return fit_towers(logs, settings, self.experiment.seed, telling(self.say))

    def rank(self, fitted: Fitted, split: RankingSplit) -> dict[str, Lists]:
        """Lists `(V, K)` for `split.users`, by name."""
        rule = self.experiment.fusion.method
        lists = {name: self.baseline_lists(scores, split) for name, scores in fitted.baselines.items()}
        weights = torch.tensor([self.weights[name] for name in fitted.towers])
        found: dict[str, list[torch.Tensor]] = {name: [] for name in (*fitted.towers, TEAM)}
        for ballots in self.ballots(fitted.towers, split):
            for place, name in enumerate(fitted.towers):
                found[name].append(_cut(ballots.items[:, place], self.length))
            fused = fuse(ballots, weights.expand(len(ballots.items), -1), rule, self.length)
            found[TEAM].append(fused.slate.masked_fill(fused.points.isneginf(), -1))
        return lists | {name: torch.cat(parts).numpy() for name, parts in found.items()}

    def baseline_lists(self, scores: Scores, split: RankingSplit) -> Lists:
        """`(V, K)` for `split.users`."""
        left_out = split.liked if self.unseen == "liked" else split.seen
        candidates = np.flatnonzero(split.candidates)
        found = []
        for users in _chunks(split.users):
            values = np.array(scores(split.liked[users], users), np.float32)
            values[left_out[users].nonzero()] = -np.inf
            best, chance = torch.from_numpy(values[:, candidates]), self.by_chance(users, len(candidates))
            keys = smallest(descending_keys(best, chance), min(self.length, len(candidates)))
            top = chance.argsort(1).gather(1, key_index(keys))
            items = torch.from_numpy(candidates)[top].masked_fill(best.gather(1, top).isneginf(), -1)
            found.append(_cut(items, self.length))
        return torch.cat(found).numpy()

    def by_chance(self, users: NDArray[np.int64], count: int) -> torch.Tensor:
        """`(B, count)` int64, an order of `count` items for each user, in which equal scores are put.

        One random order, begun at another item for each user: the ids would favour some items, one order for all as
        well.
        """
        draw = np.random.default_rng([self.experiment.seed, *b"ties"])
        order = torch.from_numpy(draw.permutation(count))
        begun = np.array([derive(self.experiment.seed, user) % count for user in users.tolist()])
        return (order + torch.from_numpy(begun)[:, None]) % count

    def ballots(self, towers: Mapping[str, Tower], split: RankingSplit) -> Iterator[Ballots]:
        """The agents' ballots for `split.users`, some users at a time, through the team's own ensemble."""
        fusion = self.experiment.fusion.model_copy(update={"ballot": BALLOT, "conductor": False})
        ensemble = Ensemble(towers, fusion, torch.ones(len(towers)))
        history, others = read_history(split), torch.from_numpy(~split.candidates)
        count = split.logs.num_items
        for users in _chunks(split.users):
            penalty = self.by_chance(users, count).float() * (TIE / count)
            penalty[:, others] = AWAY
            penalty[_cells(split.seen[users])] = AWAY
            reading = ensemble.read(history.rows(torch.from_numpy(users)))
            blank = ensemble.blank(len(users))
            queries, leans = ensemble.ask(reading, blank, {}), ensemble.lean(blank, {})
            ballots = ensemble.propose(queries, leans, penalty, self.length)
            yield Ballots(ballots.items.masked_fill(ballots.scores < AWAY / 2, -1), ballots.scores)


def read_history(split: RankingSplit) -> History:
    """Every user's whole history, `(U, L)`, of the rows that may be read."""
    counts = np.bincount(split.logs.users[split.read], minlength=split.logs.num_users)
    longest = min(int(counts.max(initial=1)), max(50, READ_NUMBERS // split.logs.num_users))
    return History(*split.logs.rows(split.read).padded(longest))


def telling(say: Say) -> Callable[[str, int, int, float], None]:
    """What `fit_towers` calls while it encodes: a line every few seconds, and one at the end."""
    last = time.monotonic()

    def progress(name: str, done: int, total: int, rate: float) -> None:
        nonlocal last
        if done == total or time.monotonic() - last > TELL_S:
            last = time.monotonic()
            say(f"{name}: {done:,} of {total:,} texts encoded, {rate:,.0f} a second")

    return progress


def _chunks(users: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(users), CHUNK):
        yield users[start : start + CHUNK]


def _cut(items: torch.Tensor, length: int) -> torch.Tensor:
    """`(B, length)`, filled up with -1."""
    return torch.nn.functional.pad(items[:, :length], (0, max(0, length - items.shape[1])), value=-1)


def _cells(matrix: csr_matrix) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and columns of what is not 0."""
    rows, columns = matrix.nonzero()
    return torch.from_numpy(rows.astype(np.int64)), torch.from_numpy(columns.astype(np.int64))
