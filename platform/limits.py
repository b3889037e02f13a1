"""Values as MLflow takes them: within its limits on keys, parameters and tags."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

MAX_KEY, MAX_PARAM, MAX_TAG = 240, 6000, 5000


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested mapping as dotted paths to texts within MLflow's limits; what was cut ends with an ellipsis."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{path}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            flat[cut(path, MAX_KEY, "...")] = cut(text, MAX_PARAM)
    return flat


def cut(text: str, longest: int, end: str = "…") -> str:
    """The text, or as much of it as fits before an ellipsis."""
    return text if len(text) <= longest else text[: longest - len(end)] + end
