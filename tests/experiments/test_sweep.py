"""Sweeps from the command line to MLflow, in processes of their own; killed at any moment, they go on."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from concertrl.platform.destination import local_uri
from concertrl.platform.experiment import load_experiment
from concertrl.platform.sweep_file import reopen
from concertrl.platform.sweep_ledger import Look

SPACE = {
    "train.learning_rate": {"loguniform": [0.0003, 0.01]},
    "train.epochs": {"choice": [1, 2]},
    "fusion.conductor": {"choice": [True, False]},
    "reward.credit": {"choice": ["team", "difference"]},
}
BOTH = [{"metric": "return"}, {"metric": "diversity"}]
SMALL = {"space": SPACE, "scheduler": "asha", "reduction": 2, "iterations": 4, "every": 1, "sessions": 32}
SMALL = {**SMALL, "trials": 4, "objectives": BOTH}

Cli = Callable[..., Any]

pytestmark = pytest.mark.timeout(900)


def written(folder: Path, **changes: Any) -> Path:
    file = folder / "small.yaml"
    file.write_text(yaml.safe_dump({**SMALL, **changes}))
    return file


def client_of(folder: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(local_uri(folder))


def runs_of(folder: Path) -> list[Any]:
    client = client_of(folder)
    return client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])


def children(folder: Path, parent: str) -> dict[int, Any]:
    """The runs under a parent, by the trial's number; no trial has two."""
    under = [run for run in runs_of(folder) if run.data.tags.get("mlflow.parentRunId") == parent]
    numbered = {int(run.data.tags["concertrl.trial"]): run for run in under}
    assert len(numbered) == len(under)
    return numbered


def curve(folder: Path, run_id: str, name: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client_of(folder).get_metric_history(run_id, name)]


@pytest.fixture(scope="module")
def swept(cli: Cli, tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    home = tmp_path_factory.mktemp("swept")
    ran = cli("sweep", "builtin", "--by", written(home), *tiny, "tracking.folder=kept", "--json", cwd=home, timeout=800)
    assert ran.returncode == 0, ran.stderr
    return home, ran, json.loads(ran.stdout.splitlines()[-1])


def test_each_trial_is_a_run_under_the_sweeps(swept: Any) -> None:
    home, ran, answer = swept
    parent = client_of(home / "kept").get_run(answer["run_id"])
    assert parent.info.status == "FINISHED" and parent.data.tags["concertrl.sweep"] == "builtin-small" == answer["name"]
    assert parent.data.params["sweep.space.train.learning_rate.loguniform"] == "[0.0003, 0.01]"
    under = children(home / "kept", answer["run_id"])
    assert sorted(under) == [0, 1, 2, 3] and {run.info.status for run in under.values()} == {"FINISHED"}
    ledger = reopen("builtin-small", home / "kept")
    for trial in answer["trials"]:
        run, looks = under[trial["number"]], ledger.looks(trial["number"])
        assert run.data.params["train.learning_rate"] == str(trial["values"]["train.learning_rate"])
        expected = [(look.env_steps, pytest.approx(look.scores["return"])) for look in looks]
        assert curve(home / "kept", run.info.run_id, "validated/return") == expected
        assert run.data.metrics["team/return"] > 0
        assert f"trial {trial['number']} {trial['status']}" in ran.stderr
    statuses = [trial["status"] for trial in answer["trials"]]
    assert statuses[0] in ("finished", "stopped") and "finished" in statuses and len(runs_of(home / "kept")) == 5


def test_the_parent_has_the_table_the_pictures_and_the_best_experiment(swept: Any) -> None:
    home, _, answer = swept
    client = client_of(home / "kept")
    listed = {entry.path for entry in client.list_artifacts(answer["run_id"], "plots")}
    assert listed == {"plots/trials.png", "plots/parallel.png", "plots/pareto_return_diversity.png"}
    local = client.download_artifacts(answer["run_id"], "", str(home))
    rows = list(csv.DictReader(io.StringIO((Path(local) / "trials.csv").read_text())))
    assert [int(row["trial"]) for row in rows] == [0, 1, 2, 3]
    best = max(rows, key=lambda row: float(row["return"]))
    assert int(best["trial"]) == answer["best"]["number"]
    assert float(best["return"]) == pytest.approx(answer["best"]["scores"]["return"])
    experiment = load_experiment(Path(local) / "best.yaml")
    assert experiment.train.learning_rate == answer["best"]["values"]["train.learning_rate"]
    assert experiment.train.iterations == 4


def test_the_best_team_is_judged_and_registered(swept: Any) -> None:
    from concertrl.agents.team_files import load_team

    home, _, answer = swept
    rows = {row["policy"]: row for row in answer["table"]}
    assert rows["random"]["return"] < rows["team"]["return"] < rows["horizon_oracle"]["return"]
    client = client_of(home / "kept")
    version = client.get_model_version_by_alias("concertrl-builtin", "current")
    assert answer["model_uri"] == f"models:/concertrl-builtin/{version.version}"
    assert (
        version.run_id
        == answer["best"]["run_id"]
        == children(home / "kept", answer["run_id"])[answer["best"]["number"]].info.run_id
    )
    assert "report.html" in {entry.path for entry in client.list_artifacts(version.run_id)}
    team = load_team(answer["model_uri"], local_uri(home / "kept"))
    assert len(team.recommend(["u00001"])[0]) == 5
    assert ("conductor" in team.policies) == answer["best"]["values"]["fusion.conductor"]


def test_a_name_is_taken_once(swept: Any, cli: Cli, tiny: list[str]) -> None:
    home, _, _ = swept
    ran = cli("sweep", "builtin", "--by", home / "small.yaml", *tiny, "tracking.folder=kept", cwd=home)
    assert ran.returncode == 2 and ran.stdout == "" and ran.stderr.count("\n") == 1
    assert "`concertrl sweep --resume builtin-small` goes on with it" in ran.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nothing"], 'no experiment "nothing"'),
        (["builtin", "--by", "ahsa"], 'did you mean "asha"?'),
        (["builtin", "sweep.trails=3"], 'did you mean "trials"?'),
        (["builtin", "sweep.space.train.gama={uniform: [0, 1]}"], 'did you mean "train.gamma"?'),
        (["--resume", "nothing"], 'no sweep "nothing"'),
        (["--resume", "nothing", "seed=3"], "may be given again"),
        (["--resume", "../../etc"], "no sweep"),
    ],
)
def test_a_mistake_is_told_in_one_line(cli: Cli, tmp_path: Path, words: list[str], told: str) -> None:
    ran = cli("sweep", *words, cwd=tmp_path)
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (2, "", 1), ran.stderr
    assert told in ran.stderr and not list(tmp_path.iterdir())


class Killed:
    """`concertrl sweep ...` that is killed, driver only, once so many looks are written down."""

    def __init__(self, home: Path, *words: str | Path) -> None:
        command = [sys.executable, "-m", "concertrl", "sweep", *map(str, words), "--json"]
        self.process = subprocess.Popen(
            command, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
        )

    def after(self, ready: Callable[[], bool], within: float = 600.0) -> None:
        deadline = time.monotonic() + within
        while not ready():
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.communicate()


def state(folder: Path) -> dict[str, int]:
    """What is written down of looks and endings, with when."""
    paths = [*folder.glob("trials/*/looks/*.json"), *folder.glob("trials/*/ended.json")]
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in paths}


def told(look: Look) -> Any:
    """A look without its times."""
    metrics = {name: value for name, value in look.metrics.items() if not name.startswith("throughput/")}
    return look.values, look.source, look.env_steps, look.sessions, look.scores, metrics


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("scheduler", ["fifo", "pbt", "asha"])
def test_a_sweep_killed_twice_loses_nothing_and_runs_nothing_again(
    cli: Cli, tiny: list[str], tmp_path: Path, scheduler: str
) -> None:
    """Its looks are those of a sweep that was never killed, number by number; every point is in MLflow once."""
    space = {key: SPACE[key] for key in ("train.learning_rate", "train.epochs")}
    by = written(tmp_path, space=space, trials=8, scheduler=scheduler, perturb=1, objectives=BOTH[:1])
    words = ("builtin", "--by", by, *tiny)
    kept, folder = tmp_path / "kept", tmp_path / "kept" / "sweeps" / "builtin-small"
    Killed(tmp_path, *words, "tracking.folder=kept").after(lambda: len(state(folder)) >= 7)
    first = state(folder)
    ids = {number: run.info.run_id for run in runs_of(kept) if (number := run.data.tags.get("concertrl.trial"))}
    again = ("--resume", "builtin-small", "tracking.folder=kept")
    Killed(tmp_path, *again).after(lambda: len(state(folder)) >= 18)
    second = state(folder)
    ran = cli("sweep", *again, "--json", cwd=tmp_path, timeout=900)
    assert ran.returncode == 0, ran.stderr
    answer, last = json.loads(ran.stdout.splitlines()[-1]), state(folder)
    # Nothing that was written down was made again, but what a kill came upon.
    for before in (first, second):
        assert {path: last[path] for path in before} == before
    assert sorted(trial["number"] for trial in answer["trials"]) == list(range(8))
    under = children(kept, answer["run_id"])
    assert sorted(under) == list(range(8)) and len(runs_of(kept)) == 9
    assert {number: under[int(number)].info.run_id for number in ids} == ids
    assert {run.info.status for run in under.values()} == {"FINISHED"}
    ledger = reopen("builtin-small", kept)
    for number, run in under.items():
        steps = [step for step, _ in curve(kept, run.info.run_id, "validated/return")]
        assert steps == [look.env_steps for look in ledger.looks(number)] and steps == sorted(set(steps))
    if scheduler == "asha":
        return  # what is stopped depends on who came by first
    whole = cli("sweep", *words, "tracking.folder=whole", "--json", cwd=tmp_path, timeout=900)
    assert whole.returncode == 0, whole.stderr
    unkilled = reopen("builtin-small", tmp_path / "whole")
    for number in range(8):
        assert list(map(told, ledger.looks(number))) == list(map(told, unkilled.looks(number)))
    assert json.loads(whole.stdout.splitlines()[-1])["table"] == answer["table"]
    if scheduler == "pbt":
        taken = [
            look for number in range(8) for look in ledger.looks(number) if look.source and look.source[0] != number
        ]
        assert len(taken) == 6  # a quarter of eight, at each of three exchanges


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_fifty_short_trials_do_not_fill_the_drivers_memory(tiny: list[str], tmp_path: Path) -> None:
    by = written(
        tmp_path, trials=50, iterations=1, every=1, scheduler="fifo", space={"train.epochs": {"choice": [1, 2]}}
    )
    command = [sys.executable, "-m", "concertrl", "sweep", "builtin", "--by", str(by), *tiny, "tracking.folder=kept"]
    folder, seen = tmp_path / "kept" / "sweeps" / "builtin-small", {}
    with (tmp_path / "told").open("w") as told_to:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=told_to, stderr=told_to, stdin=subprocess.DEVNULL)
        while process.poll() is None and len(seen) < 50:
            done = len(list(folder.glob("trials/*/ended.json")))
            if done and done not in seen:
                seen[done] = psutil.Process(process.pid).memory_info().rss / 2**20
            time.sleep(0.1)
        assert process.wait(900) == 0, (tmp_path / "told").read_text()
    early = max(size for done, size in seen.items() if done <= 10)
    late = max(size for done, size in seen.items() if done >= 40)
    assert late < early + 32, f"{early:.0f} MiB after ten trials, {late:.0f} MiB after forty: {seen}"
