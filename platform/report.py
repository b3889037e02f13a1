"""The report of a run: one HTML file that needs nothing beside it, and the same table for a terminal."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEAM, STATIC = "team", "best_static"

MEANING = {
    "random": "shows random items",
    "popular": "shows what is most popular",
    "equal_weights": "fuses the agents with equal weights",
    "best_static": "fuses the agents with the best fixed weights found",
    "searched_gains": "the team before it learns: one set of gains for all, searched",
    "team": "the trained team",
    "greedy_oracle": "knows the users' tastes, thinks one slate ahead",
    "horizon_oracle": "knows the users' tastes, thinks of the whole session",
}
"""What the policies of a table do; any other policy is an agent alone."""


@dataclass(frozen=True)
class ReportInput:
    """What a report is made of.

    Attributes:
        name: the experiment's.
        rows: `{"policy", "return", "low", "high", "normalised"}` each, in the order to show.
        pictures: title to figure, in the order to show.
        agents: for each agent, what it was fitted on and used, in words.
        world: numbers about the users it was judged with (log loss, AUC ...).
        dataset: facts about the data, empty for a generated world.
        command: what to type to get this run again.
        sessions: sessions each policy was judged on.
        seeds: seeds they were spread over, none trained on.
        look: title to address or text: where to look next.
        facts: of the run: id, seconds, environment steps, versions.
    """

    name: str
    rows: Sequence[Mapping[str, Any]]
    pictures: Mapping[str, Figure] = field(default_factory=dict)
    agents: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    world: Mapping[str, Any] = field(default_factory=dict)
    dataset: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    sessions: int = 0
    seeds: int = 0
    look: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


def headline(rows: Sequence[Mapping[str, Any]]) -> str:
    """Whether the trained team beats the best static fusion of its agents, in one sentence, and no more than is so."""
    by_name = {row["policy"]: row for row in rows}
    if TEAM not in by_name or STATIC not in by_name:
        return "There is no trained team and best static fusion to compare."
    team, static = by_name[TEAM], by_name[STATIC]
    gain = team["return"] - static["return"]
    size = f"{abs(gain):.2f}"
    if static["return"] > 0:
        size += f" ({abs(gain) / static['return']:.1%})"
    values = f"{team['return']:.2f} against {static['return']:.2f} a session"
    fusion = "the best static fusion of its agents"
    if team["low"] > static["high"]:
        return f"The trained team beats {fusion} by {size}: {values}, 95 % intervals apart."
    if team["high"] < static["low"]:
        return f"The trained team is worse than {fusion} by {size}: {values}, 95 % intervals apart."
    side = "above" if gain >= 0 else "below"
    return (
        f"The trained team is not clearly different from {fusion}: {size} {side} it, {values}, "
        "and the 95 % intervals overlap."
    )


def text_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table for a terminal; the trained team is marked with an arrow."""
    width = max([len("policy"), *(len(row["policy"]) for row in rows)])
    lines = [f"  {'policy':<{width}}  {'return':>9}  {'95 % interval':>19}  {'normalised':>10}"]
    for row in rows:
        mark = "→" if row["policy"] == TEAM else " "
        interval = f"[{row['low']:.2f}, {row['high']:.2f}]"
        numbers = f"{row['return']:>9.2f}  {interval:>19}  {row['normalised']:>10.3f}"
        lines.append(f"{mark} {row['policy']:<{width}}  {numbers}")
    return "\n".join(lines)


def build_report(report: ReportInput) -> str:
    """The whole report as HTML: pictures inside, every text escaped, no script, nothing fetched."""
    title = f"ConcertRL: {report.name}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="headline">{escape(headline(report.rows))}</p>',
        _table(report),
        *(_picture(name, figure) for name, figure in report.pictures.items()),
        _agents(report.agents),
        _section("The users it was judged with", _facts(report.world)),
        _section("The data", _facts(report.dataset)),
        _section("The run", _facts(report.facts)),
        _section("Run it again", f"<pre>{escape(report.command)}</pre>" if report.command else ""),
        _section("Where to look next", _look(report.look)),
    ]
    body = "\n".join(part for part in parts if part)
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    head = f"<head>{head}<style>{_STYLE}</style></head>"
    return f'<!doctype html>\n<html lang="en">{head}\n<body>\n{body}\n</body></html>\n'


def _section(title: str, body: str) -> str:
    return f"<h2>{escape(title)}</h2>\n{body}" if body else ""


def _table(report: ReportInput) -> str:
    lines = []
    for row in report.rows:
        policy = str(row["policy"])
        cells = [
            f"<th>{escape(policy.replace('_', ' '))}</th>",
            f"<td class=words>{escape(MEANING.get(policy, 'this agent alone'))}</td>",
            f"<td>{row['return']:.2f}</td>",
            f"<td>{row['low']:.2f} to {row['high']:.2f}</td>",
            f"<td>{row['normalised']:.3f}</td>",
        ]
        lines.append(f"<tr{' class=team' if policy == TEAM else ''}>{''.join(cells)}</tr>")
    names = ("policy", "", "return", "95 % interval", "normalised")
    head = "".join(f"<th>{name}</th>" for name in names)
    note = (
        "The return is the team's reward summed over a session. Normalised it is 0 for random and 1 for the "
        "horizon-aware oracle."
    )
    if report.sessions:
        judged = f"{report.sessions:,} sessions over {report.seeds} seeds that the team did not train on"
        note = f"Each policy is judged on {judged}. {note}"
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f"{table}\n<p class=note>{escape(note)}</p>"


def _picture(title: str, figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<figure><img alt="{escape(title)}" src="data:image/png;base64,{data}"></figure>'


def _agents(agents: Mapping[str, Mapping[str, str]]) -> str:
    blocks = [f"<h3>{escape(name)}</h3>\n{_facts(facts)}" for name, facts in agents.items()]
    return _section("What each agent used", "\n".join(blocks))


def _facts(facts: Mapping[str, Any]) -> str:
    if not facts:
        return ""
    named = [(str(name).replace("_", " "), _value(value)) for name, value in facts.items()]
    return f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{escape(value)}</dd>' for name, value in named)}</dl>"


def _look(look: Mapping[str, str]) -> str:
    items = [f"<li>{escape(title)}: <code>{escape(place)}</code></li>" for title, place in look.items()]
    return f"<ul>{''.join(items)}</ul>" if items else ""


def _value(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "yes" if value else "no" if value is False else "none"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;color:#222;background:#fff;max-width:860px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem;margin-bottom:.4rem}h2{font-size:1.2rem;margin-top:2.2rem}h3{font-size:1rem;margin:1rem 0 .2rem}
.headline{font-size:1.15rem;background:#f3f6f9;border-left:4px solid #0072b2;padding:.7rem 1rem;margin:1rem 0 1.6rem}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
td,th{padding:.35rem .6rem;text-align:right;border-bottom:1px solid #e6e6e6;white-space:nowrap}
thead th{color:#555;font-weight:600;vertical-align:bottom}
tbody th,th:first-child{text-align:left;font-weight:600}.words{text-align:left;color:#555;white-space:normal}
.team{background:#fdf0e8}.note{color:#555;font-size:.9rem}
figure{margin:1.6rem 0}img{max-width:100%;height:auto}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1.2rem;margin:.4rem 0}
dt{color:#555}dd{margin:0;overflow-wrap:anywhere}
pre,code{background:#f3f6f9;border-radius:4px;font-size:.9rem}
pre{padding:.7rem 1rem;overflow-x:auto}code{padding:.1rem .3rem}
"""
