"""Which code a run was made with: the package's version, the commit where there is one, and a hash of the files."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

from .. import __version__

ROOT = Path(__file__).parents[1]
"""The package's own folder."""

ROOMS = ("agents", "cluster", "envs", "experiments", "platform")

GIT_S = 10.0
"""Git on a slow disk; a version without its commit is better than a wait."""


def package_files() -> list[Path]:
    """Every file of the package, by its path below `ROOT`, in order: code, packaged experiments, templates."""
    files = [path for path in ROOT.iterdir() if path.is_file() and (path.suffix == ".py" or path.name == "py.typed")]
    files += [path for room in ROOMS for path in (ROOT / room).rglob("*") if path.is_file()]
    return sorted(path.relative_to(ROOT) for path in files if "__pycache__" not in path.parts)


def code_version() -> str:
    """Such as `0.1.0 5ae6f88c1d02-dirty sha256:1f0c...`: version, commit (of a checkout), 16 digits of the hash."""
    digest = hashlib.sha256()
    for path in package_files():
        content = (ROOT / path).read_bytes()
        digest.update(f"{path.as_posix()} {len(content)}\n".encode() + content)
    return " ".join(filter(None, [__version__, _commit(), f"sha256:{digest.hexdigest()[:16]}"]))


def _commit() -> str:
    if not (ROOT / ".git").exists():  # an installed package, which may lie inside a checkout of something else
        return ""
    commit = _git("rev-parse", "--short=12", "HEAD")
    return f"{commit}-dirty" if commit and _git("status", "--porcelain") else commit


def _git(*words: str) -> str:
    try:
        ran = subprocess.run(
            ["git", "-C", str(ROOT), *words], capture_output=True, text=True, timeout=GIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ran.stdout.strip() if ran.returncode == 0 else ""
