from __future__ import annotations

import pytest
import torch
from concertrl.agents.policy import PACE, Policy, PolicySpec, Value, trunk

SPEC = PolicySpec(observation_dim=7, initial_std=(0.5, 0.5, 0.1), hidden=(16, 8))


def test_an_untrained_policy_does_exactly_nothing_whatever_it_sees() -> None:
    policy = Policy(SPEC)
    assert torch.equal(policy.mean(1000 * torch.randn(64, 7)), torch.zeros(64, 3))


def test_forward_is_the_mean_beside_the_logarithm_of_the_spread() -> None:
    policy = Policy(SPEC)
    torch.nn.init.normal_(policy.head.weight)
    observation = torch.randn(5, 7)
    mean, log_std = policy(observation).chunk(2, dim=1)
    assert torch.equal(mean, policy.mean(observation)) and bool((mean != 0).all())
    torch.testing.assert_close(log_std.exp(), torch.tensor(SPEC.initial_std).expand(5, 3))


def test_every_weight_of_a_policy_learns() -> None:
    """At the start only the head can; from then on the trunk too."""
    policy, observation = Policy(SPEC), torch.randn(32, 7)
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    for _ in range(2):
        optimizer.zero_grad()
        (policy(observation) - 1.0).square().mean().backward()
        optimizer.step()
    assert all(not torch.equal(value, before[name]) for name, value in policy.state_dict().items())


def test_a_constant_entry_is_one_number_whatever_is_seen() -> None:
    policy = Policy(PolicySpec(observation_dim=7, initial_std=(0.5, 0.5, 0.1), hidden=(16, 8), constant=2))
    torch.nn.init.normal_(policy.head.weight)
    assert policy.constant is not None
    torch.nn.init.constant_(policy.constant, 0.7)
    mean = policy.mean(torch.randn(5, 7))
    assert bool((mean[:, 1:] == 0.7).all()) and len(mean[:, 0].unique()) == 5
    mean.sum().backward()
    assert policy.constant.grad is not None and policy.constant.grad.tolist() == [5.0, 5.0]


def test_a_shared_part_is_the_same_whatever_is_seen_and_learns_faster() -> None:
    policy = Policy(PolicySpec(observation_dim=7, initial_std=(0.5, 0.5, 0.1), hidden=(16, 8), constant=1, shared=1))
    assert policy.shared is not None and not policy.mean(torch.randn(5, 7)).any()
    before = policy.mean(observation := torch.randn(5, 7))
    torch.nn.init.constant_(policy.shared, 0.2)
    moved = policy.mean(observation) - before
    torch.testing.assert_close(moved, torch.tensor([0.2 * PACE, 0.0, 0.0]).expand(5, 3))
    policy.mean(observation).sum().backward()
    assert policy.shared.grad is not None and policy.shared.grad.tolist() == [5.0 * PACE]


def test_an_untrained_policy_may_start_from_gains() -> None:
    policy = Policy(PolicySpec(7, (0.5, 0.5, 0.1), (16, 8), shared=2, start=(0.4, -0.3)))
    torch.testing.assert_close(policy.mean(torch.randn(5, 7)), torch.tensor([0.4, -0.3, 0.0]).expand(5, 3))


def test_shapes_follow_the_spec() -> None:
    assert SPEC.action_dim == 3
    assert [tuple(value.shape) for value in Policy(SPEC).head.parameters()] == [(3, 8), (3,)]
    assert Value(SPEC)(torch.randn(5, 7)).shape == (5,)
    assert not torch.equal(Value(SPEC)(torch.randn(5, 7)), torch.zeros(5))


@pytest.mark.parametrize("width", [4, 7, 20])
def test_a_trunk_starts_orthogonal(width: int) -> None:
    layer = trunk(7, [width])[0]
    assert isinstance(layer, torch.nn.Linear)
    weight = layer.weight.detach()
    square = weight @ weight.t() if width <= 7 else weight.t() @ weight
    torch.testing.assert_close(square, 2.0 * torch.eye(min(width, 7)), atol=1e-5, rtol=0)
    assert not layer.bias.any()
