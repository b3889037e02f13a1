"""A run goes on while its database or its tracking server is killed, and all of it arrives, once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from concertrl.platform import destination, outbox
from concertrl.platform.destination import KEY
from concertrl.platform.outbox import deliver
from concertrl.platform.settings import TrackingSettings
from concertrl.platform.tracking import Run, start_run
from servers import MlflowServer, Postgres, postgres_programs, until

pytestmark = pytest.mark.skipif(postgres_programs() is None, reason="PostgreSQL is not installed (Debian: postgresql)")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path_factory.mktemp("server"), postgres.uri)
    try:
        server.start()
        yield server
    finally:
        server.kill()


def start(folder: Path, uri: str) -> Run:
    return start_run(TrackingSettings(folder=str(folder), uri=uri, system_metrics=False), name="test", tags={})


def log(run: Run, *steps: int) -> None:
    for step in steps:
        run.log_metrics({"loss": 1 / (1 + step)}, step)


def delivered(folder: Path, uri: str) -> bool:
    return deliver(folder, uri).left == 0


def points(uri: str, run_id: str) -> list[tuple[int, float]]:
    from mlflow import MlflowClient

    return sorted((point.step, point.value) for point in MlflowClient(uri).get_metric_history(run_id, "loss"))


@pytest.mark.timeout(400)
def test_each_step_arrives_once_whatever_is_killed(
    tmp_path: Path, postgres: Postgres, server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "BACK_OFF_S", 0.0)  # what waits is tried at every record
    monkeypatch.setattr(destination, "PROBE_S", 20.0)  # the machine may be busy; this is not about time
    with start(tmp_path / "runs", server.uri) as run:
        log(run, 0, 1)
        assert run.undelivered_count == 0
        postgres.kill()
        log(run, 2, 3)
        assert run.undelivered_count == 2
        postgres.start()
        log(run, 4)
        assert run.undelivered_count == 0
        server.kill()
        postgres.kill()
        log(run, 5, 6)
        server.kill()
        postgres.start()
        server.start()
        log(run, 7)
        assert run.undelivered_count == 0
        postgres.kill()
        log(run, 8)
    assert run.undelivered_count == 2, "the last step and the end of the run wait on disk"
    postgres.start()
    until(lambda: delivered(tmp_path / "runs", server.uri), "not delivered")
    assert points(server.uri, run.run_id) == [(step, 1 / (1 + step)) for step in range(9)]
    assert dict(postgres_rows(postgres, run.run_id)) == {step: 1 for step in range(9)}


def postgres_rows(postgres: Postgres, run_id: str) -> list[tuple[int, int]]:
    """How many rows the database has of each step."""
    import psycopg

    query = "select step, count(*) from metrics where run_uuid = %s and key = 'loss' group by step"
    with psycopg.connect(postgres.uri.replace("+psycopg", "")) as connection:
        return connection.execute(query, (run_id,)).fetchall()


@pytest.mark.timeout(400)
def test_a_run_that_begins_while_the_database_is_gone_is_delivered_later(
    tmp_path: Path, postgres: Postgres, server: MlflowServer
) -> None:
    postgres.kill()
    with start(tmp_path / "runs", server.uri) as run:
        log(run, 0, 1)
    local = run.run_id
    assert local.startswith("local-") and run.undelivered
    postgres.start()
    until(lambda: delivered(tmp_path / "runs", server.uri), "not delivered")
    from mlflow import MlflowClient

    [kept] = MlflowClient(server.uri).search_runs(["1"], f"tags.`{KEY}` = '{local}'")
    assert kept.info.status == "FINISHED"
    assert points(server.uri, kept.info.run_id) == [(0, 1.0), (1, 0.5)]


@pytest.mark.timeout(400)
def test_a_database_without_a_server_may_die_too_and_its_password_is_kept_nowhere(
    tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(outbox, "BACK_OFF_S", 0.0)
    folder = tmp_path / "runs"
    with start(folder, postgres.uri) as run:
        log(run, 0)
        postgres.kill()
        log(run, 1, 2)
        assert run.undelivered_count == 2
        kept = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
        postgres.start()
        log(run, 3)
        run.tag(command=f"concertrl train tracking.uri={postgres.uri}")
    assert points(postgres.uri, run.run_id) == [(step, 1 / (1 + step)) for step in range(4)]
    told = caplog.text.encode() + kept + postgres.dump()
    assert run.run_id.encode() in told and b"does not answer" in told
    for secret in (postgres.password, postgres.uri.partition("//")[2].partition("@")[0]):
        assert secret.encode() not in told
