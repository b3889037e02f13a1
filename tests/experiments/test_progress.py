"""What a person reads while a run goes on, and at its end."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from concertrl.experiments.progress import Narrator
from concertrl.experiments.train import Result
from concertrl.platform.settings import Experiment
from rich.console import Console

ROWS: list[dict[str, Any]] = [
    {"policy": "random", "return": 2.0, "low": 1.0, "high": 3.0, "normalised": 0.0},
    {"policy": "best_static", "return": 6.0, "low": 5.5, "high": 6.5, "normalised": 0.5},
    {"policy": "team", "return": 8.0, "low": 7.5, "high": 8.5, "normalised": 0.75},
    {"policy": "horizon_oracle", "return": 10.0, "low": 9.0, "high": 11.0, "normalised": 1.0},
]
RESULT = Result("abc", "models:/concertrl-builtin/3", 12.3, 4096, ROWS)
DELIVERED: Any = SimpleNamespace(undelivered=None, undelivered_count=0)


def narrated(terminal: bool) -> tuple[Narrator, io.StringIO]:
    told = io.StringIO()
    return Narrator(Console(file=told, force_terminal=terminal, width=80, soft_wrap=True)), told


def test_elsewhere_than_on_a_terminal_there_are_plain_lines() -> None:
    narrator, told = narrated(terminal=False)
    assert list(narrator.track(range(3), 3, "training")) == [0, 1, 2]
    narrator.say("iteration 1/3: [bold]not markup[/bold], return 7.00")
    lines = told.getvalue().splitlines()
    assert len(lines) == 2 and lines[0].endswith(" s  training")
    assert lines[1].endswith("[bold]not markup[/bold], return 7.00")
    assert "\x1b" not in told.getvalue() and "\r" not in told.getvalue()


def test_on_a_terminal_there_is_a_bar_that_goes_away() -> None:
    narrator, told = narrated(terminal=True)
    assert list(narrator.track(range(3), 3, "training")) == [0, 1, 2]
    assert "training" in told.getvalue() and "3/3" in told.getvalue() and "\x1b[2K" in told.getvalue()


def test_a_silent_narrator_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    narrator = Narrator.silent()
    narrator.say("nothing")
    assert list(narrator.track("ab", 2, "letters")) == ["a", "b"]
    narrator.ended(RESULT, DELIVERED, Experiment())
    assert capsys.readouterr() == ("", "")


def test_the_ending_is_on_standard_output_and_says_where_to_look(capsys: pytest.CaptureFixture[str]) -> None:
    Narrator.on_terminal().ended(RESULT, DELIVERED, Experiment())
    told = capsys.readouterr()
    assert told.err == ""
    assert "→ team " in told.out and "95 % intervals apart" in told.out and "4,096 env steps in 12 s" in told.out
    assert "look at it    concertrl ui\n" in told.out
    assert "concertrl.load_team('models:/concertrl-builtin/3').recommend(['u00007'])" in told.out
    assert "MLflow did not answer" not in told.out


def test_the_ending_says_where_undelivered_records_are(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    waiting: Any = SimpleNamespace(undelivered=tmp_path / "spool" / "x", undelivered_count=7)
    tracking = {"folder": str(tmp_path), "uri": "http://me:s3cret@127.0.0.1:9"}
    Narrator.on_terminal().ended(RESULT, waiting, Experiment.model_validate({"tracking": tracking}))
    told = capsys.readouterr().out
    assert f"7 records wait in {tmp_path / 'spool' / 'x'}" in told
    assert f"`concertrl deliver --folder {tmp_path} --uri 'http://***@127.0.0.1:9'` sends them" in told
    assert "s3cret" not in told


def test_a_json_answer_stands_alone(capsys: pytest.CaptureFixture[str]) -> None:
    Narrator.on_terminal(results=False).ended(RESULT, DELIVERED, Experiment())
    assert capsys.readouterr() == ("", "")
