"""The fusion benchmark: it goes on where it was stopped, and its figures are what the cells say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from concertrl.experiments.benchmark_fusion import Cell, Contest, contest_of, run
from concertrl.experiments.fusion_cells import FIXED, TRAINED, Sizes, run_cell
from concertrl.experiments.fusion_report import faults, gains, pictures, rows, speed, summary, text
from concertrl.platform.errors import InputError
from concertrl.platform.experiment import load_experiment

SIZES = Sizes(sessions=32, looks=1, bandit=5)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Contest:
    words = ["world.users=120", "world.items=150", "world.topics=6", "agents.names=[cf, content, sentiment]"]
    words += ["agents.cf.factors=8", "agents.content.factors=8", "env.sessions=16", "env.slate=6", "env.horizon=8"]
    words += ["train.iterations=2", "train.hidden=[8]", "train.epochs=1"]
    return Contest({"builtin": load_experiment("builtin", words)}, 2, SIZES, tmp_path_factory.mktemp("cells"))


def test_a_fixed_cell_has_every_policy_in_both_worlds(small: Contest) -> None:
    found = run_cell(small.experiments["builtin"], FIXED, 1, SIZES)
    for place in ("trained_in", "judged_in"):
        assert {"random", "cf", "best_static", "bandit", "rule copeland", "rule comb_sum, z_score"} < set(found[place])
    assert found["trained_in"] != found["judged_in"]
    again = run_cell(small.experiments["builtin"], FIXED, 1, SIZES)
    assert again == found


def test_what_is_done_is_not_done_again(small: Contest) -> None:
    """Two cells are there; the others are run by worker processes, and their files are as those of one process."""
    cells = list(small.cells())
    assert len(cells) == 2 * (1 + len(TRAINED)) and len({cell.path(small.folder) for cell in cells}) == len(cells)
    wanted = [cell for cell in cells if cell.contestant not in (FIXED, "team_shapley") or cell.seed == 1]
    for cell in wanted:
        cell.path(small.folder).parent.mkdir(exist_ok=True)
        cell.path(small.folder).write_text(json.dumps(cells_of(0.5)[cell.contestant]), "utf-8")
    told: list[str] = []
    found = run(small, 1, told.append)
    assert told[0] == f"{len(cells)} cells, {len(wanted)} of them done before" and len(told) == 3
    trained = next(each for cell, each in found.items() if (cell.contestant, cell.seed) == ("team_shapley", 0))
    assert trained["env_steps"] == 2 * 16 * 8 and len(trained["looks"]) == 2 and len(trained["faults"]) == 3
    assert len(run(small, 1, told.append)) == len(cells)
    assert told[-1] == f"{len(cells)} cells, {len(cells)} of them done before"


def cells_of(shift: float) -> dict[str, dict[str, Any]]:
    """Made-up figures: a team of 12, a best rule of 10, chance 2, oracle 22."""
    fixed = {"random": 2.0, "cf": 8.0, "equal_weights": 9.0, "best_static": 9.5, "rule borda": 10.0, "bandit": 9.0}
    fixed |= {"horizon_oracle": 22.0, "greedy_oracle": 20.0}
    fixed = {name: value + shift for name, value in fixed.items()}
    fault = {"agent": "cf", "adversarial": 9.0, "silent": 10.0, "frozen": 11.0, "silent_halfway": 10.5}
    fault |= {f"{kind}_weights": [0.4, 0.1, 0.2] for kind in ("adversarial", "silent", "frozen")}
    cells: dict[str, dict[str, Any]] = {FIXED: {"trained_in": fixed, "judged_in": fixed}}
    for name in TRAINED:
        rate = 2.0 if name == "team_shapley" else 1.0
        looks = [[step, min(10.0, 2.0 + rate * step / 10)] for step in range(10, 101, 10)]
        score = {"team": 12.0 + shift}
        cells[name] = {"trained_in": score, "judged_in": score, "looks": looks, "env_steps": 100, "faults": [fault]}
    return cells


@pytest.fixture
def made_up() -> dict[Cell, dict[str, Any]]:
    return {Cell("builtin", name, seed, "k"): each for seed in range(3) for name, each in cells_of(0.1 * seed).items()}


def test_rows_gains_speed_and_faults_are_worked_out_from_the_cells(made_up: dict[Cell, dict[str, Any]]) -> None:
    table = rows(made_up, "builtin")
    assert [row["policy"] for row in table[:2]] == ["horizon_oracle", "greedy_oracle"] and table[-1][
        "policy"
    ] == "random"
    team = next(row for row in table if row["policy"] == "team_shapley")
    assert (team["normalised"], team["credit"], team["seeds"]) == (0.5, "shapley", 3)
    gain = gains(made_up, "builtin")["team_shapley over best static fusion"]
    assert gain["opponent"] == "rule borda" and gain["normalised"]["mean"] == pytest.approx(10 / 8 - 1)
    assert gains(made_up, "builtin")["team over best single agent"]["opponent"] == "cf"
    fast = speed(made_up, "builtin")
    assert fast["team_shapley to the end of team"] == {"score": 10.0, "share": 0.4}
    assert fast["team_difference to the end of team_plain"]["share"] == 0.8
    fault = next(row for row in faults(made_up, "builtin") if row["team"] == "team")
    assert (fault["least_weight"], fault["kept"], fault["equal_share"]) == (0.1, 0.9, 1.0)


def test_it_is_told_and_drawn(made_up: dict[Cell, dict[str, Any]]) -> None:
    told = summary(made_up)
    assert {"policy", "credit", "normalised", "low", "high", "seeds"} <= set(told["worlds"]["builtin"][0])
    lines = text(json.loads(json.dumps(told)))
    assert "team_shapley over best static fusion (rule borda): normalised +25.0%" in lines
    assert "in 40 % of its sessions" in lines
    assert list(pictures(told)) == ["builtin"]


def test_a_world_without_a_dataset_is_told_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="write EXPERIMENT=DATASET"):
        contest_of(["movielens"], [], False, tmp_path)
    with pytest.raises(InputError, match="nowhere"):
        contest_of(["movielens=nowhere"], [], False, tmp_path)
