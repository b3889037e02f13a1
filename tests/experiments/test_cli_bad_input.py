"""What cannot be used ends with exit status 2, one line that names it and the way out, and nothing half-written."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from concertrl.__main__ import main

Cli = Callable[..., subprocess.CompletedProcess[str]]

HEADER = "user_id,item_id,rating,timestamp,title\n"
GOOD = "".join(
    f"u{user},i{item},{1 + (user * item) % 5},{1_000_000 + 1000 * user + item},a film about thing {item % 4}\n"
    for user in range(30)
    for item in range(user % 5, 12, 2)
)
"""30 users and 12 items, fewer than two slates."""

EVIL = 'name: !!python/object/apply:os.system ["touch hacked"]\n'


def refused(folder: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    """Runs a command in `folder` that must be refused and leave everything there as it was; its one line."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    monkeypatch.chdir(folder)
    ran = CliRunner().invoke(main, words)
    lines = [line for line in ran.stderr.split("\n") if line and not told(line)]
    assert ran.exit_code == 2, (ran.stderr, ran.exception)
    assert len(lines) == 1 and lines[0].startswith("concertrl: "), ran.stderr
    assert ran.stdout == "" and "Traceback" not in ran.stderr
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    return lines[0]


def told(line: str) -> bool:
    """Whether a line is about progress."""
    return re.fullmatch(r" *\d+\.\d s  .*| *(\d+ %  )?[\d,]+ rows", line) is not None


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("missing.csv", None, "missing.csv: no such file"),
        ("empty.csv", b"", "empty.csv: is empty"),
        ("bytes.csv", b"\x89PNG\r\n\x00\xff\xfe\x00\x80\x81", "bytes.csv: is not text"),
        (
            "torn.csv.gz",
            gzip.compress((HEADER + GOOD).encode(), mtime=0)[:-40],
            "torn.csv.gz: the gzip file is cut short",
        ),
        ("column.csv", b"customer,item_id\na,b\n", 'column.csv: no column "user_id"'),
        ("user.csv", (HEADER + "u,x,1,1,t\nu,y,2,2,t\n").encode(), "user.csv: all rows are of one user, 'u'"),
        ("item.csv", (HEADER + "u,x,1,1,t\nv,x,2,2,t\n").encode(), "item.csv: all rows are of one item, 'x'"),
    ],
)
def test_a_file_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes | None, said: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert said in refused(tmp_path, monkeypatch, "ingest", "csv", name, "--out", "d", "--json")
    assert not [path for path in tmp_path.iterdir() if path.name != name]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["bultin"], 'no experiment "bultin"; did you mean "builtin"? (packaged: builtin, instruments, movielens'),
        (["nowhere.yaml"], "nowhere.yaml: no such file"),
        (["train.iteration=3"], 'unknown key "train.iteration"; did you mean "train.iterations"?'),
        (["builtin", "iterations=3"], 'unknown key "iterations"; did you mean "train.iterations"?'),
        (["builtin", "env.slats.size=3"], 'unknown key "env.slats"; did you mean "env.slate"?'),
        (["train.iterations=three"], "train.iterations='three': Input should be a valid integer"),
        (["train.iterations=-1"], "train.iterations=-1: Input should be greater than or equal to 0"),
        (["train.gamma=.nan"], "train.gamma=nan: "),
        (["env.sessions=[1, 2]"], "env.sessions=[1, 2]: Input should be a valid integer"),
        (["train.clip=!!python/name:os.system"], "the value is not plain YAML"),
        (["builtin", "iterations"], 'override "iterations": write key=value'),
        (["agents.names=[cf, contents]"], 'no agent "contents"; did you mean "content"?'),
        (["cluster.num_learners=2", "env.sessions=15"], "env.sessions=15 cannot be shared out evenly among 2 learners"),
        (["fusion.weights=[1, 2]"], "fusion.weights has 2 numbers for 3 agents"),
        (["movielens"], "movielens: no dataset; make one with `concertrl ingest"),
        (["movielens", "dataset=nowhere"], "nowhere: no such dataset folder"),
        (["dataset=nowhere"], "dataset=nowhere: the builtin world reads no dataset"),
        (["world.users=1"], "world.users=1: give at least 2"),
        (["--iterations", "3"], "No such option '--iterations'"),
        (["builtin", "--jsn"], "No such option '--jsn'"),
    ],
)
def test_an_experiment_that_cannot_be_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    assert said in refused(tmp_path, monkeypatch, "train", *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (EVIL.encode(), "mine.yaml:1: not an experiment's YAML: could not determine a constructor"),
        (b"\xff\xfe\x00", "mine.yaml: not text"),
        (b"- a\n- b\n", "mine.yaml: an experiment is a YAML mapping of keys to values, not a list"),
        (b"env: {slate: 5\n", "mine.yaml:2: not an experiment's YAML"),
        (b"env: 5\n", "mine.yaml: env=5: "),
        (b"nmae: x\n", 'mine.yaml: unknown key "nmae"; did you mean "name"?'),
        (b"a: " + b"x" * 1_000_001, "mine.yaml: 1,000,004 bytes is no experiment"),
    ],
)
def test_an_experiment_file_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, said: str
) -> None:
    (tmp_path / "mine.yaml").write_bytes(content)
    assert said in refused(tmp_path, monkeypatch, "train", "mine.yaml")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "No such command 'trian'"),
        (["ingest", "csv", "x.csv"], "Missing option '--out'"),
        (["ingest", "sqlite", "x.csv", "--out", "d"], 'no source "sqlite" (sources: movielens'),
        (["ingest", "csv", "x.csv", "--out", "d", "--map", "user_id"], "--map user_id: write FIELD=COLUMN"),
        (["benchmark", "throughput", "--rounds", "0"], "Invalid value for '--rounds'"),
        (["ui", "--port", "99999"], "Invalid value for '--port'"),
        (["ui"], "runs: no runs here yet"),
    ],
)
def test_a_command_that_is_not_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    assert said in refused(tmp_path, monkeypatch, *words)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("datasets")
    (folder / "t.csv").write_text(HEADER + GOOD)
    ran = CliRunner().invoke(main, ["ingest", "csv", str(folder / "t.csv"), "--out", str(folder / "d"), "--json"])
    assert ran.exit_code == 0 and json.loads(ran.stdout)["items"] == 12
    return folder / "d"


def test_a_catalogue_smaller_than_the_slate(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["train", "movielens", f"dataset={dataset}", "env.slate=13", "world.topics=3", "tracking.folder=kept"]
    assert "12 items cannot fill a slate of 13; set env.slate" in refused(tmp_path, monkeypatch, *words)
    assert not list(tmp_path.iterdir())


def test_a_dataset_that_is_not_what_its_manifest_says(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torn = Path(shutil.copytree(dataset, tmp_path / "torn"))
    with (torn / "interactions.parquet").open("r+b") as file:
        file.seek(100)
        file.write(b"\x00\x01\x02")
    line = refused(tmp_path, monkeypatch, "train", "movielens", "dataset=torn", "tracking.folder=kept")
    assert "torn" in line and "interactions.parquet" in line
    assert [path.name for path in tmp_path.iterdir()] == ["torn"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "evil.yaml"], "concertrl: evil.yaml:1: not an experiment's YAML"),
        (["train", "--nosuch"], "concertrl: No such option '--nosuch'"),
        (["ingest", "csv", "missing.csv", "--out", "d"], "concertrl: missing.csv: no such file"),
        (["train", "movielens", "dataset=nowhere"], "concertrl: nowhere: no such dataset folder"),
    ],
)
def test_a_real_process_ends_with_status_2(cli: Cli, tmp_path: Path, words: list[str], said: str) -> None:
    (tmp_path / "evil.yaml").write_text(EVIL)
    ran = cli(*words, cwd=tmp_path)
    assert (ran.returncode, ran.stdout) == (2, "")
    [line] = ran.stderr.splitlines()
    assert line.startswith(said)
    assert [path.name for path in tmp_path.iterdir()] == ["evil.yaml"]


def test_a_mistake_does_not_tell_a_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for uri in ("tracking.uri=[http://me:s3cret@host", "tracking.uri={a: http://me:s3cret@host}"):
        assert "s3cret" not in refused(tmp_path, monkeypatch, "train", uri)


def test_a_tracking_folder_that_cannot_be_written(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    line = refused(tmp_path, monkeypatch, "train", *tiny, "tracking.folder=file/kept")
    assert "cannot be written" in line and "set tracking.folder" in line
