"""A run says all it knows to a real MLflow database, and none of it twice or in secret."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from concertrl.platform import machine
from concertrl.platform.destination import Destination, local_uri, redact
from concertrl.platform.errors import ConcertError, InputError
from concertrl.platform.machine import Sampler
from concertrl.platform.outbox import Outbox
from concertrl.platform.plots import learning_curve
from concertrl.platform.settings import Experiment, TrackingSettings
from concertrl.platform.tracking import MAX_KEY, MAX_PARAM, Run, cut, flatten, start_run, tracking_uri
from hypothesis import given
from hypothesis import strategies as st

MODEL = """
import mlflow.models
import mlflow.pyfunc
import pandas as pd


class Served(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        with open(context.artifacts["team"] + "/greeting.txt") as file:
            self.greeting = file.read()

    def predict(self, context, model_input: pd.DataFrame, params=None):
        return [f"{self.greeting} {user}" for user in model_input["user_id"]]


mlflow.models.set_model(Served())
"""


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("empty")
    assert Destination(local_uri(folder), folder).client
    return folder / "mlflow.db"


@pytest.fixture
def tracking(tmp_path: Path, empty: Path) -> TrackingSettings:
    shutil.copy2(empty, tmp_path / "mlflow.db")
    return TrackingSettings(folder=str(tmp_path), system_metrics=False)


def start(settings: TrackingSettings, run_id: str | None = None, **tags: str) -> Run:
    return start_run(settings, name="a run", tags=tags, run_id=run_id)


def client(settings: TrackingSettings) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri(settings))


def test_everything_logged_is_in_mlflow(tracking: TrackingSettings, tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "weights.bin").write_bytes(b"123")
    with start(tracking, note="from http://me:secret@host/path") as run:
        run.log_params(Experiment().model_dump())
        run.log_metrics({"team/return": 1.5, "broken": float("nan"), "worse": float("inf")}, step=10)
        run.log_metrics({f"m{place}": 1.0 for place in range(2500)}, step=20)
        run.log_text("<p>hi</p>", "report/index.html")
        run.log_figure(learning_curve([1, 2], [1, 2], {"random": 1.0}), "plots/curve.png")
        run.log_folder(tmp_path / "checkpoint", "checkpoints/10")
        run.log_dataset("builtin", "d" * 64, "https://me:secret@host/data", {"num_rows": 3})
        run.tag(origin="https://me:secret@host")
        assert (run.dropped, run.undelivered, run.undelivered_count) == (2, None, 0)

    kept = client(tracking).get_run(run.run_id)
    assert kept.info.status == "FINISHED" and kept.info.run_name == "a run"
    assert client(tracking).get_experiment("1").tags["mlflow.experimentKind"] == "custom_model_development"
    assert kept.data.params["train.learning_rate"] == "0.001"
    assert json.loads(kept.data.params["agents.names"]) == ["cf", "content", "sentiment"]
    assert kept.data.metrics["team/return"] == 1.5 and len(kept.data.metrics) == 2501
    assert kept.data.tags["note"] == "from http://***@host/path"
    dataset = kept.inputs.dataset_inputs[0].dataset
    assert (dataset.name, dataset.digest, json.loads(dataset.profile)) == ("builtin", "d" * 16, {"num_rows": 3})
    files = tmp_path / "artifacts" / run.run_id / "artifacts"
    found = {str(path.relative_to(files)) for path in files.rglob("*") if path.is_file()}
    assert found == {"report/index.html", "plots/curve.png", "checkpoints/10/weights.bin"}
    assert "secret" not in str(kept.data) + str(kept.inputs.to_dictionary())


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "FINISHED"), (ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED")],
)
def test_the_status_says_how_it_ended(
    tracking: TrackingSettings, error: type[BaseException] | None, status: str
) -> None:
    run = start(tracking)
    try:
        with run:
            if error:
                raise error()
    except BaseException as raised:
        assert type(raised) is error
    assert client(tracking).get_run(run.run_id).info.status == status


def test_a_resumed_run_keeps_one_point_a_step_and_says_what_changed(tracking: TrackingSettings) -> None:
    with pytest.raises(KeyboardInterrupt), start(tracking) as run:
        run.log_params({"train": {"iterations": 3, "gamma": 0.9}})
        for step in range(3):
            run.log_metrics({"loss": float(step)}, step)
        raise KeyboardInterrupt
    with start(tracking, run_id=run.run_id) as again:
        assert client(tracking).get_run(run.run_id).info.status == "RUNNING"
        again.log_params({"train": {"iterations": 5, "gamma": 0.9}})
        for step in range(1, 5):
            again.log_metrics({"loss": float(step)}, step)
    kept = client(tracking).get_run(run.run_id)
    history = client(tracking).get_metric_history(run.run_id, "loss")
    assert sorted(point.step for point in history) == [0, 1, 2, 3, 4]
    assert again.run_id == run.run_id and kept.info.status == "FINISHED"
    assert kept.data.params["train.iterations"] == "3" and kept.data.tags["resumed.train.iterations"] == "5"
    assert "resumed.train.gamma" not in kept.data.tags


def test_a_team_is_registered_under_its_alias_and_answers(tracking: TrackingSettings, tmp_path: Path) -> None:
    import mlflow
    import pandas as pd
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    (tmp_path / "team").mkdir()
    (tmp_path / "team" / "greeting.txt").write_text("hello")
    (tmp_path / "served.py").write_text(MODEL)
    example = pd.DataFrame({"user_id": ["u1"]})
    columns: list[Any] = [ColSpec("string", "user_id")]  # type: ignore[arg-type]
    about: dict[str, Any] = {
        "signature": ModelSignature(inputs=Schema(columns)),
        "input_example": example,
        "registered_name": "concertrl-test",
        "alias": "current",
        "pip_requirements": ["concertrl"],
    }
    with start(tracking) as run:
        first = run.log_team(tmp_path / "team", code_path=tmp_path / "served.py", **about)
        second = run.log_team(tmp_path / "team", code_path=tmp_path / "served.py", **about)
        (tmp_path / "broken.py").write_text(MODEL.replace("user_id", "another"))
        with pytest.raises(ConcertError, match="cannot be saved"):
            run.log_team(tmp_path / "team", code_path=tmp_path / "broken.py", **about)
    assert (first, second, run.model_uri) == ("models:/concertrl-test/1", "models:/concertrl-test/2", second)
    assert client(tracking).get_model_version_by_alias("concertrl-test", "current").run_id == run.run_id
    assert len(client(tracking).get_run(run.run_id).outputs.model_outputs) == 2
    try:
        mlflow.set_tracking_uri(tracking_uri(tracking))
        served = mlflow.pyfunc.load_model("models:/concertrl-test@current")
    finally:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
    assert list(served.predict(example)) == ["hello u1"]
    assert served.metadata.run_id == run.run_id and served.metadata.get_input_schema() is not None


def test_a_team_saved_while_the_server_is_down_is_registered_once_later(
    tracking: TrackingSettings, tmp_path: Path
) -> None:
    saved = tmp_path / "team"
    saved.mkdir()
    (saved / "MLmodel").write_text("flavors: {}\nutc_time_created: '2026-01-01'\n")
    box = Outbox(Destination(tracking_uri(tracking), tmp_path), tmp_path / "spool", "local-x")
    box.down("for the test")
    box.write("start", {"experiment": "e", "name": "n", "tags": {"concertrl.key": "local-x"}, "time": 1})
    data = {"key": "k", "name": "concertrl-x", "alias": "current", "folder": "team", "step": 0}
    kept = box.write("model", data, saved)
    assert kept and (kept / "MLmodel").exists() and box.spool
    record = list(box.spool.pending.values())[1]
    box.drain()
    assert box.results["model"] == "models:/concertrl-x/1" and not kept.exists()
    box.destination.send(box.run_id, "model", record.data, saved, again=True)  # sent, and the answer was lost
    assert len(box.destination.client.search_model_versions("name = 'concertrl-x'")) == 1
    assert len(box.destination.client.get_run(box.run_id).outputs.model_outputs) == 1
    box.spool.close()


def test_the_machine_is_sampled_under_the_names_mlflow_shows(
    tracking: TrackingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "SHORTEST_S", 0.0)
    with start(tracking.model_copy(update={"system_metrics": True})) as run:
        time.sleep(0.2)
    metrics = client(tracking).get_run(run.run_id).data.metrics
    assert 0 <= metrics["system/cpu_utilization_percentage"] <= 100
    assert metrics["system/system_memory_usage_megabytes"] > 0
    assert not [thread for thread in threading.enumerate() if thread.name == "machine"]


def test_samples_keep_coming_until_stopped() -> None:
    seen: list[dict[str, float]] = []
    sampler = Sampler(lambda values: seen.append(dict(values)), interval=0.05)
    deadline = time.monotonic() + 20
    while len(seen) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    sampler.stop()
    count = len(seen)
    time.sleep(0.2)
    assert count >= 3 and len(seen) == count


def outdate(empty: Path, folder: Path) -> str:
    """A tracking folder whose database says that an older MLflow made it."""
    folder.mkdir()
    shutil.copy2(empty, folder / "mlflow.db")
    with sqlite3.connect(folder / "mlflow.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '0a8213491aaa'")
    database.close()
    return str(folder)


def test_mistakes_end_in_one_line_and_leave_nothing(tracking: TrackingSettings, tmp_path: Path, empty: Path) -> None:
    def refused(match: str, run_id: str | None = None, **changes: str) -> None:
        with pytest.raises(InputError, match=match) as caught:
            start(tracking.model_copy(update=changes), run_id=run_id)
        assert "\n" not in str(caught.value)

    (tmp_path / "file").write_text("in the way")
    refused("cannot be written", folder=str(tmp_path / "file" / "runs"))
    refused("reserves this alias", alias="latest")
    refused("ftp://", uri="ftp://nowhere/x")
    refused("no-such-run", run_id="no-such-run")
    gone = client(tracking).create_experiment("gone")
    client(tracking).delete_experiment(gone)
    refused('"gone" was deleted', experiment="gone")
    refused("mlflow db upgrade", folder=outdate(empty, tmp_path / "older"))
    assert not list((tmp_path / "spool").iterdir())


def test_logging_from_many_threads_loses_nothing(tracking: TrackingSettings) -> None:
    with start(tracking) as run:
        threads = [
            threading.Thread(target=run.log_metrics, args=({f"m{place}": float(place)}, place)) for place in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert run.undelivered_count == 0
    assert client(tracking).get_run(run.run_id).data.metrics == {f"m{place}": float(place) for place in range(8)}


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://me:pass@host:5000/path", "http://***@host:5000/path"),
        ("postgresql+psycopg://me:p%40ss@db/mlflow", "postgresql+psycopg://***@db/mlflow"),
        ("https://token@host", "https://***@host"),
        ("sqlite:////data/a@b/mlflow.db", "sqlite:////data/a@b/mlflow.db"),
        ("https://host/a@b", "https://host/a@b"),
        ("http://me:p@ss@host/x", "http://***@host/x"),
        ("two: http://a:b@c and http://d:e@f.", "two: http://***@c and http://***@f."),
    ],
)
def test_credentials_are_blotted_out(uri: str, shown: str) -> None:
    assert redact(uri) == shown


undotted = st.characters(exclude_characters=".")
nested = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.dictionaries(st.text(undotted, min_size=1, max_size=8), inner, max_size=4),
)


@given(st.dictionaries(st.text(undotted, min_size=1, max_size=300), nested, max_size=5))
def test_flat_parameters_fit_mlflow(values: dict[str, Any]) -> None:
    flat = flatten(values)
    assert all(len(key) <= MAX_KEY and len(value) <= MAX_PARAM for key, value in flat.items())
    for key, value in values.items():
        if isinstance(value, str) and len(key) <= MAX_KEY:
            assert flat[key] == value


def test_what_is_cut_says_so() -> None:
    assert flatten({"a": {"b": "x" * 7000}})["a.b"] == "x" * 5999 + "…"
    assert cut("abcdef", 4) == "abc…" and cut("abcd", 4) == "abcd"
