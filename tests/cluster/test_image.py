"""The Dockerfile, as text: no engine runs where the tests do."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def stages() -> list[list[tuple[str, str]]]:
    """The Dockerfile's instructions, by stage."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found: list[list[tuple[str, str]]] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            found.append([])
        found[-1].append((word, rest.strip()))
    return found


def test_the_image_is_built_in_stages_and_does_not_run_as_root() -> None:
    build, final = stages()
    assert build[0][1].endswith(" AS packages") and all(":latest" not in stage[0][1] for stage in (build, final))
    words = [word for word, _ in final]
    users = [rest for word, rest in final if word == "USER"]
    assert users == ["1000:1000"] and words.index("USER") < words.index("CMD") and "HEALTHCHECK" in words
    assert not [word for word, _ in build + final if word == "ADD"]
    assert all(rest.startswith("--from=packages") for word, rest in final if word == "COPY"), "no source, no compiler"
    installs = [rest for word, rest in build if word == "RUN" and "pip install" in rest]
    assert installs and all("-c /build/constraints.txt" in rest for rest in installs)
    assert not [
        rest for word, rest in build + final if word in ("ARG", "ENV") and re.search("PASSWORD|TOKEN|SECRET", rest)
    ]


def test_what_the_image_copies_is_tracked_and_let_through() -> None:
    copied = [name for word, rest in stages()[0] if word == "COPY" for name in rest.split()[:-1]]
    let = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(copied) == let
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, text=True, capture_output=True, check=True).stdout.split()
    assert all(name in tracked or any(path.startswith(f"{name}/") for path in tracked) for name in copied)
