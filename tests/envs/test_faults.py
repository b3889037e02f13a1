from __future__ import annotations

import torch
from concertrl.envs import BatchedEnv, Stage
from concertrl.envs.faults import ADVERSARIAL, SILENT, arranged, drawn

SESSIONS = 64


def test_a_share_of_the_sessions_has_one_agent_that_fails() -> None:
    found = drawn(0.3, 3, 20)(7, torch.arange(20_000))
    assert abs(float((found.agent >= 0).float().mean()) - 0.3) < 0.02
    failing = found.agent >= 0
    shares = torch.bincount(found.agent[failing], minlength=3) / failing.sum()
    assert bool(((shares - 1 / 3).abs() < 0.02).all())
    assert set(found.kind.unique().tolist()) == {SILENT, ADVERSARIAL}
    assert int(found.since.min()) == 0 and int(found.since.max()) == 9
    again = drawn(0.3, 3, 20)(7, torch.arange(10_000, 20_000))
    assert torch.equal(again.agent, found.agent[10_000:])


def test_a_team_of_one_has_nobody_to_fail() -> None:
    assert not (drawn(1.0, 1, 20)(7, torch.arange(100)).agent >= 0).any()


def test_a_silent_agent_has_no_ballot_from_its_step_on(small_stage: Stage) -> None:
    env = BatchedEnv(small_stage, sessions=SESSIONS, seed=3, fate=arranged(1, "silent", since=2))
    whole = BatchedEnv(small_stage, sessions=SESSIONS, seed=3)
    for step in range(4):
        failing, sound = env.step({}), whole.step({})
        assert failing.ballots is not None
        assert bool((failing.ballots.items[:, 1] < 0).all()) == (step >= 2)
        assert torch.equal(failing.slate, sound.slate) == (step < 2)


def test_an_adversarial_agent_votes_at_random_and_as_surely_as_any(small_stage: Stage) -> None:
    env = BatchedEnv(small_stage, sessions=SESSIONS, seed=3, fate=arranged(0, "adversarial"))
    again = BatchedEnv(small_stage, sessions=SESSIONS, seed=3, fate=arranged(0, "adversarial"))
    first, same = env.step({}), again.step({})
    assert first.ballots is not None and same.ballots is not None
    assert torch.equal(first.ballots.items, same.ballots.items)
    second = env.step({})
    assert second.ballots is not None
    assert not torch.equal(first.ballots.items[:, 0], second.ballots.items[:, 0])
    assert float(first.ballots.scores[:, 0, 0].mean()) > 1.0
    assert float(env.traces.steadiness[:, 0].abs().mean()) < 0.5 < float(env.traces.steadiness[:, 1].mean())


def test_a_vote_at_random_is_as_likely_for_any_item(small_stage: Stage) -> None:
    """By inner product the few items with the longest vectors would fill the ballots."""
    env = BatchedEnv(small_stage, sessions=1024, seed=3, fate=arranged(0, "adversarial"))
    sound = BatchedEnv(small_stage, sessions=1024, seed=3)
    step = env.step({})
    assert step.ballots is not None
    others = sound.step({}).ballots
    assert others is not None
    known = env.ensemble.towers["cf"].item_vectors.norm(dim=1) > 0
    named, usual = (
        torch.bincount(ballots.items[:, 0].flatten(), minlength=len(known))[known].float()
        for ballots in (step.ballots, others)
    )
    assert float(named.std() / named.mean()) < 0.4 < float(usual.std() / usual.mean())
    assert bool((step.ballots.items[:, 0] >= 0).all())


def test_a_vote_at_random_is_never_for_what_was_shown(small_stage: Stage) -> None:
    env = BatchedEnv(small_stage, sessions=SESSIONS, seed=3, fate=arranged(0, "adversarial"))
    first = env.step({})
    second = env.step({})
    assert second.ballots is not None
    assert not (second.ballots.items[:, 0, :, None] == first.slate[:, None, :]).any()


def test_a_frozen_agent_plays_its_tower(small_stage: Stage) -> None:
    env = BatchedEnv(small_stage, sessions=SESSIONS, seed=3, fate=arranged(0, "frozen"))
    whole = BatchedEnv(small_stage, sessions=SESSIONS, seed=3)
    wild = torch.ones(SESSIONS, env.ensemble.action_dim("cf"))
    assert torch.equal(env.step({"cf": wild}).slate, whole.step({}).slate)


def test_a_session_fails_alike_in_any_batch(small_stage: Stage) -> None:
    fate = drawn(1.0, 3, small_stage.experiment.env.horizon)
    whole = BatchedEnv(small_stage, sessions=SESSIONS, seed=3, fate=fate)
    one = BatchedEnv(small_stage, sessions=1, seed=3, fate=fate)
    one.start(torch.tensor([5]))
    for _ in range(6):
        assert torch.equal(whole.step({}).slate[5], one.step({}).slate[0])
