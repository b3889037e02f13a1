"""Who learns with whom, and that a shared network says the same when it is handed out agent by agent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from concertrl.agents.ensemble import Ensemble
from concertrl.agents.policy import Policy
from concertrl.agents.tower import Tower
from concertrl.cluster.critics import Group, critic_dim, groups, spec_of, unshared
from concertrl.envs import Stage
from concertrl.platform.settings import TrainSettings


@pytest.fixture
def alike(small_stage: Stage) -> Ensemble:
    """Content and sentiment with spaces of one size."""
    towers = dict(small_stage.ensemble.towers)
    width = min(towers[name].dim for name in ("content", "sentiment"))
    for name in ("content", "sentiment"):
        extras = {"prior": torch.ones(width), "gain": torch.tensor(1.0)}
        towers[name] = Tower(name, towers[name].item_vectors[:, :width].contiguous(), "mean", extras)
    return Ensemble(towers, small_stage.ensemble.fusion, small_stage.ensemble.weights)


def test_agents_whose_spaces_match_share_a_network_where_that_is_wanted(alike: Ensemble) -> None:
    assert [group.agents for group in groups(alike, TrainSettings(sharing=True))] == [
        ("cf",), ("content", "sentiment"), ("conductor",)
    ]  # fmt: skip
    assert [group.name for group in groups(alike, TrainSettings())] == ["cf", "content", "sentiment", "conductor"]
    frozen = TrainSettings(sharing=True, frozen=("sentiment",))
    assert [group.agents for group in groups(alike, frozen)] == [("cf",), ("content",), ("conductor",)]


def test_an_agents_own_policy_says_what_the_shared_one_says(alike: Ensemble) -> None:
    train = TrainSettings(sharing=True)
    group = groups(alike, train)[1]
    torch.manual_seed(0)
    shared = Policy(spec_of(group, alike, train))
    torch.nn.init.normal_(shared.head.weight)
    for agent in group.agents:
        spec = alike.policy_spec(agent, train)
        seen = torch.randn(7, spec.observation_dim)
        alone = unshared(shared, group, agent, spec)
        torch.testing.assert_close(alone(seen), shared(group.marked(agent, seen)), atol=1e-5, rtol=1e-5)
    seen = torch.randn(3, alike.observation_dim("content"))
    assert not torch.equal(shared(group.marked("content", seen)), shared(group.marked("sentiment", seen)))


@pytest.mark.parametrize("critic", ["own", "joint", "informed"])
def test_a_critic_is_as_wide_as_what_it_sees(alike: Ensemble, critic: str) -> None:
    train = TrainSettings.model_validate({"sharing": True, "critic": critic})
    widths = {group.name: critic_dim(group, alike, train) for group in groups(alike, train)}
    own = {group.name: spec_of(group, alike, train).observation_dim for group in groups(alike, train)}
    everything = sum(alike.observation_dim(agent) for agent in alike.agents)
    expected = {
        "own": own,
        "joint": {name: everything + (2 if "+" in name else 0) for name in own},
        "informed": {name: width + 5 for name, width in own.items()},
    }
    assert widths == expected[critic]


@pytest.mark.parametrize("critic", ["own", "joint", "informed"])
def test_a_shared_network_trains_and_is_handed_out(
    stage_under: Callable[..., Stage], alike: Ensemble, critic: str, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from concertrl.cluster import runner
    from concertrl.cluster.trainer import Trainer

    stage = stage_under(train={"sharing": True, "critic": critic, "minibatch": 64, "epochs": 1})
    stage = replace(stage, ensemble=alike, reading=alike.read(stage.world.history))
    monkeypatch.setattr(runner, "prepare", lambda experiment: replace(stage, experiment=experiment))
    with Trainer(stage) as trainer:
        before = trainer.team().policies
        metrics = trainer.iterate()
        after = trainer.team().policies
    assert metrics["throughput/env_steps_per_s"] > 0
    assert set(after) == {"cf", "content", "sentiment", "conductor"}
    for agent, policy in after.items():
        assert not torch.equal(policy.trunk[0].weight, before[agent].trunk[0].weight), agent
    assert torch.equal(after["content"].trunk[0].weight, after["sentiment"].trunk[0].weight)
    assert not torch.equal(after["content"].trunk[0].bias, after["sentiment"].trunk[0].bias)


def test_one_agent_alone_is_not_marked() -> None:
    seen = torch.randn(2, 3)
    assert Group("cf", ("cf",)).marked("cf", seen) is seen
