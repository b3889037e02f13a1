"""Reading an experiment: a packaged name or a YAML file, and `key=value` overrides by dotted path.

name or path  ->  text  ->  plain values (nothing is constructed)  ->  overrides  ->  Experiment, or one line of why not
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
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
    return packaged("configs")


def packaged(folder: str) -> list[str]:
    """Names of the YAML files that come with the package in a folder of `experiments/`."""
    entries = (resources.files(_PACKAGE) / "experiments" / folder).iterdir()
    return sorted(Path(entry.name).stem for entry in entries if entry.name.endswith(".yaml"))


def load_experiment(source: str | Path = "builtin", overrides: Iterable[str] = ()) -> Experiment:
    """Reads a packaged experiment's name or a YAML path, and applies `key=value` overrides by dotted path.

    Raises:
        InputError: the file, a key or a value cannot be used; the message names it and the way out.
    """
    data, origin = read_plain(str(source), "configs", "experiment")
    for word in overrides:
        apply_override(data, word)
    try:
        return Experiment.model_validate(data)
    except ValidationError as error:
        raise InputError(_explain(error, origin)) from None


def read_plain(source: str, folder: str, what: str) -> tuple[dict[str, Any], str]:
    """The plain values of a packaged name or a YAML path, and where they come from, for messages.

    Raises:
        InputError: the file cannot be used.
    """
    text, origin = _read(source, folder, what)
    return _parse(text, origin, what), origin


def override(experiment: Experiment, words: Iterable[str]) -> Experiment:
    """The experiment with `key=value` overrides by dotted path.

    Raises:
        InputError: a key or a value cannot be used.
    """
    data = experiment.model_dump(mode="json")
    for word in words:
        apply_override(data, word)
    try:
        return Experiment.model_validate(data)
    except ValidationError as error:
        raise InputError(_explain(error, experiment.name)) from None


def changed(experiment: Experiment, values: Mapping[str, Any]) -> Experiment:
    """The experiment with plain values in place of those at dotted paths.

    Raises:
        InputError: a key or a value cannot be used.
    """
    data = experiment.model_dump(mode="json")
    for key, value in values.items():
        _put(data, key, value, key)
    try:
        return Experiment.model_validate(data)
    except ValidationError as error:
        raise InputError(_explain(error, experiment.name)) from None


def resolved_yaml(experiment: Experiment) -> str:
    """The whole experiment, defaults included, as YAML that `load_experiment` reads back to an equal value."""
    return yaml.safe_dump(json.loads(experiment.model_dump_json()), sort_keys=False)


def _read(source: str, folder: str, what: str) -> tuple[str, str]:
    known = packaged(folder)
    if source in known:
        entry = resources.files(_PACKAGE) / "experiments" / folder / f"{source}.yaml"
        return entry.read_text("utf-8"), source
    path = Path(source)
    if path.suffix not in (".yaml", ".yml"):
        hint = suggestion(source, known)
        raise InputError(
            f'no {what} "{source}"{hint} (packaged: {", ".join(known)}; or give a path that ends in .yaml)'
        )
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path}: {path.stat().st_size:,} bytes is no {what}; at most {MAX_BYTES:,} are read")
        return path.read_text("utf-8"), str(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; packaged {what}s: {', '.join(known)}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not text; {_a(what)} is YAML in UTF-8") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def _a(what: str) -> str:
    return f"an {what}" if what[0] in "aeiou" else f"a {what}"


def _parse(text: str, origin: str, what: str) -> dict[str, Any]:
    try:
        data = yaml.safe_load(text)
    except UNREADABLE as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "cannot be parsed"
        raise InputError(f"{origin}{where}: not {_a(what)}'s YAML: {problem}; only plain values are read") from None
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise InputError(f"{origin}: {_a(what)} is a YAML mapping of keys to values, not a {type(data).__name__}")
    return data


def apply_override(data: dict[str, Any], override: str) -> None:
    """Puts the value of `key=value` at its dotted path.

    Raises:
        InputError: it is not such a word, or not plain YAML.
    """
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise InputError(f'override "{override}": write key=value, such as train.iterations=20')
    try:
        _put(data, key, yaml.safe_load(value), override)
    except UNREADABLE:
        raise InputError(f'override "{_short(override)}": the value is not plain YAML; quote it') from None


def _put(data: dict[str, Any], key: str, value: Any, override: str) -> None:
    *groups, last = key.split(".")
    for group in groups:
        data = data.setdefault(group, {})
        if not isinstance(data, dict):
            raise InputError(f'override "{override}": {group} is a value, not a group of keys')
    data[last] = value


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
