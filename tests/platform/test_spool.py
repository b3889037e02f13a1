"""Records survive a server that is down, a process that is killed, and a line that is torn."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from concertrl.platform import destination, outbox
from concertrl.platform.destination import Destination, local_uri
from concertrl.platform.errors import InputError
from concertrl.platform.outbox import Outbox, deliver
from concertrl.platform.settings import TrackingSettings
from concertrl.platform.spool import Spool
from concertrl.platform.tracking import Run, start_run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from servers import MlflowServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path)
    yield server
    server.kill()


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database, made once: its sixty migrations take seconds."""
    folder = tmp_path_factory.mktemp("database")
    assert Destination(local_uri(folder), folder).client
    return folder / "mlflow.db"


@pytest.fixture
def folder(tmp_path: Path, database: Path) -> Path:
    """A tracking folder with a database."""
    shutil.copy2(database, tmp_path / "mlflow.db")
    return tmp_path


def at(folder: Path, uri: str | None = None) -> TrackingSettings:
    return TrackingSettings(folder=str(folder), uri=uri, system_metrics=False)


def start(folder: Path, uri: str | None = None, run_id: str | None = None) -> Run:
    return start_run(at(folder, uri), name="test", tags={}, run_id=run_id)


def curve(uri: str, run_id: str, key: str = "loss") -> list[tuple[int, float]]:
    from mlflow import MlflowClient

    history = MlflowClient(uri).get_metric_history(run_id, key)
    return sorted((point.step, point.value) for point in history)


def log(run: Run, steps: range) -> float:
    """Logs a loss at each step; the seconds it took."""
    began = time.monotonic()
    for step in steps:
        run.log_metrics({"loss": 1 / (1 + step)}, step)
    return time.monotonic() - began


def back(server: MlflowServer) -> None:
    server.start()
    time.sleep(0.2)  # the back-off of the test below


@pytest.mark.timeout(300)
def test_a_run_outlives_its_server(tmp_path: Path, server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is absent, comes, is killed, comes back, hangs with a request in its hands, and goes on."""
    monkeypatch.setattr(outbox, "BACK_OFF_S", 0.2)
    monkeypatch.setattr(destination, "PROBE_S", 1.0)
    with start(tmp_path / "runs", server.uri) as run:
        assert run.run_id.startswith("local-")
        log(run, range(3))
        assert run.undelivered_count == 4
        back(server)
        log(run, range(3, 5))
        assert not run.run_id.startswith("local-") and run.undelivered is None
        server.kill()
        assert log(run, range(5, 8)) < 3
        run.log_text("kept", "notes/kept.txt")
        assert run.undelivered and run.undelivered_count == 4
        back(server)
        log(run, range(8, 10))
        assert run.undelivered is None
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        server.signal(signal.SIGSTOP)
        assert log(run, range(10, 12)) < 8
        assert run.undelivered_count == 2
        server.signal(signal.SIGCONT)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    assert not list((tmp_path / "runs" / "spool").iterdir())
    assert_whole(server.uri, run.run_id)


def assert_whole(uri: str, run_id: str) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    assert curve(uri, run_id) == [(step, 1 / (1 + step)) for step in range(12)]
    assert client.get_run(run_id).info.status == "FINISHED"
    assert [entry.path for entry in client.list_artifacts(run_id, "notes")] == ["notes/kept.txt"]
    assert len(client.search_runs(["1"])) == 1


def test_what_an_offline_run_left_is_delivered_to_its_own_server_only(folder: Path) -> None:
    nowhere = "http://me:secret@127.0.0.1:9"
    with start(folder, nowhere) as run:
        run.log_metrics({"loss": 1.0}, 0)
    assert run.undelivered and run.undelivered_count == 3
    left = deliver(folder, nowhere)
    assert (left.delivered, left.left, left.where) == (0, 3, folder / "spool")
    assert "does not answer" in left.reason
    assert "meant for http://***@127.0.0.1:9" in deliver(folder).reason
    kept = "".join(path.read_text() for path in run.undelivered.rglob("*") if path.is_file())
    assert "secret" not in kept and "secret" not in left.reason


def offline(folder: Path, steps: int) -> Outbox:
    """An outbox to the local database with metrics that were kept and never sent."""
    box = Outbox(Destination(local_uri(folder), folder), folder / "spool", "local-test")
    box.down("for the test")
    tags = {"concertrl.key": "local-test"}
    box.write("start", {"experiment": "concertrl", "name": "n", "tags": tags, "time": 1_000})
    for step in range(steps):
        box.write("metrics", {"values": {"loss": float(step)}, "step": step, "time": 1_000 + step, "resumed": False})
    return box


def test_a_kill_between_sending_and_marking_sends_nothing_twice(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database folds equal points into one by itself, so what is sent is counted."""
    box = offline(folder, 3)
    assert box.spool
    marked, mark = [], Spool.mark

    def dies(self: Spool, record: object) -> None:
        if len(marked) == 2:
            raise KeyboardInterrupt
        marked.append(record)
        mark(self, record)  # type: ignore[arg-type]

    sent: list[int] = []
    log_batch = box.destination.client.log_batch
    monkeypatch.setattr(
        type(box.destination.client),
        "log_batch",
        lambda _, run, metrics: (sent.extend(metric.step for metric in metrics), log_batch(run, metrics=metrics)),
    )
    monkeypatch.setattr(Spool, "mark", dies)
    with pytest.raises(KeyboardInterrupt):
        box.drain()
    assert sent == [0, 1]
    monkeypatch.setattr(Spool, "mark", mark)
    box.spool.release()

    summary = deliver(folder)
    assert (summary.delivered, summary.left) == (2, 0)
    assert sent == [0, 1, 2]
    assert box.run_id and curve(local_uri(folder), box.run_id) == [(0, 0.0), (1, 1.0), (2, 2.0)]


def test_a_run_whose_creation_was_not_marked_is_created_once(folder: Path) -> None:
    box = offline(folder, 0)
    assert box.spool
    record = next(iter(box.spool.pending.values()))
    box.destination.send(None, record.kind, record.data, None, again=False)
    box.spool.release()
    deliver(folder)
    assert len(box.destination.client.search_runs(["1"])) == 1


def test_a_record_the_server_refuses_is_stepped_over_and_kept(folder: Path) -> None:
    with start(folder) as run:
        run.log_metrics({"not a metric's name ***": 1.0}, 0)
        run.log_metrics({"loss": 2.0}, 0)
        assert run.undelivered_count == 1
    assert curve(local_uri(folder), run.run_id) == [(0, 2.0)]
    assert run.undelivered and deliver(folder).left == 1


def test_a_spool_in_use_is_left_alone(folder: Path) -> None:
    box = offline(folder, 2)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(deliver, (folder,)).delivered == 0
    assert box.undelivered == 3
    with pytest.raises(InputError, match="still written by another process"):
        start(folder, run_id="local-test")
    assert box.spool
    box.spool.release()


def test_a_resumed_local_run_goes_on_as_the_same_run(folder: Path) -> None:
    box = offline(folder, 3)
    assert box.spool
    box.spool.release()
    with start(folder, run_id="local-test") as run:
        for step in range(2, 5):  # step 2 was logged before the crash
            run.log_metrics({"loss": float(step)}, step)
    assert curve(local_uri(folder), run.run_id) == [(step, float(step)) for step in range(5)]
    assert len(box.destination.client.search_runs(["1"])) == 1


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(), min_size=1, max_size=5), torn=st.integers(1, 40), done=st.integers(0, 5))
def test_a_torn_last_line_loses_that_record_and_no_other(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], torn: int, done: int
) -> None:
    folder = tmp_path_factory.mktemp("spool")
    spool = Spool.claim(folder)
    assert spool
    records = [spool.append("tags", {"text": text}, None, again=False) for text in texts]
    for record in records[:done]:
        spool.mark(record)
    spool.release()
    path = folder / "records.jsonl"
    content = path.read_bytes()
    last = len(content) - content[:-1].rfind(b"\n") - 1
    os.truncate(path, len(content) - min(torn, last))

    again = Spool.claim(folder)
    assert again
    again.release()
    assert [record.data["text"] for record in again.pending.values()] == texts[done:-1]
    assert all(record.again for record in again.pending.values())
    kept = again.append("tags", {"text": "next"}, None, again=False)
    final = Spool.claim(folder)
    assert final
    final.release()
    assert list(final.pending)[-1] == kept.id


def test_a_payload_is_a_copy_until_it_is_delivered(tmp_path: Path) -> None:
    source = tmp_path / "checkpoint"
    source.mkdir()
    (source / "weights").write_text("first")
    spool = Spool.claim(tmp_path / "spool" / "run")
    assert spool
    record = spool.append("artifact", {"folder": None}, source, again=False)
    (source / "weights").write_text("second")
    kept = spool.payload(record)
    assert kept and (kept / "weights").read_text() == "first"
    spool.mark(record)
    assert not kept.exists()
    spool.close()
    assert not (tmp_path / "spool" / "run").exists()
