"""Reading an experiment: a packaged name or a YAML file, and `key=value` overrides by dotted path.

name or path  ->  text  ->  plain values (nothing is constructed)  ->  overrides  ->  Experiment, or one line of why not
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from .errors import InputError, suggestion
from .settings import Experiment

MAX_BYTES = 1_000_000
"""A longer experiment file is refused before it is parsed."""

UNREADABLE = (yaml.YAMLError, ValueError, RecursionError)
"""What PyYAML raises: the last two for a date or a number that cannot be, and for brackets within brackets."""

LONGEST_VALUE = 100
"""Characters of a wrong value that a message repeats."""

_PACKAGE = __name__.partition(".")[0]


def packaged_experiments() -> list[str]:
    """Names of the experiments that come with the package."""
    folder = resources.files(_PACKAGE) / "experiments" / "configs"
    return sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_experiment(source: str | Path = "builtin", overrides: Iterable[str] = ()) -> Experiment:
    """Reads a packaged experiment's name or a YAML path, and applies `key=value` overrides by dotted path.

    Raises:
        InputError: the file, a key or a value cannot be used; the message names it and the way out.
    """
    text, origin = _read(str(source))
    data = _parse(text, origin)
    for word in overrides:
        _apply(data, word)
    try:
        return Experiment.model_validate(data)
    except ValidationError as error:
        raise InputError(_explain(error, origin)) from None


def override(experiment: Experiment, words: Iterable[str]) -> Experiment:
    """The experiment with `key=value` overrides by dotted path.

    Raises:
        InputError: a key or a value cannot be used.
    """
    data = experiment.model_dump(mode="json")
    for word in words:
        _apply(data, word)
    try:
        return Experiment.model_validate(data)
    except ValidationError as error:
        raise InputError(_explain(error, experiment.name)) from None


def resolved_yaml(experiment: Experiment) -> str:
    """The whole experiment, defaults included, as YAML that `load_experiment` reads back to an equal value."""
    return yaml.safe_dump(json.loads(experiment.model_dump_json()), sort_keys=False)


def _read(source: str) -> tuple[str, str]:
    if source in packaged_experiments():
        entry = resources.files(_PACKAGE) / "experiments" / "configs" / f"{source}.yaml"
        return entry.read_text("utf-8"), source
    path = Path(source)
    if path.suffix not in (".yaml", ".yml"):
        known = packaged_experiments()
        hint = suggestion(source, known)
        raise InputError(
            f'no experiment "{source}"{hint} (packaged: {", ".join(known)}; or give a path that ends in .yaml)'
        )
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path}: {path.stat().st_size:,} bytes is no experiment; at most {MAX_BYTES:,} are read")
        return path.read_text("utf-8"), str(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; packaged experiments: {', '.join(packaged_experiments())}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not text; an experiment is YAML in UTF-8") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def _parse(text: str, origin: str) -> dict[str, Any]:
    try:
        data = yaml.safe_load(text)
    except UNREADABLE as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "cannot be parsed"
        raise InputError(f"{origin}{where}: not an experiment's YAML: {problem}; only plain values are read") from None
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise InputError(f"{origin}: an experiment is a YAML mapping of keys to values, not a {type(data).__name__}")
    return data


def _apply(data: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise InputError(f'override "{override}": write key=value, such as train.iterations=20')
    *groups, last = key.split(".")
    for group in groups:
        data = data.setdefault(group, {})
        if not isinstance(data, dict):
            raise InputError(f'override "{override}": {group} is a value, not a group of keys')
    try:
        data[last] = yaml.safe_load(value)
    except UNREADABLE:
        raise InputError(f'override "{_short(override)}": the value is not plain YAML; quote it') from None


def _explain(error: ValidationError, origin: str) -> str:
    first = error.errors()[0]
    where = [str(part) for part in first["loc"]]
    key = ".".join(where) or "experiment"
    if first["type"] == "extra_forbidden":
        known = _known_keys()
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5) or [
            path for path in known if path.rpartition(".")[2] == where[-1]
        ]
        hint = f'; did you mean "{near[0]}"?' if near else "; `concertrl train --help` lists the keys"
        return f'{origin}: unknown key "{key}"{hint}'
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return f"{origin}: {key}: {message}" if where else f"{origin}: {message}"
    return f"{origin}: {key}={_short(repr(first['input']))}: {message}"


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]} ..."


def _known_keys() -> list[str]:
    return [key for key, _, _ in settings_keys()]


def settings_keys(model: type[BaseModel] = Experiment, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Every key by its dotted path, with its default and what it means; a group comes before its keys."""
    for name, info in model.model_fields.items():
        group = isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel)
        yield prefix + name, None if group else info.default, info.description or ""
        if group:
            yield from settings_keys(info.annotation, f"{prefix}{name}.")  # type: ignore[arg-type]


def settings_help() -> str:
    """The keys, one a line, as text for `--help`."""
    groups = {key.rpartition(".")[0] for key, _, _ in settings_keys()}
    lines = [
        f"{key}={json.dumps(default, default=list)}{'  ' + meaning if meaning else ''}"
        for key, default, meaning in settings_keys()
        if key not in groups
    ]
    return "\b\nKEYS, with their defaults:\n" + "\n".join(f"  {line}" for line in lines)
