"""How a long command tells what it is doing: a bar on a terminal, plain lines elsewhere, on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..platform.report import headline, text_table
from .publish import how_to_deliver, how_to_load, how_to_look

if TYPE_CHECKING:
    from ..platform.settings import Experiment
    from ..platform.tracking import Run

Item = TypeVar("Item")


class Narrator:
    """Says what a run is doing.

    Args:
        console: where; None says nothing.
        results: whether the ending is printed for a person, on standard output.
    """

    def __init__(self, console: Console | None, *, results: bool = True) -> None:
        self._console, self._results = console, results
        self._started = time.monotonic()

    @classmethod
    def silent(cls) -> Narrator:
        return cls(None, results=False)

    @classmethod
    def on_terminal(cls, *, results: bool = True) -> Narrator:
        return cls(Console(stderr=True, highlight=False, soft_wrap=True), results=results)

    def say(self, line: str) -> None:
        """One line, with the time since the start."""
        if self._console:
            self._console.print(f"{time.monotonic() - self._started:6.1f} s  {line}", markup=False)

    def track(self, items: Iterable[Item], total: int, label: str) -> Iterator[Item]:
        """The items, with a bar on a terminal and a line elsewhere."""
        if self._console is None:
            yield from items
            return
        if not self._console.is_terminal:
            self.say(label)
            yield from items
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console, transient=True) as progress:
            yield from progress.track(items, total, description=label)

    def ended(self, result: Any, run: Run, experiment: Experiment) -> None:
        """The table, and where to look next."""
        if not self._results:
            return
        tracking = experiment.tracking
        ask = f"{how_to_load(result.model_uri, tracking)}.recommend(['{self._someone(experiment)}'])"
        lines = [
            "",
            text_table(result.table),
            "",
            headline(result.table),
            f"{result.env_steps:,} env steps in {result.seconds:.0f} s, judged on {experiment.evaluate.seeds} seeds x "
            f"{experiment.evaluate.sessions} sessions of users that training never saw",
            "",
            f"look at it    {how_to_look(tracking)}",
            f"ask the team  {ask}",
        ]
        if run.undelivered:
            waiting = f"{run.undelivered_count} records wait in {run.undelivered}"
            lines.append(f"MLflow did not answer: {waiting}; `{how_to_deliver(tracking)}` sends them")
        sys.stdout.write("\n".join(lines) + "\n")

    @staticmethod
    def _someone(experiment: Experiment) -> str:
        return "u00007" if experiment.world.kind == "builtin" else "USER_ID"
