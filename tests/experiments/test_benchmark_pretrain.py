from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from concertrl.experiments.benchmark_pretrain import Found, Row, measure, report
from concertrl.platform.errors import InputError
from concertrl.platform.ingest import ingest
from concertrl.platform.settings import AgentsSettings, PretrainSettings
from concertrl.platform.statistics import Interval

QUICK = PretrainSettings(factors=4, epochs=2, steps=3, batch=32)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 users with 8 ratings and reviews each, of 20 items."""
    draw, folder = np.random.default_rng(0), tmp_path_factory.mktemp("data")
    items = np.concatenate([draw.permutation(20)[:8] for _ in range(40)])
    stars = draw.choice([1, 2, 4, 5], 320)
    rows = {
        "user_id": np.repeat(np.arange(40), 8),
        "item_id": items,
        "timestamp": np.arange(320) + 1_600_000_000,
        "rating": stars,
        "review": np.where(stars > 3, "superb sound", "broke at once"),
    }
    pd.DataFrame(rows).to_csv(folder / "rows.csv", index=False)
    ingest("csv", folder / "rows.csv", folder / "dataset")
    return folder / "dataset"


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> AgentsSettings:
    cache = tmp_path_factory.mktemp("cache")
    return AgentsSettings.model_validate({"pretrain": QUICK.model_dump(), "encoder": {"cache": str(cache)}})


@pytest.fixture(scope="module")
def found(dataset: Path, agents: AgentsSettings) -> Found:
    return measure(dataset, agents, 2)


def test_every_task_has_a_row_with_paired_gains(found: Found) -> None:
    assert [row.task for row in found.rows] == list(QUICK.tasks)
    for row in found.rows:
        sign = -1 if row.figure == "RMSE" else 1
        assert row.gain.mean == pytest.approx(sign * (row.joint.mean - row.single.mean))
    assert any(row.joint != row.single for row in found.rows)
    assert sum(found.sizes.values()) == 320
    answer = json.loads(json.dumps(found.as_dict()))
    assert [row["task"] for row in answer["table"]] == list(QUICK.tasks)
    assert set(answer["table"][0]) == {"task", "figure", "joint", "single", "gain", "validation_gain", "verdict"}
    assert set(answer["table"][0]["gain"]) == {"mean", "low", "high"}
    assert answer["settings"]["epochs"] == 2
    text = report(found)
    assert all(f"{row.task:10}{row.figure}" in text for row in found.rows)


def test_the_same_benchmark_twice_gives_equal_numbers(found: Found, dataset: Path, agents: AgentsSettings) -> None:
    said: list[str] = []
    again = measure(dataset, agents, 2, said.append)
    assert again.rows == found.rows
    assert [line.partition(",")[0] for line in said] == ["seed 1 of 2", "seed 2 of 2"]


@pytest.mark.parametrize(("low", "high", "verdict"), [(0.1, 0.2, "better"), (-0.1, 0.2, "no worse"), (-2, -1, "worse")])
def test_the_verdict_is_read_from_the_interval_of_the_gain(low: float, high: float, verdict: str) -> None:
    some = Interval(0.5, 0.4, 0.6)
    assert Row("click", "AUC", some, some, Interval((low + high) / 2, low, high), 0.0).verdict == verdict


def test_one_task_alone_is_no_comparison(dataset: Path, agents: AgentsSettings) -> None:
    alone = agents.model_copy(update={"pretrain": QUICK.model_copy(update={"tasks": ("rating",)})})
    with pytest.raises(InputError, match="has rows for rating of the tasks; joint learning needs two"):
        measure(dataset, alone, 2)


def test_the_command_prints_the_table_as_json(cli: Callable, dataset: Path, tmp_path: Path) -> None:
    quick = [f"agents.pretrain.{key}={getattr(QUICK, key)}" for key in ("factors", "epochs", "steps", "batch")]
    words = ["--seeds", "2", "--json", *quick, 'agents.pretrain.tasks=["click","rating"]']
    ran = cli("benchmark", "pretrain", "--dataset", dataset, *words, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert [row["task"] for row in json.loads(ran.stdout.splitlines()[-1])["table"]] == ["click", "rating"]
    assert "seed 2 of 2" in ran.stderr


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_joint_is_no_worse_than_single_on_any_task_of_real_reviews(data_folder: Path, tmp_path: Path) -> None:
    ingest("amazon", data_folder / "amazon-musical-instruments-5core", tmp_path / "dataset")
    rows = measure(tmp_path / "dataset").rows
    assert len(rows) == 5
    assert all(row.verdict != "worse" for row in rows)
    assert sum(row.verdict == "better" for row in rows) >= 2
