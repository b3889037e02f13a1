from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from concertrl.agents.ensemble import Ensemble
from concertrl.agents.policy import Policy
from concertrl.agents.team import Catalog, SessionSoFar, Team, hash_user, mask_items
from concertrl.agents.team_files import load_team
from concertrl.agents.tower import PAD
from concertrl.envs import BatchedEnv, Stage
from concertrl.platform.errors import InputError
from concertrl.platform.settings import TrainSettings

SALT = "pepper"


def team_of(stage: Stage, seed: int | None = 7, ensemble: Ensemble | None = None) -> Team:
    """A team of the stage's towers; its policies have strong random heads, or no training where there is no seed."""
    ensemble, policies = ensemble or stage.ensemble, {}
    with torch.random.fork_rng():
        torch.manual_seed(seed or 0)
        for agent in ensemble.agents:
            policies[agent] = Policy(ensemble.policy_spec(agent, TrainSettings()))
            if seed is not None:
                torch.nn.init.normal_(policies[agent].head.weight, std=0.3)
    world = stage.world
    hashes = torch.tensor([hash_user(user, SALT) for user in world.user_ids])
    catalog = Catalog(world.item_ids, world.item_titles, hashes, world.history, SALT)
    return Team(ensemble, policies, catalog, slate=5, horizon=stage.experiment.env.horizon, name="mine")


@pytest.fixture(scope="module")
def team(small_stage: Stage) -> Team:
    return team_of(small_stage)


@pytest.fixture(scope="module")
def saved(team: Team, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "team"
    team.save(folder)
    return folder


def history_of(stage: Stage, user: int) -> list[str]:
    return [stage.world.item_ids[item] for item in stage.world.history.items[user].tolist() if item != PAD]


def test_an_untrained_team_serves_the_static_hybrid_exactly(small_stage: Stage) -> None:
    bare = Team(small_stage.ensemble, {}, team_of(small_stage).catalog, slate=5, horizon=8, name="no policies")
    users = list(small_stage.world.user_ids)
    assert team_of(small_stage, seed=None).recommend(users) == bare.recommend(users)
    assert team_of(small_stage).recommend(users) != bare.recommend(users)


def test_a_known_users_first_slate_is_the_first_of_a_session(small_stage: Stage, team: Team) -> None:
    env = BatchedEnv(small_stage, sessions=32, seed=2)
    slate = env.step(team.act(env.observe())).slate
    users = [small_stage.world.user_ids[user] for user in env.state.user.tolist()]
    assert team.recommend(users) == [[small_stage.world.item_ids[item] for item in row] for row in slate.tolist()]


def test_a_session_so_far_is_replayed_as_it_was_played(small_stage: Stage, team: Team) -> None:
    env = BatchedEnv(small_stage, sessions=16, seed=2)
    ids = small_stage.world.item_ids
    users = [small_stage.world.user_ids[user] for user in env.state.user.tolist()]
    sessions: list[list[tuple[list[str], list[str]]]] = [[] for _ in users]
    observations = env.observe()
    for _ in range(env.horizon):
        offered = team.recommend(users, sessions=sessions)
        step = env.step(team.act(observations))
        observations = step.observations
        assert offered == [[ids[item] for item in row] for row in step.slate.tolist()]
        for row, slate in enumerate(step.slate.tolist()):
            clicked = [ids[item] for item, click in zip(slate, step.response.click[row], strict=True) if click]
            sessions[row].append(([ids[item] for item in slate], clicked))
    assert any(clicked for session in sessions for _, clicked in session)


def test_clicks_and_what_was_shown_both_change_the_next_slate(small_stage: Stage, team: Team) -> None:
    users = list(small_stage.world.user_ids[:30])
    first = team.recommend(users)
    ignored: list[SessionSoFar] = [[(slate, [])] for slate in first]
    liked: list[SessionSoFar] = [[(slate, slate[:2])] for slate in first]
    assert team.recommend(users, sessions=ignored) != team.recommend(users, sessions=liked)
    for slate, following in zip(first, team.recommend(users, sessions=ignored), strict=True):
        assert not set(slate) & set(following)
    mixed: list[SessionSoFar] = [[], *ignored[1:]]
    assert team.recommend(users, sessions=mixed)[0] == first[0]


def test_a_users_slate_does_not_depend_on_who_else_asks(small_stage: Stage, team: Team) -> None:
    users = list(small_stage.world.user_ids)
    whole = team.recommend(users)
    for row in (0, 50, 119):
        assert team.recommend([users[row]]) == [whole[row]]
    assert team.recommend([]) == []


def test_what_a_user_has_had_is_left_out_unless_asked_for(small_stage: Stage, team: Team) -> None:
    users = list(small_stage.world.user_ids)
    pasts = [set(history_of(small_stage, user)) for user in range(len(users))]
    for slate, past in zip(team.recommend(users), pasts, strict=True):
        assert len(set(slate)) == 5 and not set(slate) & past
    again = team.recommend(users, exclude_history=False)
    assert any(set(slate) & past for slate, past in zip(again, pasts, strict=True))


def test_a_history_serves_a_stranger_and_moves_the_slate(small_stage: Stage, team: Team) -> None:
    first, second = history_of(small_stage, 3), history_of(small_stage, 40)
    slates = team.recommend([first, second, [*first, "no such item"]])
    assert slates[0] != slates[1] and slates[2] == slates[0]
    assert not set(slates[0]) & set(first)


def test_an_unknown_user_gets_the_slate_of_no_history(small_stage: Stage, team: Team) -> None:
    stranger, nothing = team.recommend(["who is this"]), team.recommend([[]])
    assert stranger == nothing == team.recommend([["no such item"]])
    assert len(set(stranger[0])) == 5 and set(stranger[0]) <= set(small_stage.world.item_ids)
    beside = team.recommend(["who is this", small_stage.world.user_ids[0]])
    assert beside[0] == stranger[0] != beside[1]


def test_a_slate_may_be_anything_from_one_item_to_the_catalog(small_stage: Stage, team: Team) -> None:
    user, catalog = small_stage.world.user_ids[0], set(small_stage.world.item_ids)
    longest = team.recommend([user], k=150)[0]
    assert set(longest) == catalog
    past = set(history_of(small_stage, 0))
    assert not set(longest[: 150 - len(past)]) & past
    assert team.recommend([user], k=1)[0] == team.recommend([user])[0][:1]
    for k in (0, -1, 151):
        with pytest.raises(InputError, match=rf"k={k}: a slate has 1 to 150 items here"):
            team.recommend([user], k=k)


def test_what_cannot_be_asked_is_told(team: Team) -> None:
    with pytest.raises(InputError, match='give a list of user ids or of histories, such as \\["u00001"\\]'):
        team.recommend("u00001")
    with pytest.raises(InputError, match="sessions: 1 given for 2 users"):
        team.recommend(["u00001", "u00002"], sessions=[[]])


def test_a_saved_and_loaded_team_gives_the_same_slates(small_stage: Stage, team: Team, saved: Path) -> None:
    users = [*small_stage.world.user_ids, "a stranger"]
    for found in (load_team(saved), load_team(saved.parent)):
        assert (found.name, found.slate, found.horizon) == ("mine", 5, 8)
        assert found.recommend(users) == team.recommend(users)
        assert found.recommend([history_of(small_stage, 3)], k=20) == team.recommend([history_of(small_stage, 3)], k=20)
        assert list(found.policies) == ["cf", "content", "sentiment", "conductor"]


def test_a_team_may_be_saved_over_another(small_stage: Stage, tmp_path: Path) -> None:
    first, second = team_of(small_stage, seed=1), team_of(small_stage, seed=2)
    users = list(small_stage.world.user_ids)
    first.save(tmp_path)
    second.save(tmp_path)
    assert load_team(tmp_path).recommend(users) == second.recommend(users) != first.recommend(users)


FILES = (
    "team.json",
    "policies.safetensors",
    "users.safetensors",
    "towers/towers.json",
    "towers/cf.safetensors",
    "towers/content.safetensors",
    "towers/content.notes.json",
    "towers/sentiment.safetensors",
    "towers/sentiment.notes.json",
)


def test_the_folder_holds_these_files_and_no_more(saved: Path) -> None:
    assert {str(path.relative_to(saved)) for path in saved.rglob("*") if path.is_file()} == set(FILES)


def refused(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_team(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("file", FILES)
def test_a_flipped_byte_anywhere_is_found(saved: Path, tmp_path: Path, file: str) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "team"))
    whole = (folder / file).read_bytes()
    for place in sorted({*range(0, len(whole), max(1, len(whole) // 12)), len(whole) - 1}):
        harmed = bytearray(whole)
        harmed[place] ^= 1
        (folder / file).write_bytes(bytes(harmed))
        assert refused(folder)
    (folder / file).write_bytes(whole)
    load_team(folder)


@pytest.mark.parametrize("file", FILES)
def test_a_missing_or_torn_file_is_told_in_a_line(saved: Path, tmp_path: Path, file: str) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "team"))
    os.truncate(folder / file, (folder / file).stat().st_size // 2)
    assert refused(folder)
    (folder / file).unlink()
    assert Path(file).name in refused(folder) or "towers" in refused(folder)


@pytest.mark.parametrize("content", ["[]", "{}", "3", "null", '{"format": 2}', "[" * 2000, '{"format": 1, "check": 3}'])
def test_an_index_that_is_none_is_told_in_a_line(saved: Path, tmp_path: Path, content: str) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "team"))
    (folder / "team.json").write_text(content)
    assert refused(folder)


def test_a_folder_that_is_none_is_told_in_a_line(tmp_path: Path) -> None:
    assert "no such folder" in refused(tmp_path / "none")
    assert "holds no team.json" in refused(tmp_path)


def test_users_are_in_no_file_by_name(small_stage: Stage, saved: Path) -> None:
    content = b"".join(path.read_bytes() for path in saved.rglob("*") if path.is_file())
    assert small_stage.world.item_ids[0].encode() in content
    assert not any(user.encode() in content for user in small_stage.world.user_ids)


def test_a_hash_depends_on_the_salt_and_fits_an_int64() -> None:
    found = {hash_user(user, salt) for user in ("a", "b") for salt in ("", "x", "y" * 100)}
    assert len(found) == 6 and all(0 <= each < 1 << 63 for each in found)


def test_mask_items_marks_what_is_there_once() -> None:
    penalty = torch.zeros(2, 4)
    mask_items(penalty, torch.tensor([[1, 1, PAD], [PAD, PAD, PAD]]))
    assert penalty.tolist() == [[0, -1e4, 0, 0], [0, 0, 0, 0]]


ASK = """
import json, sys
import concertrl
team = concertrl.load_team(sys.argv[1])
slates = team.recommend(["u00003", "a stranger"], k=4)
loaded = sorted(name for name in ("ray", "mlflow", "pettingzoo", "transformers") if name in sys.modules)
print(json.dumps([slates, loaded]))
"""


def test_a_fresh_process_serves_the_team_without_ray(team: Team, saved: Path, tmp_path: Path) -> None:
    asked = subprocess.run(
        [sys.executable, "-W", "error", "-c", ASK, str(saved)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.returncode == 0, asked.stderr
    slates, loaded = json.loads(asked.stdout)
    assert slates == team.recommend(["u00003", "a stranger"], k=4) and "ray" not in loaded
