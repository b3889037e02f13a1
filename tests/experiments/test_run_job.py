"""A run that goes on as a job, and under the guard: what is handed on, and what no list of processes shows."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from concertrl.experiments import guard

SECRET = "http://me:s3cret@127.0.0.1:9"


def test_a_job_of_a_run_that_goes_on_becomes_its_training(
    trained: Any, cli: Callable[..., Any], tmp_path: Path
) -> None:
    """Down to the refusal of a run that is finished; what a job does beyond it is `train --resume`'s."""
    where, uri = f"tracking.folder={trained.folder.resolve()}", f"tracking.uri={SECRET}"
    wrote = cli("submit", "--resume", trained.run_id, where, uri, "--write", "parcel", cwd=tmp_path)
    assert wrote.returncode == 0 and wrote.stdout.startswith("ray job submit "), wrote.stderr
    assert "s3cret" not in wrote.stdout
    ran = cli("job", cwd=tmp_path / "parcel", HOME=str(tmp_path))
    assert ran.returncode == 2, ran.stderr
    assert f"run {trained.run_id} is finished; give train.iterations=N beyond 3" in ran.stderr
    kept = tmp_path / "concertrl" / "jobs" / "by-hand" / "overrides"
    assert kept.read_text() == uri and kept.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["abc123", "seed=3"], "seed: a resumed run keeps its experiment"),
        (["abc123", "builtin"], "builtin: a resumed run has its experiment; leave it out"),
        (["../../etc"], "not the id of a run"),
    ],
)
def test_what_would_make_it_another_run_is_not_sent(
    cli: Callable[..., Any], tmp_path: Path, words: list[str], told: str
) -> None:
    ran = cli("submit", "--resume", *words, cwd=tmp_path)
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (2, "", 1)
    assert told in ran.stderr


def test_the_guard_hands_on_an_address_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    commands: list[list[str]] = []
    files: list[list[str]] = []

    def drive(words: list[str], path: Path) -> int:
        commands.append(words)
        monkeypatch.setenv(guard.NOTE, str(path))
        if len(commands) == 3:
            guard.note(ended=True)
            return 0
        if "--overrides" in words:
            files.append(Path(words[words.index("--overrides") + 1]).read_text().splitlines())
        again = ["tracking.folder=/r", f"tracking.uri={SECRET}"]
        guard.note(ended=False, more=["cluster.retries=4"], run="abc", home=str(tmp_path), retries=3, overrides=again)
        return -signal.SIGKILL

    monkeypatch.setattr(guard, "_drive", drive)
    words = ["train", "builtin", f"tracking.uri={SECRET}", "tracking.folder=r", "train.iterations=9", "seed=2"]
    assert guard._guard([*words, "--json"]) == 0
    assert commands[0] == [*words, "--json"] and os.path.basename(commands[1][4]) == "overrides"
    for later in commands[1:]:
        assert later[:3] == ["train", "--resume", "abc"] and "s3cret" not in json.dumps(later)
        assert sorted(later[5:]) == ["--json", "cluster.retries=4", "train.iterations=9"]
    assert files == [["tracking.folder=/r", f"tracking.uri={SECRET}"]]
