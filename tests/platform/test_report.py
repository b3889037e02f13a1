"""The report says what the numbers say, in one file that a browser can be trusted with."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from concertrl.platform.plots import forest
from concertrl.platform.report import ReportInput, build_report, headline, text_table


def row(policy: str, value: float, half: float = 0.5) -> dict[str, Any]:
    return {"policy": policy, "return": value, "low": value - half, "high": value + half, "normalised": value / 40}


ROWS = [row("random", 4.0), row("cf", 13.0), row("best_static", 20.0), row("team", 24.0), row("horizon_oracle", 40.0)]


@pytest.mark.parametrize(
    ("team", "sentence"),
    [
        (24.0, "beats the best static fusion of its agents by 4.00 (20.0%)"),
        (20.6, "not clearly different from the best static fusion of its agents: 0.60 (3.0%) above it"),
        (19.6, "not clearly different from the best static fusion of its agents: 0.40 (2.0%) below it"),
        (15.0, "is worse than the best static fusion of its agents by 5.00 (25.0%)"),
    ],
)
def test_the_headline_claims_no_more_than_the_intervals(team: float, sentence: str) -> None:
    said = headline([row("best_static", 20.0), row("team", team)])
    assert sentence in said
    assert ("intervals apart" in said) == (abs(team - 20) > 1)


def test_without_a_team_there_is_nothing_to_claim() -> None:
    assert headline([row("random", 1.0)]).startswith("There is no trained team")
    assert "%" not in headline([row("best_static", -1.0), row("team", 5.0)]).replace("95 %", "")


class Page(HTMLParser):
    """Checks that tags close in order, and collects what a browser would fetch or run."""

    VOID = ("meta", "img")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_is_whole_self_contained_and_escaped() -> None:
    evil = "<script>alert(1)</script>&"
    report = ReportInput(
        name=evil,
        rows=[*ROWS, row(evil, 1.0)],
        pictures={f'x" onerror="{evil}': forest(ROWS)},
        agents={evil: {"fitted on": evil}},
        world={"log_loss": 0.31234567, "users": 600, "fitted": True},
        dataset={"source": evil, "interactions": 100836},
        command=f"concertrl train {evil}",
        sessions=2560,
        seeds=5,
        look={"MLflow": evil},
        facts={"run_id": evil},
    )
    page = Page()
    html = build_report(report)
    page.feed(html)
    assert not page.open and "script" not in page.tags
    assert page.text.count(evil) == 9  # twice in the titles, once for each other place but the picture
    assert "log loss0.3123" in page.text and "100,836" in page.text and "fittedyes" in page.text
    assert "2,560 sessions over 5 seeds" in page.text
    (source,) = page.sources
    kind, data = source.split(",")
    assert kind == "data:image/png;base64" and base64.b64decode(data).startswith(b"\x89PNG")
    assert not re.search(r"https?://", html)


def test_a_report_of_a_bare_table_has_no_empty_sections() -> None:
    page = Page()
    page.feed(build_report(ReportInput(name="bare", rows=ROWS)))
    assert "h2" not in page.tags and "figure" not in page.tags and "sessions over" not in page.text


def test_the_terminal_table_lines_up_and_marks_the_team() -> None:
    lines = text_table(ROWS).splitlines()
    assert len(lines) == 1 + len(ROWS) and len({len(line) for line in lines}) == 1
    assert [line.split()[1] for line in lines if line.startswith("→")] == ["team"]
    assert lines[4].split()[2:] == ["24.00", "[23.50,", "24.50]", "0.600"]
