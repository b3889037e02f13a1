from __future__ import annotations

import pytest
import torch
from concertrl.agents.selection import bagged_weights, greedy_weights, points_of
from concertrl.agents.validation import ndcg
from concertrl.platform.fusion import Ballots, additive_rules, fuse


def ballots(seed: int, users: int = 5, agents: int = 3, length: int = 12, items: int = 30) -> Ballots:
    draw = torch.Generator().manual_seed(seed)
    chosen = torch.rand(users, agents, items, generator=draw).argsort(2)[:, :, :length]
    scores = torch.randn(users, agents, length, generator=draw).sort(2, descending=True).values
    chosen[0, 0, 9:] = -1
    return Ballots(chosen, scores)


@pytest.mark.parametrize("rule", additive_rules())
def test_adding_up_points_is_fusing(rule: str) -> None:
    found, weights = ballots(0), torch.tensor([0.2, 0.5, 0.3])
    total = (weights[:, None, None] * points_of(found, rule, 30)).sum(0)
    fused = fuse(found, weights.expand(5, -1), rule, 6)
    assert torch.allclose(total.gather(1, fused.slate), fused.points, atol=1e-6)
    assert torch.allclose(total.topk(6).values, fused.points, atol=1e-6)


def test_the_agent_that_knows_gets_all_the_weight() -> None:
    draw = torch.Generator().manual_seed(1)
    liked = torch.rand(40, 50, generator=draw) < 0.1
    liked[:, 0] = True
    noise = torch.rand(2, 40, 50, generator=draw)
    points = torch.stack([noise[0], liked.float(), noise[1]])
    assert greedy_weights(points, liked).tolist() == [0.0, 1.0, 0.0]
    weights, reached = bagged_weights(points, liked, seed=0)
    assert weights.tolist() == [0.0, 1.0, 0.0] and reached == 1.0


def test_two_halves_of_the_truth_are_taken_together() -> None:
    """Each agent sees the likes through its own noise; together they see better than the better one."""
    draw = torch.Generator().manual_seed(2)
    liked = torch.rand(300, 80, generator=draw) < 0.05
    liked[:, 0] = True
    points = torch.stack([liked + noise * torch.rand(300, 80, generator=draw) for noise in (1.6, 1.8, 30.0)])
    weights, reached = bagged_weights(points, liked, seed=0)
    alone = [float(ndcg(each, liked).mean()) for each in points]
    assert reached > max(alone) + 0.02 and weights[0] > 0.3 and weights[1] > 0.2 and weights[2] < 0.05
    assert reached == pytest.approx(float(ndcg((weights[:, None, None] * points).sum(0), liked).mean()), abs=1e-3)
    assert weights.sum() == pytest.approx(1.0)
    again, other = (bagged_weights(points, liked, seed)[0] for seed in (0, 1))
    assert torch.equal(weights, again) and not torch.equal(weights, other)


def test_one_user_is_enough() -> None:
    liked = torch.zeros(1, 20, dtype=torch.bool)
    liked[0, 3] = True
    weights, reached = bagged_weights(torch.stack([1 - liked.float(), liked.float()]), liked, seed=0)
    assert weights[1] > 0 and reached == 1.0
