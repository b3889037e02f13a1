"""Agreement with the library ranx, rule by rule, on random ballots with ties, silent agents and unequal lengths.

Where the two define a rule differently, docs/fusion.md says how, and what they share is compared here: the Borda count
where every agent ranks every item (ranx shares the points that are left among the items an agent does not name), and
of Condorcet's rule the winner, where there is one (ranx sorts by pairwise comparisons, which need not be transitive).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from concertrl.platform.fusion import Ballots, Normalise, fuse

ranx = pytest.importorskip("ranx")

pytestmark = pytest.mark.filterwarnings("ignore::numba.NumbaTypeSafetyWarning")

USERS, AGENTS, LENGTH, CATALOG = 40, 3, 8, 14

NORMS: dict[Normalise, str | None] = {"none": None, "min_max": "min-max", "z_score": "zmuv", "rank": "rank"}


def draw(seed: int, whole: bool = False, silent: bool = True) -> Ballots:
    """Scores of few values, so that many tie; a third of the ballots shorter, some empty.

    No ballot has a single item or scores that are all alike: under min-max ranx gives those 0, and we give 1.
    """
    noise = np.random.default_rng(seed)
    length = CATALOG if whole else LENGTH
    items = np.stack([noise.permutation(CATALOG)[:length] for _ in range(USERS * AGENTS)])
    scores = -np.sort(-noise.integers(1, 12, size=(USERS * AGENTS, length)) / 4.0, axis=1)
    scores[:, 0] += 0.25
    if not whole:
        filled = np.where(
            noise.random(USERS * AGENTS) < 0.35,
            2 * noise.integers(0 if silent else 1, length // 2, USERS * AGENTS),
            length,
        )
        filled[::AGENTS] = np.maximum(filled[::AGENTS], 2)  # somebody speaks
        items[np.arange(length) >= filled[:, None]] = -1
    shape = (USERS, AGENTS, length)
    return Ballots(torch.from_numpy(items.reshape(shape)), torch.from_numpy(scores.reshape(shape)).float())


def in_ranx(ballots: Ballots, method: str, norm: str | None, **options: Any) -> list[dict[int, float]]:
    runs = []
    for agent in range(ballots.items.shape[1]):
        table = {}
        for user in range(len(ballots.items)):
            pairs = zip(ballots.items[user, agent].tolist(), ballots.scores[user, agent].tolist(), strict=True)
            # ranx sorts a run's items by score when it is made, and Python's sort keeps ties in their order.
            table[f"u{user}"] = {f"i{item}": score for item, score in pairs if item >= 0}
        runs.append(ranx.Run(table, name=str(agent)))
    fused = ranx.fuse(runs, norm=norm, method=method, params=options or None)
    return [
        {int(item[1:]): score for item, score in fused.run[f"u{user}"].items()} for user in range(len(ballots.items))
    ]


def compare(
    ballots: Ballots, weights: torch.Tensor, rule: str, expected: list[dict[int, float]], scale: Normalise
) -> None:
    """The same points for every item, so the same ranks but where points tie, which ours break by the item's index."""
    fused = fuse(ballots, weights, rule, CATALOG, scale)
    for user, theirs in enumerate(expected):
        count = len(theirs)
        mine = dict(zip(fused.slate[user, :count].tolist(), fused.points[user, :count].tolist(), strict=True))
        assert mine.keys() == theirs.keys()
        np.testing.assert_allclose([mine[item] for item in theirs], list(theirs.values()), rtol=1e-4, atol=1e-5)
        ranked = sorted(theirs, key=lambda item: (-round(mine[item], 9), item))
        assert fused.slate[user, :count].tolist() == ranked


@pytest.mark.parametrize("scale", NORMS)
@pytest.mark.parametrize(("rule", "name"), [("comb_sum", "sum"), ("comb_mnz", "mnz"), ("comb_anz", "anz")])
def test_sums_under_every_scale(rule: str, name: str, scale: Normalise) -> None:
    # Under its z-score ranx loses other ballots of the run as well where one of them is empty.
    ballots = draw(1, silent=scale != "z_score")
    compare(ballots, torch.ones(USERS, AGENTS), rule, in_ranx(ballots, name, NORMS[scale]), scale)


@pytest.mark.parametrize(("rule", "name"), [("reciprocal_rank", "rrf"), ("isr", "isr"), ("log_isr", "log_isr")])
def test_rules_of_ranks(rule: str, name: str) -> None:
    ballots = draw(2)
    compare(ballots, torch.ones(USERS, AGENTS), rule, in_ranx(ballots, name, None), "none")


def test_a_weighted_sum() -> None:
    ballots, weights = draw(3), torch.tensor([0.5, 0.3, 0.2])
    expected = in_ranx(ballots, "wsum", "min-max", weights=tuple(weights.tolist()))
    compare(ballots, weights.expand(USERS, -1), "comb_sum", expected, "min_max")


def test_borda_where_all_rank_all() -> None:
    ballots = draw(4, whole=True)
    compare(ballots, torch.ones(USERS, AGENTS), "borda", in_ranx(ballots, "bordafuse", None), "none")


def test_the_condorcet_winner_where_there_is_one() -> None:
    ballots = draw(5, whole=True)
    found = fuse(ballots, torch.ones(USERS, AGENTS), "copeland", 1)
    clear = found.points[:, 0] == CATALOG - 1  # it beats everybody
    assert 10 < int(clear.sum()) < USERS
    expected = in_ranx(ballots, "condorcet", None)
    for user in clear.nonzero()[:, 0].tolist():
        theirs = expected[user]
        assert max(theirs, key=lambda item: theirs[item]) == int(found.slate[user, 0])
