"""A resumed run asks the server which points it has, and the server may die while it answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from concertrl.platform.settings import TrackingSettings
from concertrl.platform.tracking import start_run, tracking_uri


def test_a_history_that_was_half_told_is_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    tracking = TrackingSettings(folder=str(tmp_path), system_metrics=False)
    with pytest.raises(KeyboardInterrupt), start_run(tracking, name="n", tags={}) as run:
        for step in range(3):
            run.log_metrics({"loss": float(step)}, step)
        raise KeyboardInterrupt
    history, asked = MlflowClient.get_metric_history, list[str]()

    def dies_at_first(self: MlflowClient, run_id: str, key: str) -> Any:
        asked.append(key)
        if len(asked) == 1:
            raise ConnectionError("the server went away")
        return history(self, run_id, key)

    monkeypatch.setattr(MlflowClient, "get_metric_history", dies_at_first)
    with start_run(tracking, name="n", tags={}, run_id=run.run_id) as again:
        for step in range(1, 5):
            again.log_metrics({"loss": float(step)}, step)
    assert len(asked) == 2
    points = history(MlflowClient(tracking_uri(tracking)), run.run_id, "loss")
    assert sorted(point.step for point in points) == [0, 1, 2, 3, 4]
