"""Eight tries of hostile input, side by side, in processes of their own: refused with one line, nothing done."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import pytest

PASSWORD = "s3cret-pass"

TABLE = "user_id,item_id,rating,timestamp\n" + "".join(
    f"u{user},i{item},{1 + (user * item) % 5},{1000 * user + item}\n"
    for user in range(9)
    for item in range(user % 3, 9)
)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A folder to type commands in; what it must not reach lies beside it."""
    (tmp_path / "w").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.yaml").write_text("name: secret\n")
    return tmp_path / "w"


def tried(workspace: Path, *words: str, status: int = 2) -> str:
    """Runs `concertrl`; it must end with this status, one line on standard error, and leave the folder as it was."""
    before = {path: path.stat().st_mtime_ns for path in workspace.parent.rglob("*")}
    ran = subprocess.run(
        [sys.executable, "-m", "concertrl", *words],
        cwd=workspace,
        env=os.environ | {"RAY_AUTH_TOKEN": PASSWORD},
        text=True,
        capture_output=True,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (status, ""), ran.stderr
    assert {path: path.stat().st_mtime_ns for path in workspace.parent.rglob("*")} == before
    assert PASSWORD not in ran.stderr
    [line] = ran.stderr.splitlines()
    assert line.startswith("concertrl: ")
    return line


def nowhere() -> str:
    """An address of this machine where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def test_a_config_with_a_path_outside_the_workspace(workspace: Path) -> None:
    (workspace / "link.yaml").symlink_to(workspace.parent / "outside" / "secret.yaml")
    for source in ("../outside/secret.yaml", str(workspace.parent / "outside" / "secret.yaml"), "link.yaml"):
        assert "lies outside the workspace" in tried(workspace, "submit", source, "--address", nowhere())
    (workspace / "mine.yaml").write_text("name: mine\nworld: {kind: logs}\ndataset: ../outside\n")
    assert "dataset ../outside: lies outside the workspace" in tried(
        workspace, "submit", "mine.yaml", "--ship-data", "--write", "parcel"
    )


def test_a_yaml_that_would_construct_an_object(workspace: Path) -> None:
    (workspace / "evil.yaml").write_text('name: !!python/object/apply:os.system ["touch hacked"]\n')
    assert "only plain values are read" in tried(workspace, "train", "evil.yaml")
    assert "only plain values are read" in tried(workspace, "submit", "evil.yaml", "--address", nowhere())


OPEN_PICKLE = """
import sys
from concertrl.platform.checkpoint import read_checkpoint
from concertrl.platform.errors import InputError
try:
    read_checkpoint(sys.argv[1])
except InputError as error:
    print(error)
"""


class Payload:
    """What unpickling it would do."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch hacked",)


def test_a_checkpoint_with_a_pickle_payload(workspace: Path) -> None:
    """In place of the tensors, with a manifest that vouches for it, and as a file beside them."""
    from concertrl.platform.checkpoint import MANIFEST, TENSORS, Checkpoint, write_checkpoint

    for name in (TENSORS, "more.pkl"):
        folder = workspace / f"with-{name}"
        write_checkpoint(folder, Checkpoint({}, {"iteration": 1}, {}))
        payload = pickle.dumps(Payload())
        (folder / name).write_bytes(payload)
        manifest = json.loads((folder / MANIFEST).read_text())
        manifest["files"][name] = {"bytes": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}
        (folder / MANIFEST).write_text(json.dumps(manifest))
        words = [sys.executable, "-c", OPEN_PICKLE, str(folder)]
        ran = subprocess.run(words, cwd=workspace, text=True, capture_output=True, check=True)
        [line] = ran.stdout.splitlines()
        assert str(folder) in line and ran.stderr == ""
        assert not (workspace / "hacked").exists()


def test_an_experiment_name_with_shell_characters(workspace: Path) -> None:
    for name in ("x; touch hacked", "$(touch hacked)", "../../x", "a b", "x\ny", "`id`"):
        line = tried(workspace, "submit", f"name={json.dumps(name)}", "--address", nowhere())
        assert "String should match pattern" in line


def test_a_tracking_uri_with_a_password(workspace: Path) -> None:
    """Refused for another reason, or by a server that is not there: the password is never told."""
    uri = f"tracking.uri=http://me:{PASSWORD}@127.0.0.1:1/db"
    tried(workspace, "submit", uri, "--address", nowhere(), status=1)
    tried(workspace, "submit", f"tracking.uri=[http://me:{PASSWORD}@host", "--address", nowhere())
    tried(workspace, "list", "--address", f"http://me:{PASSWORD}@127.0.0.1:1")


def test_an_oversize_config(workspace: Path) -> None:
    (workspace / "large.yaml").write_text("name: " + "x" * 1_000_001)
    assert "1,000,007 bytes is no experiment" in tried(workspace, "submit", "large.yaml", "--address", nowhere())


def test_a_job_address_that_is_not_there(workspace: Path) -> None:
    address = nowhere()
    for words in (["submit", "builtin"], ["list"], ["status", "x"], ["logs", "x"], ["stop", "x"], ["plan"]):
        line = tried(workspace, *words, "--address", address, status=1)
        assert line.startswith(f"concertrl: no Ray cluster at {address}: ")
    assert "write http://HOST:PORT" in tried(workspace, "submit", "--address", "file:///etc/passwd")


def test_a_manifest_with_a_wrong_hash(workspace: Path) -> None:
    from concertrl.platform.ingest import ingest

    (workspace / "t.csv").write_text(TABLE)
    ingest("csv", workspace / "t.csv", workspace / "d")
    manifest = json.loads((workspace / "d" / "manifest.json").read_text())
    manifest["files"]["items"]["sha256"] = "0" * 64
    (workspace / "d" / "manifest.json").write_text(json.dumps(manifest))
    said = "items.parquet: its content does not match the hash in manifest.json"
    assert said in tried(workspace, "train", "movielens", "dataset=d")
    assert said in tried(workspace, "submit", "movielens", "dataset=d", "--ship-data", "--write", "../outside/p")
