"""Champion and challenger in a real registry, and runs side by side."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from concertrl.__main__ import main
from concertrl.platform.destination import CHALLENGER, Destination, local_uri
from concertrl.platform.settings import TrackingSettings
from concertrl.platform.tracking import start_run

NAME = "concertrl-x"
Judged = Callable[..., str]


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database, made once: its sixty migrations take seconds."""
    folder = tmp_path_factory.mktemp("empty")
    assert Destination(local_uri(folder), folder).client
    return folder / "mlflow.db"


@pytest.fixture
def client(tmp_path: Path, empty: Path) -> Any:
    shutil.copy2(empty, tmp_path / "mlflow.db")
    return Destination(local_uri(tmp_path), tmp_path).client


@pytest.fixture
def judged(tmp_path: Path, client: Any) -> Judged:
    """Logs a judged run with a registered version, which is the challenger; its run's id."""

    def make(mean: float, reach: float = 1.0, static: float = 10.0, **tags: str) -> str:
        settings = TrackingSettings(folder=str(tmp_path), system_metrics=False)
        tags = {"concertrl.data": "d", "concertrl.judged": "j", **tags}
        with start_run(settings, name="x", tags=tags) as run:
            run.log_params({"train": {"gamma": mean, "epochs": 4}})
            for policy, value in (("team", mean), ("best_static", static)):
                values = {"return": value, "low": value - reach, "high": value + reach}
                run.log_metrics({f"final/{policy}/{key}": each for key, each in values.items()}, 0)
            run.log_metrics({"judged/return": mean}, 256)
        if not client.search_registered_models(f"name = '{NAME}'"):
            client.create_registered_model(NAME)
        version = client.create_model_version(NAME, str(tmp_path), run.run_id)
        client.set_registered_model_alias(NAME, CHALLENGER, version.version)
        return run.run_id

    return make


@pytest.fixture
def call(tmp_path: Path) -> Callable[..., Result]:
    def run(*words: str) -> Result:
        return CliRunner().invoke(main, [*words, "--folder", str(tmp_path)])

    return run


def aliases(client: Any) -> dict[str, str]:
    found = client.get_registered_model(NAME).aliases
    return {alias: str(version) for alias, version in found.items()}


def test_versions_rise_by_the_rule_and_say_why(client: Any, judged: Judged, call: Callable[..., Result]) -> None:
    judged(20.0)
    dry = json.loads(call("promote", NAME, "--dry-run", "--json").stdout)
    assert dry["promoted"] and "best static fusion of version 1 at 10.00" in dry["reason"]
    assert aliases(client) == {"challenger": "1"}
    assert call("promote", NAME).stdout.startswith("version 1: promoted: version 1 at 20.00 [19.00, 21.00]")
    assert aliases(client) == {"champion": "1"}

    judged(21.5)
    kept = json.loads(call("promote", NAME, "--json").stdout)
    assert not kept["promoted"] and "overlap" in kept["reason"] and kept["champion"] == "1"
    assert aliases(client) == {"champion": "1", "challenger": "2"}
    assert client.get_model_version(NAME, "2").tags["concertrl.promotion"] == f"not promoted: {kept['reason']}"

    found = json.loads(call("promote", NAME, "--rule", "margin", "--margin", "1.5", "--json").stdout)
    assert (found["promoted"], found["champion"], found["previous"]) == (True, "2", "1")
    assert aliases(client) == {"champion": "2", "previous": "1"}
    assert client.get_model_version(NAME, "1").tags["concertrl.promotion"].startswith("gave way to version 2: ")

    judged(99.0, **{"concertrl.judged": "another world"})
    assert "judged on other world" in call("promote", NAME).stdout
    assert aliases(client)["champion"] == "2"


def test_a_promotion_killed_before_its_end_is_finished_by_the_next(
    client: Any, judged: Judged, call: Callable[..., Result]
) -> None:
    judged(20.0)
    client.set_registered_model_alias(NAME, "champion", "1")
    found = json.loads(call("promote", NAME, "--json").stdout)
    assert found["promoted"] and found["reason"] == "version 1 is the champion already"
    assert aliases(client) == {"champion": "1"}


def test_a_first_team_that_does_not_beat_its_static_fusion_is_no_champion(
    client: Any, judged: Judged, call: Callable[..., Result]
) -> None:
    judged(20.0, static=19.5)
    assert "version 1: not promoted" in call("promote", NAME).stdout
    assert aliases(client) == {"challenger": "1"}


def test_what_cannot_be_promoted_or_compared_is_refused_in_one_line(
    client: Any, judged: Judged, call: Callable[..., Result]
) -> None:
    run = judged(20.0)
    call("promote", NAME)
    for words, said in [
        (["promote", NAME], "no version has the alias challenger; version 1 is its champion"),
        (["promote", "x' OR '1"], "no registered model"),
        (["compare", run], "name at least two runs"),
        (["compare", run, "feed"], 'no run "feed" there'),
        (["compare", run, "%"], 'no run "%"'),
        (["compare", run, "x' OR '1"], "letters and digits only"),
        (["compare", run, "f", "--picture", "x.exe"], "name a .png file"),
    ]:
        ran = call(*words)
        assert ran.exit_code == 2 and said in ran.stderr and ran.stderr.count("\n") == 1, (ran.stderr, ran.exception)


def test_a_place_without_runs_or_a_server_is_told(tmp_path: Path) -> None:
    ran = CliRunner().invoke(main, ["promote", NAME, "--folder", str(tmp_path / "nowhere")])
    assert ran.exit_code == 2 and "no runs here yet" in ran.stderr
    ran = CliRunner().invoke(main, ["compare", "a", "b", "--uri", "http://me:s3cret@127.0.0.1:9"])
    assert ran.exit_code == 1 and ran.stderr == "concertrl: http://***@127.0.0.1:9 does not answer\n"


def test_runs_side_by_side(judged: Judged, call: Callable[..., Result], tmp_path: Path) -> None:
    low, high = judged(20.0), judged(24.0)
    drawn = tmp_path / "compared.png"
    told = call("compare", low, high[:20], "--picture", str(drawn)).stdout
    assert drawn.read_bytes().startswith(b"\x89PNG")
    lines = {line.split("  ")[0].strip("→ "): line for line in told.splitlines() if line}
    assert lines["train.gamma"].split()[1:] == ["20.0", "24.0"] and "train.epochs" not in lines
    assert "20.00 [19.00, 21.00]" in lines["team"] and "24.00 [23.00, 25.00]" in lines["team"]
    assert f"x {high[:8]} is best at 24.00, 95 % intervals apart." in told
    found = json.loads(call("compare", low, high, "--json").stdout)
    assert found["comparable"] and [run["run_id"] for run in found["runs"]] == [low, high]
    assert found["runs"][1]["returns"]["team"] == [24.0, 23.0, 25.0] and found["runs"][1]["curve"] == [[256, 24.0]]
    other = judged(24.0, **{"concertrl.data": "other"})
    assert "do not compare" in call("compare", low, other).stdout


def test_a_trained_team_is_the_challenger_and_the_rule_reads_its_run(trained: Any, tmp_path: Path) -> None:
    """On a copy of a real run of the command line."""
    shutil.copytree(trained.folder, tmp_path / "kept", ignore=shutil.ignore_patterns("artifacts", "checkpoints"))
    ran = CliRunner().invoke(main, ["promote", "concertrl-builtin", "--folder", str(tmp_path / "kept"), "--json"])
    assert ran.exit_code == 0, ran.stderr
    found, table = json.loads(ran.stdout), {row["policy"]: row for row in trained.answer["table"]}
    assert found["promoted"] == (table["team"]["low"] > table["best_static"]["high"])
    assert f"version 1 at {table['team']['return']:.2f}" in found["reason"]
