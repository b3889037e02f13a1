"""Manifests for clusters, from templates and one file of values. Imports no Ray.

    manifests/values.yaml + --set KEY=VALUE  ->  values  ->  manifests/*.yaml with each $key replaced

A value is one word, so that none can add a line or a key to a manifest; secrets are named in them, never written.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template

import yaml

from ..platform.errors import InputError, suggestion

HOME = Path(__file__).with_name("manifests")
VALUES = HOME / "values.yaml"
MANIFESTS = ("raycluster", "rayjob", "autoscaler", "compose")
"""Those with values in them."""

BESIDE = {"compose": ("prometheus.yaml", "grafana-sources.yaml", "grafana-dashboards.yaml", "dashboard.json")}
"""What a manifest mounts as it is."""

WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}")
CREDENTIALS = re.compile(r"//[^/]*@")

Values = dict[str, str | int]


def values(changes: Sequence[str] = ()) -> Values:
    """The values, with `KEY=VALUE` changed.

    Raises:
        InputError: an unknown key, a value of another kind, or one that holds credentials.
    """
    known: Values = yaml.safe_load(VALUES.read_text("utf-8"))
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals or not key:
            raise InputError(f"--set {change[:80]}: write KEY=VALUE, such as gpu_workers_max=4")
        if key not in known:
            raise InputError(f'--set: no value "{key[:80]}"{suggestion(key, known)}; they are in {VALUES.name}')
        known[key] = _checked(key, value, known[key])
    for group in ("cpu", "gpu"):
        if int(known[f"{group}_workers_min"]) > int(known[f"{group}_workers_max"]):
            raise InputError(f"{group}_workers_min={known[f'{group}_workers_min']} is above {group}_workers_max")
    return known


def render(name: str, known: Mapping[str, str | int]) -> str:
    """One manifest with its values.

    Raises:
        InputError: there is no manifest of that name.
    """
    if name not in MANIFESTS:
        raise InputError(f'no manifest "{name}"{suggestion(name, MANIFESTS)} (known: {", ".join(MANIFESTS)})')
    derived = {
        "all_workers_max": int(known["cpu_workers_max"]) + int(known["gpu_workers_max"]),
        "idle_minutes": math.ceil(int(known["idle_s"]) / 60),
    }
    return Template((HOME / f"{name}.yaml").read_text("utf-8")).substitute({**known, **derived})


def write(folder: Path, names: Sequence[str], known: Mapping[str, str | int]) -> list[Path]:
    """Writes manifests, and what they mount, into a folder, each under a temporary name first."""
    texts = {f"{name}.yaml": render(name, known) for name in names}
    texts |= {file: (HOME / file).read_text("utf-8") for name in names for file in BESIDE.get(name, ())}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in texts.items():
            temporary = folder / f".{file}.{os.getpid()}"
            temporary.write_text(text, "utf-8")
            temporary.replace(folder / file)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); give another --out") from None
    return [folder / file for file in texts]


def _checked(key: str, value: str, default: str | int) -> str | int:
    if isinstance(default, int):
        if not re.fullmatch(r"\d{1,9}", value):
            raise InputError(f"--set {key}={value[:80]!r}: a whole number, 0 or above")
        return int(value)
    if CREDENTIALS.search(value):
        raise InputError(f"--set {key}: a manifest holds no credentials; put them into the secret that it names")
    if not WORD.fullmatch(value):
        raise InputError(f"--set {key}={value[:80]!r}: one word of letters, digits and ._:/@+-")
    return value
