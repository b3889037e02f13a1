"""What the agents are paid, against coalitions played out one by one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from concertrl.envs import BatchedEnv, Stage
from concertrl.envs.expectation import expected_reward
from concertrl.platform.credit import plan

SESSIONS = 12


def some_actions(env: BatchedEnv) -> dict[str, torch.Tensor]:
    noise = torch.Generator().manual_seed(1)
    return {agent: torch.randn(SESSIONS, env.ensemble.action_dim(agent), generator=noise) for agent in env.agents}


@pytest.mark.parametrize("kind", ["team", "difference", "shapley"])
@pytest.mark.parametrize("conductor", [True, False])
def test_credit_is_that_of_the_coalitions_played_out(
    stage_under: Callable[..., Stage], kind: str, conductor: bool
) -> None:
    stage = stage_under(reward={"credit": kind}, fusion={"conductor": conductor})
    env = BatchedEnv(stage, sessions=SESSIONS, seed=3, credited=True)
    agents = env.agents
    worth = {}
    found = plan(kind, len(agents))
    before, actions = env.state, some_actions(env)
    step = env.step(actions)
    assert step.ballots is not None and step.credits is not None and step.expected is not None
    static = env.ensemble.weights.expand(SESSIONS, -1)
    for row in found.members.tolist():
        inside = dict(zip(agents, row, strict=True))
        said = torch.tensor([inside[name] for name in env.recommenders])
        weights = step.weights if inside.get("conductor", False) else static
        if not bool(said.any()):
            worth[tuple(row)] = torch.zeros(SESSIONS)
            continue
        alone = env.ensemble.fuse(step.ballots, weights * said, env.slate)
        worth[tuple(row)] = expected_reward(env.world, before, alone, env.experiment.reward)
    table = torch.stack(list(worth.values()), dim=1)
    torch.testing.assert_close(step.credits, table @ found.shares, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(step.expected, table[:, 0])
    if kind == "shapley":
        torch.testing.assert_close(step.credits.sum(1), step.expected, atol=1e-4, rtol=1e-4)


def test_an_env_that_is_not_asked_pays_nobody(small_stage: Stage) -> None:
    step = BatchedEnv(small_stage, sessions=2, seed=0).step({})
    assert step.credits is None and step.expected is None


def test_a_conductor_that_does_nothing_has_no_credit(stage_under: Callable[..., Stage]) -> None:
    env = BatchedEnv(stage_under(reward={"credit": "shapley"}), sessions=SESSIONS, seed=3, credited=True)
    step = env.step({})
    assert step.credits is not None
    assert float(step.credits[:, env.agents.index("conductor")].abs().max()) < 1e-5
