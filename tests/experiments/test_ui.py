"""Runs in MLflow on PostgreSQL, looked at as a person does: in a browser.

`CONCERTRL_PICTURES=docs/pictures python -m pytest -m slow tests/experiments/test_ui.py` trains the packaged experiment
in place of a tiny one, and keeps what the browser saw for the documentation.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from servers import Chromium, MlflowServer, Postgres, postgres_programs, until

pytestmark = [
    pytest.mark.slow,  # minutes
    pytest.mark.timeout(1200),
    pytest.mark.skipif(postgres_programs() is None, reason="PostgreSQL is not installed (Debian: postgresql)"),
    pytest.mark.skipif(
        not (shutil.which("chromium") and shutil.which("chromedriver")),
        reason="Chromium is not installed (Debian: chromium chromium-driver)",
    ),
]

KEPT = os.environ.get("CONCERTRL_PICTURES")
TRAINING = "?workflowType=machine_learning"
"""The half of MLflow's UI where runs like ours are; it opens on the other."""


SPACE = {"train.learning_rate": {"loguniform": [0.0003, 0.01]}, "train.epochs": {"choice": [1, 2]}}
SWEEP = {"space": SPACE, "trials": 3, "iterations": 2, "every": 1, "sessions": 32}
SHOWN = ("sweep.iterations=10", "sweep.every=2", "sweep.sessions=512", "env.sessions=128")
SECRET = "tr4cking-s3cret"
"""The server asks for no password, but the run is given one, as where a proxy before it does."""


@dataclass(frozen=True)
class Site:
    """An MLflow server, its folder and that of the runs; what `concertrl train` and `concertrl sweep` answered."""

    uri: str
    home: Path
    trained: dict[str, Any]
    swept: dict[str, Any]

    @property
    def children(self) -> list[str]:
        """The ids of the sweep's trials."""
        from mlflow import MlflowClient

        under = f"tags.`mlflow.parentRunId` = '{self.swept['run_id']}'"
        return [run.info.run_id for run in MlflowClient(self.uri).search_runs(["1"], under)]


@pytest.fixture(scope="module")
def site(postgres: Postgres, cli: Callable[..., Any], tiny: list[str], tmp_path_factory: Any) -> Iterator[Site]:
    home = tmp_path_factory.mktemp("site")
    server = MlflowServer(home, postgres.uri)
    (home / "small.yaml").write_text(json.dumps(SWEEP))
    words = ["builtin", f"tracking.uri={server.uri.replace('//', f'//ann:{SECRET}@')}", "--json"]

    def answer(*more: str) -> dict[str, Any]:
        ran = cli(*more[:1], *words, *more[1:], cwd=home, timeout=900)
        assert ran.returncode == 0, ran.stderr
        assert SECRET not in ran.stdout + ran.stderr
        return json.loads(ran.stdout.splitlines()[-1])

    try:
        server.start()
        swept = answer("sweep", "--by", "small.yaml", *(SHOWN if KEPT else tiny))
        trained = answer("train", *(["train.iterations=20"] if KEPT else tiny))
        yield Site(server.uri, home, trained, swept)
    finally:
        server.kill()


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    browser = Chromium()
    try:
        yield browser
    finally:
        browser.close()


@pytest.fixture
def seen(browser: Chromium, site: Site, tmp_path: Path) -> Callable[[str], None]:
    """Keeps a picture of the page, and sees that it is one."""

    def keep(name: str) -> None:
        folder = Path(KEPT) if KEPT else tmp_path
        image = browser.picture(folder / f"mlflow_{name}.png")
        assert image.startswith(b"\x89PNG") and len(image) > 20_000

    browser.open(f"{site.uri}/#/experiments{TRAINING}")
    browser.sees("Experiments")
    # A panel that MLflow opens over the first visit.
    browser.run("localStorage['mlflow.assistant.fab.autoOpenedOnFirstLoad_v1'] = 'true'")
    browser.run("localStorage['mlflow.assistant.panelOpen_v1'] = 'false'")
    browser.open("about:blank")
    return keep


def test_a_sweeps_children_open_under_their_parent(browser: Chromium, site: Site, seen: Callable[[str], None]) -> None:
    browser.open(f"{site.uri}/#/experiments/1/runs{TRAINING}")
    parent, children = site.swept["run_id"], site.children
    page = browser.sees("builtin-small", "concertrl-builtin")
    assert "builtin-small 00" not in page and len(children) == 3  # a parent is closed until it is opened
    browser.click(f'[row-id="{parent}"] button')
    browser.sees("builtin-small 00", "builtin-small 01", "builtin-small 02")
    rows = browser.run(
        "return [...document.querySelectorAll('.ag-pinned-left-cols-container [row-id]')]"
        ".map(one => [Number(one.getAttribute('row-index')), one.getAttribute('row-id')])"
    )
    order = [run for _, run in sorted(rows)]
    start = order.index(parent)
    assert set(order[start + 1 : start + 4]) == set(children)
    seen("runs")


def test_the_sweeps_pictures_open_in_the_browser(browser: Chromium, site: Site, seen: Callable[[str], None]) -> None:
    browser.open(f"{site.uri}/#/experiments/1/runs/{site.swept['run_id']}/artifacts/plots/trials.png{TRAINING}")
    browser.sees("trials.png", "parallel.png", "Path: mlflow-artifacts:")
    wide = "return Math.max(0, ...[...document.images].map(one => one.complete && one.naturalWidth))"
    until(lambda: browser.run(wide) > 600, "the picture is not shown", 60)
    seen("sweep")


def test_a_run_says_at_first_sight_how_the_team_did(browser: Chromium, site: Site, seen: Callable[[str], None]) -> None:
    browser.open(f"{site.uri}/#/experiments/1/runs/{site.trained['run_id']}{TRAINING}")
    team = next(row for row in site.trained["table"] if row["policy"] == "team")
    browser.sees("Description", "The trained team", f"{team['return']:.2f}", "best static fusion", "concertrl-builtin")
    seen("run")


def test_the_curves_are_drawn_point_by_point(browser: Chromium, site: Site, seen: Callable[[str], None]) -> None:
    from mlflow import MlflowClient

    browser.open(f"{site.uri}/#/experiments/1/runs/{site.trained['run_id']}/model-metrics{TRAINING}")
    browser.sees("agent/cf")
    browser.type('input[placeholder="Search metric charts"]', "^team/(normalised|return)")
    browser.sees("team/return")
    points = MlflowClient(site.uri).get_metric_history(site.trained["run_id"], "team/return")
    drawn = "return [...document.querySelectorAll('.js-plotly-plot')].flatMap(one => one.data.map(line => line.y))"
    wanted = [point.value for point in points]
    until(lambda: wanted in browser.run(drawn), f"no curve of {len(points)} points", 60)
    assert len(points) >= 3
    seen("curves")


def test_the_report_opens_in_the_browser(browser: Chromium, site: Site, seen: Callable[[str], None]) -> None:
    browser.open(f"{site.uri}/#/experiments/1/runs/{site.trained['run_id']}/artifacts/report.html{TRAINING}")
    browser.sees("report.html", "Path: mlflow-artifacts:")
    browser.enter("iframe")
    browser.sees("ConcertRL: builtin", "The trained team", "horizon oracle")
    pictures = dict(browser.run("return [...document.images].map(one => [one.alt, one.complete && one.naturalWidth])"))
    assert "The team while it learns" in pictures and len(pictures) >= 5
    assert all(width > 300 for width in pictures.values())
    browser.enter(None)
    seen("report")


def test_the_team_is_in_the_registry_under_its_alias(
    browser: Chromium, site: Site, seen: Callable[[str], None]
) -> None:
    browser.open(f"{site.uri}/#/models/concertrl-builtin{TRAINING}")
    browser.sees("Version 1", "Version 2", "current")
    seen("registry")


def test_no_password_is_anywhere_that_a_reader_of_the_runs_can_see(site: Site, postgres: Postgres) -> None:
    dump = postgres.dump()
    assert site.trained["run_id"].encode() in dump and b"concertrl train builtin" in dump
    kept = [path for path in site.home.rglob("*") if path.is_file()]  # artifacts, spools, checkpoints, the ledger
    assert {"report.html", "run.json", "sweep.json"} <= {path.name for path in kept}
    for secret in (postgres.password.encode(), SECRET.encode()):
        assert secret not in dump
        assert not [path for path in kept if secret in path.read_bytes()]
