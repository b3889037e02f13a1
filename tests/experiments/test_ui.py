"""Runs in MLflow on PostgreSQL, looked at as a person does: in a browser.

`CONCERTRL_PICTURES=docs/pictures python -m pytest tests/experiments/test_ui.py` trains the packaged experiment in place
of a tiny one, and keeps what the browser saw for the documentation.
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
from concertrl.platform.settings import TrackingSettings
from concertrl.platform.tracking import start_run
from servers import Chromium, MlflowServer, Postgres, postgres_programs

pytestmark = [
    pytest.mark.slow,  # minutes
    pytest.mark.timeout(600),
    pytest.mark.skipif(postgres_programs() is None, reason="PostgreSQL is not installed (Debian: postgresql)"),
    pytest.mark.skipif(
        not (shutil.which("chromium") and shutil.which("chromedriver")),
        reason="Chromium is not installed (Debian: chromium chromium-driver)",
    ),
]

KEPT = os.environ.get("CONCERTRL_PICTURES")
TRAINING = "?workflowType=machine_learning"
"""The half of MLflow's UI where runs like ours are; it opens on the other."""


@dataclass(frozen=True)
class Site:
    """An MLflow server with a trained run and a parent that has children."""

    uri: str
    run_id: str
    answer: dict[str, Any]
    parent: str
    children: list[str]


@pytest.fixture(scope="module")
def site(postgres: Postgres, cli: Callable[..., Any], tiny: list[str], tmp_path_factory: Any) -> Iterator[Site]:
    home = tmp_path_factory.mktemp("site")
    server = MlflowServer(home, postgres.uri)
    try:
        server.start()
        words = ["train.iterations=20"] if KEPT else tiny
        ran = cli("train", "builtin", *words, f"tracking.uri={server.uri}", "--json", cwd=home, timeout=500)
        assert ran.returncode == 0, ran.stderr
        answer = json.loads(ran.stdout.splitlines()[-1])
        parent, children = family(TrackingSettings(uri=server.uri, folder=str(home / "runs"), system_metrics=False))
        yield Site(server.uri, answer["run_id"], answer, parent, children)
    finally:
        server.kill()


def family(settings: TrackingSettings) -> tuple[str, list[str]]:
    """A run with three runs under it, as a sweep leaves them."""
    children = []
    with start_run(settings, name="family", tags={}) as parent:
        for number in range(3):
            tags = {"mlflow.parentRunId": parent.run_id}
            with start_run(settings, name=f"child-{number}", tags=tags) as child:
                child.log_metrics({"judged/return": float(number)}, 0)
            children.append(child.run_id)
    return parent.run_id, children


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
    page = browser.sees("family", "builtin", "concertrl-builtin")
    assert "child-" not in page  # a parent is closed until it is opened
    browser.click(f'[row-id="{site.parent}"] button')
    browser.sees("child-0", "child-1", "child-2")
    rows = browser.run(
        "return [...document.querySelectorAll('.ag-pinned-left-cols-container [row-id]')]"
        ".map(one => [Number(one.getAttribute('row-index')), one.getAttribute('row-id')])"
    )
    order = [run for _, run in sorted(rows)]
    start = order.index(site.parent)
    assert set(order[start + 1 : start + 4]) == set(site.children)
    seen("runs")


def test_a_run_says_at_first_sight_how_the_team_did(browser: Chromium, site: Site, seen: Callable[[str], None]) -> None:
    browser.open(f"{site.uri}/#/experiments/1/runs/{site.run_id}{TRAINING}")
    team = next(row for row in site.answer["table"] if row["policy"] == "team")
    browser.sees("Description", "The trained team", f"{team['return']:.2f}", "best static fusion", "concertrl-builtin")
    seen("run")


def test_the_curves_are_drawn_point_by_point(browser: Chromium, site: Site, seen: Callable[[str], None]) -> None:
    from mlflow import MlflowClient

    browser.open(f"{site.uri}/#/experiments/1/runs/{site.run_id}/model-metrics{TRAINING}")
    browser.sees("agent/cf")
    browser.type('input[placeholder="Search metric charts"]', "team/return|judged")
    browser.sees("team/return")
    lines = browser.run("return [...document.querySelectorAll('path.js-line')].map(one => one.getAttribute('d'))")
    points = MlflowClient(site.uri).get_metric_history(site.run_id, "team/return")
    assert len(points) >= 3 and len(points) in [line.count("L") + 1 for line in lines]
    seen("curves")


def test_the_report_opens_in_the_browser(browser: Chromium, site: Site, seen: Callable[[str], None]) -> None:
    browser.open(f"{site.uri}/#/experiments/1/runs/{site.run_id}/artifacts/report.html{TRAINING}")
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
    browser.sees("Version 1", "current")
    seen("registry")


def test_the_password_is_nowhere_that_a_reader_of_the_runs_can_see(site: Site, postgres: Postgres) -> None:
    dump = postgres.dump()
    assert site.run_id.encode() in dump and b"concertrl train builtin" in dump
    assert postgres.password.encode() not in dump
