from __future__ import annotations

import numpy as np
from concertrl.agents.tower import PAD
from concertrl.envs import BatchedEnv, ConcertEnv, Stage
from concertrl.envs.render import session_start, step_text


def test_the_start_tells_who_came_without_telling_an_id(small_stage: Stage) -> None:
    env = BatchedEnv(small_stage, sessions=4, seed=1)
    world = env.world
    for row in range(4):
        text = session_start(env, row)
        user = int(env.state.user[row])
        had = [item for item in world.history.items[user].tolist() if item != PAD]
        assert f"{len(had)} interactions before this session" in text
        assert text.endswith(", ".join(world.item_titles[item] for item in had[-3:]))
        assert world.user_ids[user] not in text
    assert len({session_start(env, row).partition(":")[0] for row in range(4)}) == len(set(env.state.user.tolist()))


def test_a_step_names_agents_weights_proposals_slate_and_clicks(small_stage: Stage) -> None:
    env = BatchedEnv(small_stage, sessions=8, seed=1)
    world = env.world
    for number in range(1, 4):
        step = env.step({})
        assert step.ballots is not None
        for row in range(8):
            text = step_text(env, step, row)
            lines = text.splitlines()
            assert lines[0] == f"step {number} of at most {env.horizon}"
            for place, name in enumerate(("cf", "content", "sentiment")):
                first = world.item_titles[int(step.ballots.items[row, place, 0])]
                assert f"{name:<10} weight {float(step.weights[row, place]):.2f}  proposes {first};" in text
            shown = lines[lines.index("  slate") + 1 :][: env.slate]
            for place, item in enumerate(step.slate[row].tolist()):
                topic = world.topic_names[int(world.item_topic[item])]
                assert shown[place].startswith(f"    {place + 1:>2}. {world.item_titles[item]} [{topic}] by ")
                assert ("<- clicked" in shown[place]) == bool(step.response.click[row, place])
                assert ("converted" in shown[place]) == bool(step.response.conversion[row, place])
            clicks = int(step.response.click[row].sum())
            assert f"{clicks} clicks, reward {clicks:.2f}, patience left " in lines[-1]
            assert lines[-1].endswith("the user leaves") == bool(step.terminated[row])


def test_backers_are_the_agents_whose_ballots_hold_the_item(small_stage: Stage) -> None:
    env = BatchedEnv(small_stage, sessions=8, seed=1)
    step = env.step({})
    assert step.ballots is not None
    for row in range(8):
        lines = [line for line in step_text(env, step, row).splitlines() if ". " in line and " by " in line]
        for item, line in zip(step.slate[row].tolist(), lines, strict=True):
            backers = line.partition(" by ")[2].split(" ")[0].split("+")
            ballots = dict(zip(env.recommenders, step.ballots.items[row].tolist(), strict=True))
            assert backers and all(item in ballots[name] for name in backers)


def test_a_slate_from_outside_is_told_without_proposals(small_stage: Stage) -> None:
    env = BatchedEnv(small_stage, sessions=1, seed=1)
    slate = env.step({}).slate
    env.reset()
    text = step_text(env, env.show(slate))
    assert "proposes" not in text and " by " not in text and env.world.item_titles[int(slate[0, 0])] in text


def test_the_env_renders_its_session(small_stage: Stage) -> None:
    env = ConcertEnv(small_stage, seed=1, render_mode="ansi")
    env.reset()
    assert (env.render() or "").startswith("user ")
    ending, last = "", ""
    while env.agents:
        _, _, terminated, _, infos = env.step(
            {agent: np.zeros(env.action_space(agent).shape, np.float32) for agent in env.agents}
        )
        ending = env.render() or ""
        last = "the user leaves" if terminated["cf"] else "the horizon"
        titles = dict(zip(small_stage.world.item_ids, small_stage.world.item_titles, strict=True))
        assert all(titles[item] in ending for item in infos["cf"]["slate"])
    assert ending.endswith(last)
    silent = ConcertEnv(small_stage, seed=1)
    silent.reset()
    assert silent.render() is None
