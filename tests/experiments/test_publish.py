"""What a training run leaves in MLflow, and the team that is loaded from there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from concertrl.platform.checkpoint import read_checkpoint
from concertrl.platform.destination import local_uri
from concertrl.platform.experiment import load_experiment
from concertrl.platform.settings import TrackingSettings
from concertrl.platform.tracking import flatten

AGENTS = ("cf", "content", "sentiment", "conductor")
POLICIES = [
    *("random", "popular", "cf", "content", "sentiment", "equal_weights"),
    *("best_static", "team", "greedy_oracle", "horizon_oracle"),
]

SERVE = """
import json, sys
import concertrl, mlflow, pandas as pd

uri, run_id, histories, users = json.loads(sys.argv[1])
team = concertrl.load_team("models:/concertrl-builtin@current", uri)
by_run = concertrl.load_team(f"runs:/{run_id}/team", uri)
mlflow.set_tracking_uri(uri)
served = mlflow.pyfunc.load_model("models:/concertrl-builtin@current")
def slates(table, **options):
    return served.predict(table, **options)["slate"].tolist()
print(json.dumps({
    "ray": "ray" in sys.modules,
    "users": team.recommend(users),
    "by_run": by_run.recommend(users),
    "histories": team.recommend(histories),
    "three": team.recommend(histories, 3),
    "served_users": slates(pd.DataFrame({"user_id": users})),
    "served_histories": slates(pd.DataFrame({"history": histories})),
    "served_three": slates(pd.DataFrame({"history": histories}), params={"k": 3}),
}))
"""


@pytest.fixture(scope="module")
def run(trained: Any) -> Any:
    return trained.client.get_run(trained.run_id)


@pytest.fixture(scope="module")
def files(trained: Any) -> Path:
    return trained.folder / "artifacts" / trained.run_id / "artifacts"


def test_every_setting_is_a_parameter_and_the_config_reads_back(run: Any, files: Path, tiny: list[str]) -> None:
    experiment = load_experiment("builtin", [*tiny, "tracking.folder=kept"])
    settings = experiment.model_dump(mode="json")
    settings["tracking"].pop("uri")
    assert run.data.params == flatten(settings)
    assert load_experiment(files / "config.yaml") == experiment


def test_the_run_can_be_found_and_traced(run: Any) -> None:
    assert (run.info.status, run.info.run_name) == ("FINISHED", "builtin")
    tags = run.data.tags
    assert tags["concertrl.algorithm"] == "ppo" and tags["concertrl.seed"] == "0"
    assert tags["concertrl.command"].startswith("concertrl train builtin world.users=120")
    assert "trained team" in tags["mlflow.note.content"] and "horizon_oracle" in tags["mlflow.note.content"]
    [logged] = run.inputs.dataset_inputs
    assert logged.dataset.name == "builtin" and logged.dataset.digest == tags["concertrl.data"]
    assert json.loads(logged.dataset.profile) == {"users": 120, "items": 150}


def test_every_iteration_has_its_metrics(trained: Any) -> None:
    names = [f"team/{name}" for name in ("return", "length", "clicks", "normalised")]
    names += [f"agent/{agent}/{name}" for agent in AGENTS for name in ("reward", "entropy", "kl", "loss")]
    names += [f"agent/{agent}/fusion_weight" for agent in AGENTS[:3]]
    names += ["throughput/env_steps_per_s", "judged/return", "judged/normalised", "iteration"]
    for name in names:
        history = trained.client.get_metric_history(trained.run_id, name)
        assert [point.step for point in history] == [256, 512, 768], name
    assert [point.value for point in trained.client.get_metric_history(trained.run_id, "iteration")] == [1, 2, 3]


def test_the_table_is_in_the_metrics_and_the_files(trained: Any, run: Any, files: Path) -> None:
    table = trained.answer["table"]
    assert [row["policy"] for row in table] == POLICIES
    assert json.loads((files / "table.json").read_text()) == table
    for row in table:
        assert run.data.metrics[f"final/{row['policy']}/return"] == pytest.approx(row["return"])
        assert run.data.metrics[f"final/{row['policy']}/normalised"] == pytest.approx(row["normalised"])
    by_name = {row["policy"]: row["return"] for row in table}
    gain = by_name["team"] / by_name["best_static"] - 1
    assert run.data.metrics["final/gain_over_best_static"] == pytest.approx(gain, abs=1e-3)
    assert {f"final/lost_without_{agent}" for agent in AGENTS[:3]} <= set(run.data.metrics)


def test_the_machine_is_watched(run: Any) -> None:
    assert run.data.metrics["system/cpu_utilization_percentage"] > 0
    assert run.data.metrics["system/system_memory_usage_megabytes"] > 0


def test_pictures_report_session_and_checkpoints_are_there(trained: Any, files: Path) -> None:
    pictures = {path.stem: path.read_bytes() for path in (files / "plots").iterdir()}
    assert set(pictures) == {"learning_curve", "policies", "fusion_weights", "contributions", "conductor", "failing"}
    assert all(content.startswith(b"\x89PNG") and len(content) > 5_000 for content in pictures.values())
    report = (files / "report.html").read_text("utf-8")
    assert trained.run_id in report and report.count("<img") == 6 and "models:/concertrl-builtin/1" in report
    session = (files / "session.txt").read_text("utf-8")
    assert session.count("step ") >= 1 and "cf" in session and "sentiment" in session
    assert set(json.loads((files / "agents.json").read_text())) == set(AGENTS[:3])
    assert json.loads((files / "versions.json").read_text())["ray"].startswith("2.60")
    kept = {path.name: path for path in (files / "checkpoints").iterdir()}
    assert set(kept) == {"iteration_000002", "iteration_000003"}
    assert all(read_checkpoint(path).about["iteration"] == int(name[-6:]) for name, path in kept.items())


def test_the_team_is_registered_under_its_alias(trained: Any, run: Any) -> None:
    version = trained.client.get_model_version_by_alias("concertrl-builtin", "current")
    assert (str(version.version), version.run_id) == ("1", trained.run_id)
    assert trained.answer["model_uri"] == "models:/concertrl-builtin/1"
    assert len(run.outputs.model_outputs) == 1


def test_a_fresh_process_without_ray_asks_the_team(trained: Any, tmp_path: Path) -> None:
    """From another folder, by name and alias; and the same model through MLflow's own interface."""
    histories, users = [["i00001", "i00002"], []], ["u00003", "u00050", "stranger"]
    asked = json.dumps([local_uri(trained.folder), trained.run_id, histories, users])
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SERVE, asked], cwd=tmp_path, text=True, capture_output=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    answer = json.loads(ran.stdout.splitlines()[-1])
    assert not answer["ray"]
    assert [len(slate) for slate in answer["users"]] == [5, 5, 5] and len({*map(tuple, answer["users"])}) == 3
    assert not {"i00001", "i00002"} & set(answer["histories"][0])
    assert answer["histories"][1] == answer["users"][2]  # nothing is known of either
    assert [len(slate) for slate in answer["three"]] == [3, 3]
    assert answer["by_run"] == answer["users"]
    for asked_by in ("users", "histories", "three"):
        assert answer[f"served_{asked_by}"] == answer[asked_by]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "load", "look", "deliver"),
    [
        ({}, "concertrl.load_team('models:/x/1')", "concertrl ui", "concertrl deliver"),
        (
            {"folder": "my runs"},
            "concertrl.load_team('models:/x/1', 'sqlite:////",
            "concertrl ui --folder 'my runs'",
            "concertrl deliver --folder 'my runs'",
        ),
        (
            {"uri": "http://me:s3cret@host:5000"},
            "concertrl.load_team('models:/x/1', 'http://***@host:5000')",
            "http://***@host:5000",
            "concertrl deliver --uri 'http://***@host:5000'",
        ),
        (
            {"uri": "sqlite:////data/a.db"},
            "concertrl.load_team('models:/x/1', 'sqlite:////data/a.db')",
            "MLFLOW_TRACKING_URI=sqlite:////data/a.db concertrl ui",
            "concertrl deliver --uri sqlite:////data/a.db",
        ),
    ],
)
def test_a_run_says_how_to_go_on_from_where_it_was_kept(
    changes: dict[str, str], load: str, look: str, deliver: str
) -> None:
    from concertrl.experiments.publish import how_to_deliver, how_to_load, how_to_look

    settings = TrackingSettings(**changes)  # type: ignore[arg-type]
    assert how_to_load("models:/x/1", settings).startswith(load)
    assert how_to_load("/spool/team", settings) == "concertrl.load_team('/spool/team')"
    assert how_to_look(settings) == look and how_to_deliver(settings) == deliver
