"""The command line as it is used: help, JSON for machines, plain lines elsewhere, a server that comes back later."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from concertrl.__main__ import main
from concertrl.platform.experiment import settings_keys

Cli = Callable[..., subprocess.CompletedProcess[str]]

VERBS = ["train", "ingest", "deliver", "ui", "benchmark throughput", "benchmark pretrain", "evaluate", "experiments"]
VERBS += ["plan", "submit", "status", "logs", "stop", "list"]
PASSWORD = "s3cret-pass"

LOAD = """
import sys, time
started = time.monotonic()
from concertrl.__main__ import main
try:
    main(sys.argv[1:])
except SystemExit as ended:
    assert not ended.code, ended.code
heavy = {"ray", "mlflow", "torch", "pandas", "pyarrow", "transformers", "sklearn", "matplotlib"} & set(sys.modules)
print(*heavy, time.monotonic() - started < 2.0)
"""


@pytest.mark.parametrize("verb", ["", "benchmark", *VERBS])
def test_help_is_there_at_once_with_an_example(verb: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", LOAD, *verb.split(), "--help"], text=True, capture_output=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    *help_text, loaded = ran.stdout.splitlines()
    assert loaded == "True"  # nothing heavy, and quick
    if verb != "benchmark":
        assert [line for line in help_text if re.match(rf"  concertrl {verb}", line)]


def test_help_of_train_lists_every_key(cli: Cli, tmp_path: Path) -> None:
    told = cli("train", "--help", cwd=tmp_path).stdout
    listed = {line.partition("=")[0].strip() for line in told.splitlines() if "=" in line}
    assert {key for key, default, _ in settings_keys() if default is not None} <= listed
    assert "cluster.num_env_runners=0  0: sample in the driver" in told


def test_experiments_lists_the_packaged_ones(cli: Cli, tmp_path: Path) -> None:
    assert cli("experiments", cwd=tmp_path).stdout.split() == ["builtin", "instruments", "movielens", "ranking"]


def test_train_ends_its_output_with_one_json_object(trained: Any) -> None:
    assert len(trained.ran.stdout.splitlines()) == 1
    assert list(trained.answer) == ["run_id", "model_uri", "seconds", "env_steps", "table"]
    assert all(list(row) == ["policy", "return", "low", "high", "normalised"] for row in trained.answer["table"])
    assert trained.answer["env_steps"] == 3 * 32 * 8 and trained.answer["seconds"] > 0


def test_progress_is_plain_lines_on_standard_error(trained: Any) -> None:
    lines = trained.ran.stderr.splitlines()
    assert lines and all(re.fullmatch(r" *\d+\.\d s  \S.*", line) for line in lines), trained.ran.stderr
    assert [line for line in lines if "iteration 3/3: return " in line]


def test_nothing_is_left_where_train_was_started(trained: Any) -> None:
    assert [path.name for path in trained.folder.parent.iterdir()] == ["kept"]
    assert {path.name for path in trained.folder.iterdir()} == {
        *("mlflow.db", "mlflow.lock", "artifacts", "checkpoints", "spool")
    }
    assert not list((trained.folder / "spool").iterdir())


def test_ingest_ends_its_output_with_one_json_object(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("user,item_id,rating,timestamp\na,x,5,1000\nb,y,4,2000\nc,x,five,3000\n")
    words = ["csv", "t.csv", "--out", "d", "--map", "user_id=user"]
    ran = cli("ingest", *words, "--json", cwd=tmp_path)
    assert ran.returncode == 0 and 't.csv:4: rating "five" is not a number' in ran.stderr
    assert json.loads(ran.stdout.splitlines()[-1]) == {
        "interactions": 2,
        "users": 2,
        "items": 2,
        "edges": 0,
        "rejected": 1,
        "first": "1970-01-01T00:16:40Z",
        "last": "1970-01-01T00:33:20Z",
        "path": "d",
    }
    told = cli("ingest", *words[:2], "--out", "e", *words[4:], cwd=tmp_path).stdout
    assert "2 interactions of 2 users, 2 items" in told and "1970-01-01 to 1970-01-01; 1 rows rejected" in told


# --- a tracking server that is down


class Lost:
    """A run whose server was down, with a password in its address."""

    def __init__(self, home: Path, ran: subprocess.CompletedProcess[str], port: int) -> None:
        self.home, self.ran, self.port = home, ran, port
        self.folder = home / "kept"


@pytest.fixture(scope="module")
def lost(cli: Cli, tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Lost:
    home = tmp_path_factory.mktemp("lost")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri = f"tracking.uri=http://someone:{PASSWORD}@127.0.0.1:{port}"
    ran = cli("train", "builtin", *tiny, uri, "tracking.folder=kept", cwd=home)
    return Lost(home, ran, port)


@contextmanager
def mlflow_server(home: Path, port: int) -> Iterator[str]:
    stores = ["--backend-store-uri", "sqlite:///server.db", "--artifacts-destination", f"{home}/store"]
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--workers",
            "1",
            *stores,
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=home,
        start_new_session=True,
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
    )
    uri = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"{uri}/health", timeout=2).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, "the MLflow server did not start"
                time.sleep(0.2)
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # the server and its worker
        process.wait(30)


def test_training_goes_on_without_its_server_and_says_where_the_records_are(lost: Lost) -> None:
    assert lost.ran.returncode == 0, lost.ran.stderr
    assert "→ team" in lost.ran.stdout
    [spool] = (lost.folder / "spool").iterdir()
    told = re.search(r"MLflow did not answer: (\d+) records wait in (\S+); `(.+)` sends them", lost.ran.stdout)
    assert told and int(told[1]) > 10 and Path(told[2]) == spool
    assert told[3] == f"concertrl deliver --folder kept --uri 'http://***@127.0.0.1:{lost.port}'"
    loaded = re.search(r"concertrl\.load_team\('(.+?)'\)", lost.ran.stdout)
    assert loaded and list(Path(loaded[1]).rglob("team.json"))


def test_a_password_is_neither_told_nor_kept(lost: Lost) -> None:
    assert PASSWORD not in lost.ran.stdout + lost.ran.stderr
    kept = [path for path in lost.home.rglob("*") if path.is_file()]
    assert len(kept) > 20
    assert not [path for path in kept if PASSWORD.encode() in path.read_bytes()]


def test_deliver_fails_in_one_line_while_the_server_is_down(cli: Cli, lost: Lost) -> None:
    uri = f"http://someone:{PASSWORD}@127.0.0.1:{lost.port}"
    ran = cli("deliver", "--folder", "kept", "--uri", uri, cwd=lost.home)
    assert ran.returncode == 1 and PASSWORD not in ran.stdout + ran.stderr
    [line] = ran.stderr.splitlines()
    assert re.fullmatch(
        rf"concertrl: \d+ records wait in \S+: http://\*\*\*@127.0.0.1:{lost.port} does not answer", line
    )


def test_deliver_brings_everything_once_the_server_is_back(cli: Cli, lost: Lost, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    address = f"http://someone:{PASSWORD}@127.0.0.1:{lost.port}"
    with mlflow_server(tmp_path, lost.port) as uri:
        first = cli("deliver", "--folder", "kept", "--uri", address, cwd=lost.home)
        again = cli("deliver", "--folder", "kept", "--uri", address, cwd=lost.home)
        client: Any = MlflowClient(uri)
        [run] = client.search_runs([client.get_experiment_by_name("concertrl").experiment_id])
        steps = {
            name: [point.step for point in client.get_metric_history(run.info.run_id, name)]
            for name in ("team/return", "agent/cf/kl", "throughput/env_steps_per_s", "judged/return")
        }
        version = client.get_model_version_by_alias("concertrl-builtin", "current")
        names = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert (first.returncode, again.returncode) == (0, 0), first.stderr + again.stderr
    assert re.match(r"\d\d+ records delivered, 0 left", first.stdout) and again.stdout.startswith("0 records delivered")
    assert run.info.status == "FINISHED" and run.data.params["train.iterations"] == "3"
    assert all(found == [256, 512, 768] for found in steps.values()), steps
    assert version.run_id == run.info.run_id
    assert names >= {"config.yaml", "report.html", "session.txt", "plots", "checkpoints", "table.json"}
    assert not list((lost.folder / "spool").iterdir())


@pytest.mark.parametrize("name", ["$(touch hacked)", "a;touch hacked", "a b", "../up", "`id`", "a\nb", ""])
def test_a_name_with_shell_characters_is_refused(tmp_path: Path, name: str) -> None:
    ran = CliRunner().invoke(main, ["train", f"name={json.dumps(name)}", f"tracking.folder={tmp_path}/kept"])
    assert ran.exit_code == 2 and ran.stderr.startswith("concertrl: builtin: name=") and ran.stdout == ""
    assert len(ran.stderr.splitlines()) == 1 and not list(tmp_path.iterdir())
