from __future__ import annotations

from collections import defaultdict
from fractions import Fraction

import pytest
import torch
from concertrl.platform.fusion import Ballots, fuse, fuse_coalitions, known_rules, shares
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

METHODS = list(known_rules())
EXACT = ("weighted", "comb_sum", "comb_mnz", "comb_anz", "reciprocal_rank", "isr", "borda", "approval", "copeland")
"""Rules that are written out below in fractions."""

GARBAGE = 1e30
"""Scores of empty places, which must not be read."""


def well_scaled(score: float) -> float:
    """Down to 1e-30: a power of two times less would fall below the normal floats, which round."""
    return score if abs(score) >= 1e-30 else 0.0


@st.composite
def ballots(draw: st.DrawFn, whole: bool = False, short: bool = True) -> Ballots:
    """B users, A agents, n places over a catalog small enough for much agreement; scores fall strictly."""
    batch, agents, length = draw(st.integers(1, 4)), draw(st.integers(1, 4)), draw(st.integers(1, 6))
    catalog = draw(st.integers(length, 12))
    order = st.permutations(range(catalog)).map(lambda items: items[:length])
    number = st.integers(-50, 50) if whole else st.floats(-50, 50, width=32).map(well_scaled)
    number = st.lists(number, min_size=length, max_size=length, unique=True).map(lambda row: sorted(row, reverse=True))
    items = torch.tensor([[draw(order) for _ in range(agents)] for _ in range(batch)])
    scores = torch.tensor([[draw(number) for _ in range(agents)] for _ in range(batch)], dtype=torch.float32)
    if short:
        kept = torch.tensor(draw(st.lists(st.integers(1, length), min_size=batch * agents, max_size=batch * agents)))
        empty = torch.arange(length) >= kept.view(batch, agents, 1)
        items, scores = items.masked_fill(empty, -1), scores.masked_fill(empty, GARBAGE)
    return Ballots(items, scores)


def distinct(given_ballots: Ballots) -> int:
    """Items that every user's ballots have between them, at least."""
    return min(len(set(row.flatten().tolist()) - {-1}) for row in given_ballots.items)


def equal_weights(given_ballots: Ballots) -> Tensor:
    return torch.full(given_ballots.items.shape[:2], 1 / given_ballots.items.shape[1])


def weights_of(data: st.DataObject, given_ballots: Ballots) -> Tensor:
    """Whole numbers, so that sums are exact."""
    batch, agents = given_ballots.items.shape[:2]
    row = st.lists(st.integers(1, 5), min_size=agents, max_size=agents)
    return torch.tensor([data.draw(row) for _ in range(batch)], dtype=torch.float32)


def points_by_hand(
    items: list[list[int]], scores: list[list[float]], weights: list[float], method: str
) -> dict[int, Fraction]:
    if method == "copeland":
        return majorities_by_hand(items, weights)
    points: dict[int, Fraction] = defaultdict(Fraction)
    named: dict[int, int] = defaultdict(int)
    for ballot, given_scores, weight in zip(items, scores, weights, strict=True):
        present = [score for item, score in zip(ballot, given_scores, strict=True) if item >= 0]
        for rank, (item, score) in enumerate(zip(ballot, given_scores, strict=True), start=1):
            if item < 0 or weight <= 0:
                continue
            worth = {
                "weighted": Fraction(score) - Fraction(min(present)),
                "reciprocal_rank": Fraction(1, 60 + rank),
                "borda": Fraction(len(ballot) - rank + 1),
                "approval": Fraction(1),
                "isr": Fraction(1, rank * rank),
            }
            points[item] += Fraction(weight) * worth.get(method, Fraction(score))
            named[item] += 1
    if method in ("comb_mnz", "isr"):
        return {item: total * named[item] for item, total in points.items()}
    return {item: total / named[item] for item, total in points.items()} if method == "comb_anz" else points


def majorities_by_hand(items: list[list[int]], weights: list[float]) -> dict[int, Fraction]:
    """Pairwise majorities won, and half of those tied."""
    everybody = sorted({item for ballot in items for item in ballot if item >= 0})

    def rank(ballot: list[int], item: int) -> int:
        return ballot.index(item) if item in ballot else 10**6

    points = {}
    for mine in everybody:
        points[mine] = Fraction(0)
        for other in everybody:
            margin = sum(
                weight * ((rank(b, mine) < rank(b, other)) - (rank(b, mine) > rank(b, other)))
                for b, weight in zip(items, weights, strict=True)
            )
            points[mine] += 0 if other == mine else Fraction(1) if margin > 0 else Fraction(1, 2) * (margin == 0)
    return points


def runoff_by_hand(items: list[list[int]], weights: list[float], slate: int) -> list[int]:
    """One candidate falls at a time, those of no first choice among them."""
    elected: list[int] = []
    for _ in range(slate):
        left = sorted({item for ballot in items for item in ballot if item >= 0} - set(elected))
        while len(left) > 1:
            votes = {item: 0.0 for item in left}
            for ballot, weight in zip(items, weights, strict=True):
                first = [item for item in ballot if item in left]
                if first:
                    votes[first[0]] += weight
            left.remove(max(left, key=lambda item: (-votes[item], item)))
        elected.append(left[0])
    return elected


def election_by_hand(items: list[list[int]], weights: list[float], slate: int) -> list[int]:
    elected: list[int] = []
    for _ in range(slate):
        votes: dict[int, float] = defaultdict(float)
        for ballot, weight in zip(items, weights, strict=True):
            left = [item for item in ballot if item >= 0 and item not in elected]
            if left:
                votes[left[0]] += weight
        elected.append(min(votes, key=lambda item: (-votes[item], item)))
    return elected


@pytest.mark.parametrize("method", EXACT)
@given(given_ballots=ballots(whole=True), data=st.data())
def test_a_rule_agrees_with_itself_written_out(method: str, given_ballots: Ballots, data: st.DataObject) -> None:
    weights, slate = weights_of(data, given_ballots), distinct(given_ballots)
    fused = fuse(given_ballots, weights, method, slate)
    for row in range(len(weights)):
        points = points_by_hand(
            given_ballots.items[row].tolist(), given_ballots.scores[row].tolist(), weights[row].tolist(), method
        )
        best = sorted(points, key=lambda item: (-points[item], item))[:slate]
        expected = torch.tensor([float(points[item]) for item in best])
        torch.testing.assert_close(fused.points[row], expected, rtol=1e-5, atol=1e-6)
        # Fractions that are not exact in float32 may break a near tie otherwise.
        if method in ("reciprocal_rank", "isr", "comb_anz"):
            found = torch.tensor([float(points[item]) for item in fused.slate[row].tolist()])
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        else:
            assert fused.slate[row].tolist() == best


@given(given_ballots=ballots(), data=st.data())
def test_plurality_agrees_with_an_election_written_out(given_ballots: Ballots, data: st.DataObject) -> None:
    weights, slate = weights_of(data, given_ballots), distinct(given_ballots)
    found = fuse(given_ballots, weights, "plurality", slate).slate.tolist()
    rows = zip(given_ballots.items.tolist(), weights.tolist(), strict=True)
    assert found == [election_by_hand(items, weight, slate) for items, weight in rows]


@given(given_ballots=ballots(), data=st.data())
def test_a_run_off_agrees_with_one_written_out(given_ballots: Ballots, data: st.DataObject) -> None:
    weights, slate = weights_of(data, given_ballots), distinct(given_ballots)
    found = fuse(given_ballots, weights, "instant_runoff", slate).slate.tolist()
    rows = zip(given_ballots.items.tolist(), weights.tolist(), strict=True)
    assert found == [runoff_by_hand(items, weight, slate) for items, weight in rows]


@given(given_ballots=ballots())
def test_beliefs_pool_as_a_product_of_probabilities(given_ballots: Ballots) -> None:
    """log p(i) of the filled places, against an item off the ballot, which has an n-th of 5 %."""
    items, scores = given_ballots.items[:1, :1], given_ballots.scores[:1, :1]
    count = int((items >= 0).sum())
    p = scores[0, 0, :count].softmax(0) * 0.95
    expected = (p.log() - torch.tensor(0.05 / count).log()).clamp_min(0)
    for method in ("log_opinion_pool", "product_of_experts"):
        fused = fuse(Ballots(items, scores), torch.ones(1, 1), method, count)
        torch.testing.assert_close(fused.points[0].sort().values, expected.sort().values, atol=1e-4, rtol=1e-4)
    twice = fuse(Ballots(items, scores), 2 * torch.ones(1, 1), "log_opinion_pool", count)
    torch.testing.assert_close(twice.points[0].sort().values, 2 * expected.sort().values, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
@given(given_ballots=ballots(), data=st.data())
def test_who_has_no_weight_is_as_silent(method: str, given_ballots: Ballots, data: st.DataObject) -> None:
    agents = given_ballots.items.shape[1]
    out = data.draw(st.integers(0, agents - 1))
    weights = weights_of(data, given_ballots)
    weights[:, out] = 0.0
    silent = given_ballots.items.clone()
    silent[:, out] = -1
    found = fuse(given_ballots, weights, method, 4)
    expected = fuse(Ballots(silent, given_ballots.scores), weights, method, 4)
    assert torch.equal(found.slate, expected.slate) and torch.equal(found.points, expected.points)


@pytest.mark.parametrize("method", METHODS)
@given(given_ballots=ballots(), data=st.data())
def test_a_coalition_fuses_as_if_the_others_were_not_there(
    method: str, given_ballots: Ballots, data: st.DataObject
) -> None:
    agents, weights = given_ballots.items.shape[1], weights_of(data, given_ballots)
    row = st.lists(st.booleans(), min_size=agents, max_size=agents)
    members = torch.tensor([[True] * agents, *data.draw(st.lists(row, min_size=1, max_size=4))])
    found = fuse_coalitions(given_ballots, weights, method, 5, members)
    for slates, inside in zip(found, members, strict=True):
        assert torch.equal(slates, fuse(given_ballots, weights * inside, method, 5).slate)


@pytest.mark.parametrize("method", METHODS)
@given(given_ballots=ballots(), data=st.data())
def test_the_order_of_equal_agents_changes_nothing(method: str, given_ballots: Ballots, data: st.DataObject) -> None:
    order = torch.tensor(data.draw(st.permutations(range(given_ballots.items.shape[1]))))
    turned = Ballots(given_ballots.items[:, order], given_ballots.scores[:, order])
    weights, slate = equal_weights(given_ballots), distinct(given_ballots)
    for found, expected in zip(
        fuse(turned, weights, method, slate), fuse(given_ballots, weights, method, slate), strict=True
    ):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("method", METHODS)
@given(given_ballots=ballots())
def test_no_item_is_on_a_slate_twice(method: str, given_ballots: Ballots) -> None:
    slate = distinct(given_ballots)
    for proposed, shown in zip(
        given_ballots.items,
        fuse(given_ballots, equal_weights(given_ballots), method, slate).slate.tolist(),
        strict=True,
    ):
        assert len(set(shown)) == slate and set(shown) <= set(proposed.flatten().tolist()) - {-1}


@pytest.mark.parametrize(
    "method", [name for name in METHODS if not name.startswith("comb") and name not in ("log_isr", "approval")]
)
@given(given_ballots=ballots(whole=True), data=st.data())
def test_what_is_on_top_of_every_ballot_is_first(method: str, given_ballots: Ballots, data: st.DataObject) -> None:
    favourite = 99
    items = given_ballots.items.clone()
    items[:, :, 0] = favourite
    found = fuse(Ballots(items, given_ballots.scores), weights_of(data, given_ballots), method, 1).slate
    # A favourite without a rival has no points where they count from the ballot's end.
    alone = (items[:, :, 1:] < 0).all(2).all(1) if method == "weighted" else torch.zeros(len(items), dtype=torch.bool)
    assert bool(((found[:, 0] == favourite) | alone).all())


@pytest.mark.parametrize("method", METHODS)
@given(given_ballots=ballots(), data=st.data(), power=st.integers(-6, 6))
def test_the_scale_of_the_weights_changes_nothing(
    method: str, given_ballots: Ballots, data: st.DataObject, power: int
) -> None:
    """By powers of two, which no float rounds."""
    weights, slate = weights_of(data, given_ballots), distinct(given_ballots)
    found = fuse(given_ballots, weights * 2.0**power, method, slate).slate
    assert torch.equal(found, fuse(given_ballots, weights, method, slate).slate)


@pytest.mark.parametrize("method", METHODS)
@given(given_ballots=ballots(), data=st.data())
def test_a_silent_agent_changes_nothing(method: str, given_ballots: Ballots, data: st.DataObject) -> None:
    weights, slate = weights_of(data, given_ballots), distinct(given_ballots)
    silent = torch.full_like(given_ballots.items[:, :1], -1)
    noise = torch.full_like(given_ballots.scores[:, :1], GARBAGE)
    more = Ballots(torch.cat([silent, given_ballots.items], 1), torch.cat([noise, given_ballots.scores], 1))
    for found, expected in zip(
        fuse(more, torch.cat([torch.full_like(weights[:, :1], 9.0), weights], 1), method, slate),
        fuse(given_ballots, weights, method, slate),
        strict=True,
    ):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("method", METHODS)
@given(given_ballots=ballots(), data=st.data())
def test_a_user_gets_the_same_slate_in_any_batch(method: str, given_ballots: Ballots, data: st.DataObject) -> None:
    weights, slate = weights_of(data, given_ballots), distinct(given_ballots)
    whole = fuse(given_ballots, weights, method, slate)
    for row in range(len(weights)):
        part = slice(row, row + 1)
        one = fuse(Ballots(given_ballots.items[part], given_ballots.scores[part]), weights[part], method, slate)
        assert torch.equal(one.slate, whole.slate[part]) and torch.equal(one.points, whole.points[part])


@pytest.mark.parametrize("method", ["weighted", "reciprocal_rank", "borda", "approval"])
@given(given_ballots=ballots(whole=True), data=st.data())
def test_shares_say_whose_points_an_item_has(method: str, given_ballots: Ballots, data: st.DataObject) -> None:
    weights, slate = weights_of(data, given_ballots), distinct(given_ballots)
    fused = fuse(given_ballots, weights, method, slate)
    found = shares(given_ballots, weights, method, fused.slate)
    for agent in range(weights.shape[1]):
        alone = torch.zeros_like(weights)
        alone[:, agent] = weights[:, agent]
        for row in range(len(weights)):
            items, scores = given_ballots.items[row].tolist(), given_ballots.scores[row].tolist()
            points = points_by_hand(items, scores, alone[row].tolist(), method)
            mine = torch.tensor([float(points[item]) for item in fused.slate[row].tolist()])
            expected = torch.where(fused.points[row] > 0, mine / fused.points[row].clamp_min(1e-9), 0.0)
            torch.testing.assert_close(found[row, :, agent], expected, rtol=1e-4, atol=1e-6)
