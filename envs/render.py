"""A session in words, so that a person can follow it: who proposed what, the weights, the slate, what the user did."""

from __future__ import annotations

import torch

from ..agents.team import hash_user
from ..agents.tower import PAD
from .batched import BatchedEnv, Step

PROPOSALS = 3
"""Items of each ballot that are named."""


def session_start(env: BatchedEnv, row: int = 0) -> str:
    """The user of a session, and what they did before."""
    user = int(env.state.user[row])
    items = [item for item in env.world.history.items[user].tolist() if item != PAD]
    recent = ", ".join(_title(env, item) for item in items[-PROPOSALS:]) or "nothing"
    # A rendered session is kept with the run, where no one's id belongs.
    name = f"{hash_user(env.world.user_ids[user], env.world.name):016x}"[:8] if env.world.user_ids else str(user)
    return f"user {name} (hashed): {len(items)} interactions before this session; last: {recent}"


def step_text(env: BatchedEnv, step: Step, row: int = 0) -> str:
    """One step of a session."""
    lines = [f"step {int(env.state.step[row])} of at most {env.horizon}"]
    if step.ballots is not None:
        for place, name in enumerate(env.recommenders):
            items = step.ballots.items[row, place, :PROPOSALS].tolist()
            weight = float(step.weights[row, place])
            lines.append(
                f"  {name:<10} weight {weight:.2f}  proposes {'; '.join(_title(env, item) for item in items)} ..."
            )
    lines.append("  slate")
    lines += [f"    {place:>2}. {text}" for place, text in enumerate(_slate(env, step, row), start=1)]
    clicks = int(step.response.click[row].sum())
    ending = (
        "; the user leaves" if bool(step.terminated[row]) else ("; the horizon" if bool(step.truncated[row]) else "")
    )
    patience = float(env.state.patience[row].clamp_min(0.0))
    lines.append(f"  {clicks} clicks, reward {float(step.reward[row]):.2f}, patience left {patience:.1f}{ending}")
    return "\n".join(lines)


def _slate(env: BatchedEnv, step: Step, row: int) -> list[str]:
    response, items = step.response, step.slate[row].tolist()
    backers = _backers(env, step, row)
    lines = []
    for place, item in enumerate(items):
        marks = []
        if bool(response.click[row, place]):
            marks.append(f"clicked, {float(response.dwell_s[row, place]):.0f} s")
        if bool(response.conversion[row, place]):
            marks.append("converted")
        mark = f"  <- {', '.join(marks)}" if marks else ""
        lines.append(f"{_title(env, item)} [{_topic(env, item)}]{backers[place]}{mark}")
    return lines


def _backers(env: BatchedEnv, step: Step, row: int) -> list[str]:
    """Whose points put each item on the slate."""
    if step.ballots is None:
        return [""] * step.slate.shape[1]
    parts: torch.Tensor = env.ensemble.shares(step.ballots, step.weights, step.slate)[row]
    return [
        " by " + "+".join(name for name, part in zip(env.recommenders, item.tolist(), strict=True) if part > 0.05)
        for item in parts
    ]


def _title(env: BatchedEnv, item: int) -> str:
    title = env.world.item_titles[item] if env.world.item_titles else ""
    return title or (env.world.item_ids[item] if env.world.item_ids else f"item {item}")


def _topic(env: BatchedEnv, item: int) -> str:
    topic = int(env.world.item_topic[item])
    return env.world.topic_names[topic] if env.world.topic_names else f"topic {topic}"
