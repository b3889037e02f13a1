"""Reading a sweep: a packaged name or a YAML file, and `sweep.key=value` overrides.

words  ->  overrides of the experiment, overrides of the sweep  ->  Experiment, SweepSettings, or one line of why not
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from .errors import InputError, suggestion
from .experiment import apply_override, load_experiment, packaged, read_plain
from .settings import Experiment
from .sweep_ledger import Ledger, sweep_folder
from .sweep_settings import SweepSettings
from .sweep_space import check_space

PREFIX = "sweep."
"""Begins the overrides that are the sweep's, and not the experiment's."""


def packaged_sweeps() -> list[str]:
    """Names of the sweeps that come with the package."""
    return packaged("sweeps")


def load_sweep(source: str, by: str, words: Iterable[str] = ()) -> tuple[Experiment, SweepSettings]:
    """The experiment that a sweep varies, and the sweep, which has a name.

    Args:
        source: a packaged experiment's name or a YAML path.
        by: a packaged sweep's name or a YAML path.
        words: `key=value` for the experiment, `sweep.key=value` for the sweep.

    Raises:
        InputError: a file, a key or a value cannot be used, or the space is not one of this experiment.
    """
    words = list(words)
    experiment = load_experiment(source, [word for word in words if not word.startswith(PREFIX)])
    data, origin = read_plain(by, "sweeps", "sweep")
    for word in words:
        if word.startswith(PREFIX):
            _override(data, word.removeprefix(PREFIX))
    data.setdefault("name", f"{experiment.name}-{origin.rpartition('/')[2].partition('.')[0]}")
    try:
        sweep = SweepSettings.model_validate(data)
    except ValidationError as error:
        raise InputError(_explain(error, origin)) from None
    check_space(sweep, experiment, origin)
    return experiment, sweep


def begin(experiment: Experiment, sweep: SweepSettings, command: str = "") -> Ledger:
    """Writes down a new sweep.

    Raises:
        InputError: there is one of this name.
    """
    return Ledger.create(sweep_folder(experiment.tracking.folder, str(sweep.name)), experiment, sweep, command)


def reopen(name: str, folder: str | Path, uri: str | None = None) -> Ledger:
    """A sweep that was begun earlier, by its name in a tracking folder.

    Args:
        uri: of the tracking server, which must be said again where it holds credentials.

    Raises:
        InputError: there is no such sweep, or the address of its runs is missing.
    """
    ledger = Ledger(sweep_folder(folder, name))
    if ledger.hidden and uri is None:
        raise InputError(
            f"sweep {name}: its tracking URI holds a password and was not kept; give tracking.uri=... again"
        )
    tracking = {"folder": str(folder), **({"uri": uri} if uri else {})}
    settings = ledger.experiment.tracking.model_copy(update=tracking)
    ledger.experiment = ledger.experiment.model_copy(update={"tracking": settings})
    return ledger


def _override(data: dict[str, Any], word: str) -> None:
    key, equals, value = word.partition("=")
    if equals and key.startswith("space."):
        # The rest is a dotted path of the experiment, one key here.
        space = data.setdefault("space", {})
        entry: dict[str, Any] = {}
        apply_override(entry, f"value={value}")
        space[key.removeprefix("space.")] = entry["value"]
    else:
        apply_override(data, word)


def _explain(error: ValidationError, origin: str) -> str:
    first = error.errors()[0]
    where = [str(part) for part in first["loc"]]
    key = ".".join(where)
    if first["type"] == "extra_forbidden":
        hint = suggestion(where[-1], SweepSettings.model_fields) or f" (known: {', '.join(SweepSettings.model_fields)})"
        return f'{origin}: unknown key "{key}"{hint}'
    message = first["msg"].removeprefix("Value error, ")
    given = "" if first["type"] in ("value_error", "missing") else f"={str(first['input'])[:100]!r}"
    return f"{origin}: {key}{given}: {message}" if key else f"{origin}: {message}"
