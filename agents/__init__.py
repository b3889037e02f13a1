"""The recommender agents: towers, policies, the team and how it is served."""

from __future__ import annotations

from pathlib import Path


def serving_path() -> Path:
    """The file that MLflow runs to serve a team."""
    return Path(__file__).with_name("serving.py")
