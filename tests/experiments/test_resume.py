"""A run that was killed goes on in another process, to the same numbers; what would make it another run is refused."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from concertrl.cluster.ray_session import ray_session
from concertrl.cluster.trainer import Trainer
from concertrl.envs import Stage
from concertrl.experiments.run_folder import FACTS, RunFolder
from concertrl.platform.checkpoint import TENSORS, checkpoints, read_checkpoint
from concertrl.platform.destination import local_uri
from concertrl.platform.errors import InputError
from concertrl.platform.experiment import override
from concertrl.platform.settings import Experiment

CHANCE = ("system/", "throughput/", "seconds")
"""Beginnings of the metrics that time has a part in."""


def histories(client: Any, run_id: str) -> dict[str, list[tuple[int, float]]]:
    names = client.get_run(run_id).data.metrics
    return {name: [(point.step, point.value) for point in client.get_metric_history(run_id, name)] for name in names}


def heard(process: subprocess.Popen[str], pattern: str) -> str:
    """The next line of the process that the pattern is found in."""
    assert process.stderr
    lines = []
    for line in process.stderr:
        lines.append(line)
        if re.search(pattern, line):
            return line
    raise AssertionError("".join(lines))


def driver_of(process: subprocess.Popen[str]) -> psutil.Process:
    return next(child for child in psutil.Process(process.pid).children() if "train" in child.cmdline())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_killed_twice_ends_as_one_that_never_was(
    trained: Any, cli: Callable[..., Any], tiny: list[str], tmp_path: Path
) -> None:
    words = ["train", "builtin", *tiny, "train.checkpoint.every=1", "tracking.folder=kept"]
    process = subprocess.Popen(
        [sys.executable, "-m", "concertrl", *words], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    run_id = heard(process, "MLflow run ").split()[-1]
    heard(process, "  training")
    driver, seen = driver_of(process), psutil.Process(process.pid).children(recursive=True)
    assert any("raylet" in each.name() for each in seen)
    heard(process, r"iteration 2/3")  # whose checkpoint may still be missing; that of the first is there
    driver.kill()  # the guard beside it starts another
    assert "another goes on with run" in heard(process, "the driver died")
    heard(process, r"going on from iteration \d")
    seen += psutil.Process(process.pid).children(recursive=True)
    process.kill()  # the guard; the driver dies with it
    process.wait()
    process.stderr.close()  # pyright: ignore[reportOptionalMemberAccess]
    until = time.monotonic() + 20
    while (left := [each for each in seen if each.is_running()]) and time.monotonic() < until:
        time.sleep(0.2)
    assert not left

    latest = checkpoints(tmp_path / "kept" / "checkpoints" / run_id)[0]
    (latest / TENSORS).write_bytes((latest / TENSORS).read_bytes()[:-1])
    answer = cli("train", "--resume", "latest", "tracking.folder=kept", "--json", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert f"stepped over a checkpoint: {latest / TENSORS}: damaged" in answer.stderr
    told = json.loads(answer.stdout.splitlines()[-1])
    assert told["run_id"] == run_id and told["table"] == trained.answer["table"]
    from mlflow import MlflowClient

    client = MlflowClient(local_uri(tmp_path / "kept"))
    run, found = client.get_run(run_id), histories(client, run_id)
    assert run.info.status == "FINISHED" and int(run.data.tags["concertrl.resumed"]) >= 2
    wanted = histories(trained.client, trained.run_id)
    for name in {name for name in (*found, *wanted) if not name.startswith("system/")}:
        assert [step for step, _ in found[name]] == [step for step, _ in wanted[name]], name
        assert name.startswith(CHANCE) or found[name] == wanted[name], name
    assert all(len({step for step, _ in points}) == len(points) for points in found.values())
    again = cli("train", "--resume", run_id, "tracking.folder=kept", cwd=tmp_path)
    assert again.returncode == 2 and "is finished; give train.iterations=N beyond 3" in again.stderr


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    experiment = Experiment.model_validate(
        {"tracking": {"folder": str(tmp_path), "uri": "http://ann:secret@127.0.0.1:9"}, "train": {"iterations": 7}}
    )
    RunFolder.begun(experiment, "abc123", "concertrl train", "hash").close()
    return tmp_path


def refused(folder: Path, run: str, *overrides: str) -> str:
    with pytest.raises(InputError) as told:
        RunFolder.found(run, [f"tracking.folder={folder}", *overrides])
    return str(told.value)


def test_a_run_is_found_by_its_id_or_as_the_latest(begun: Path) -> None:
    words = [f"tracking.folder={begun}", "tracking.uri=sqlite:///x.db", "train.iterations=9"]
    for name in ("abc123", "latest"):
        folder, experiment = RunFolder.found(name, words)
        folder.close()
        assert folder.facts["command"] == "concertrl train" and experiment.train.iterations == 9
    assert "secret" not in (begun / "checkpoints" / "abc123" / FACTS).read_text()


@pytest.mark.parametrize("word", ["train.learning_rate=1", "seed=3", "env.sessions=4", "train.iterationsx=1", "seed"])
def test_what_would_make_it_another_run_is_refused(begun: Path, word: str) -> None:
    told = refused(begun, "abc123", word, "tracking.uri=sqlite:///x.db")
    assert word.partition("=")[0] in told or "unknown key" in told


def test_what_cannot_go_on_is_told_in_one_line(begun: Path, tmp_path: Path) -> None:
    assert "no run nobody to go on with" in refused(begun, "nobody")
    assert "not the id of a run" in refused(begun, "../../etc")
    assert "had a password and was not kept; give tracking.uri=URI" in refused(begun, "abc123")
    uri = "tracking.uri=sqlite:///x.db"
    folder, _ = RunFolder.found("abc123", [f"tracking.folder={begun}", uri])
    assert "still written by another process" in refused(begun, "abc123", uri)
    folder.note(print, finished=True, iterations=7)
    folder.close()
    assert "is finished" in refused(begun, "abc123", uri)
    RunFolder.found("abc123", [f"tracking.folder={begun}", uri, "train.iterations=8"])[0].close()
    (begun / "checkpoints" / "abc123" / FACTS).write_text("{}")
    assert "damaged, not what a run writes" in refused(begun, "abc123", uri)


@pytest.mark.slow
def test_a_disk_that_takes_no_checkpoint_stops_nothing(small_stage: Stage, tmp_path: Path) -> None:
    experiment = override(small_stage.experiment, [f"tracking.folder={tmp_path}", "env.sessions=8"])
    stage, lines = replace(small_stage, experiment=experiment), []
    folder = RunFolder.begun(experiment, "abc123", "", "hash")
    with closing(folder), ray_session(experiment.cluster), Trainer(stage) as trainer:
        assert folder.save(trainer, {}, None, lines.append)
        trainer.iterate()
        assert not folder.due(trainer)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # as a full disk, in this process alone
        try:
            assert folder.save(trainer, {}, None, lines.append) is None
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert len(lines) == 1 and lines[0].startswith("iteration 1: no checkpoint (File too large); the run goes on")
        assert sorted(path.name for path in folder.home.iterdir()) == ["iteration_000000", "lock", "run.json"]
        assert folder.due(trainer)
        saved = folder.save(trainer, {}, 1.5, lines.append)
        assert saved is not None and read_checkpoint(saved).about == {"iteration": 1, "score": 1.5}
        assert not folder.due(trainer)
