"""What is sent with a job: code that runs by itself, the resolved experiment, data only from the workspace."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from concertrl.cluster.parcel import RESUME, pack, pack_resume, requirements, within
from concertrl.platform.code_version import ROOT, code_version, package_files
from concertrl.platform.errors import InputError
from concertrl.platform.experiment import load_experiment

TABLE = "user_id,item_id,rating,timestamp\n" + "".join(
    f"u{user},i{item},{1 + (user * item) % 5},{1000 * user + item}\n"
    for user in range(9)
    for item in range(user % 3, 9)
)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    from concertrl.platform.ingest import ingest

    (tmp_path / "w").mkdir()
    (tmp_path / "t.csv").write_text(TABLE)
    ingest("csv", tmp_path / "t.csv", tmp_path / "w" / "d")
    return tmp_path / "w"


def test_the_code_in_a_parcel_answers_by_itself(tmp_path: Path) -> None:
    """Nothing of a checkout is needed on the cluster, and the same files give the same version there."""
    experiment = load_experiment("builtin", ["tracking.uri=http://me:s3cret@host"])
    pack(experiment, tmp_path / "p", tmp_path)
    look = "from concertrl.platform import code_version as code; print(code.ROOT, code.code_version())"
    ran = subprocess.run(
        [sys.executable, "-c", look], cwd=tmp_path / "p", env={}, text=True, capture_output=True, check=True
    )
    where, version = ran.stdout.split(maxsplit=1)
    assert Path(where) == tmp_path / "p" / "concertrl"
    assert version.split()[-1] == code_version().split()[-1]
    sent = load_experiment(tmp_path / "p" / "experiment.yaml")
    assert (sent.cluster.address, sent.tracking.uri) == ("auto", "http://me:s3cret@host")
    assert (tmp_path / "p" / "experiment.yaml").stat().st_mode & 0o077 == 0
    assert not {path.parts[0] for path in package_files()} & {"tests", "docs", ".git", "build"}


def test_a_parcel_of_a_run_that_goes_on_names_it(tmp_path: Path) -> None:
    words = ["train.iterations=9", "tracking.uri=http://me:s3cret@host"]
    pack_resume("abc", words, tmp_path / "p")
    told = json.loads((tmp_path / "p" / RESUME).read_text())
    assert told == {"run": "abc", "overrides": words} and (tmp_path / "p" / RESUME).stat().st_mode & 0o077 == 0
    assert (tmp_path / "p" / "concertrl" / "__main__.py").exists()
    with pytest.raises(InputError, match="is not empty"):
        pack_resume("abc", words, tmp_path / "p")


def test_a_commit_is_told_for_a_checkout_only() -> None:
    version, *rest = code_version().split()
    assert version == "0.1.0" and rest[-1].startswith("sha256:")
    if (ROOT / ".git").exists():
        git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, text=True, capture_output=True, check=True)
        assert git.stdout.startswith(rest[0].removesuffix("-dirty"))


def test_a_dataset_of_the_workspace_is_sent_and_loads(workspace: Path) -> None:
    from concertrl.platform.dataset import load_dataset

    experiment = load_experiment("movielens", ["dataset=d"])
    pack(experiment, workspace / "p", workspace, ship_data=True)
    assert load_dataset(workspace / "p" / "data").digest == load_dataset(workspace / "d").digest
    assert yaml.safe_load((workspace / "p" / "experiment.yaml").read_text())["dataset"] == "data"


@pytest.mark.parametrize("path", ["../d", "/etc", "link", "link/x"])
def test_nothing_outside_the_workspace_is_sent(workspace: Path, path: str) -> None:
    (workspace / "link").symlink_to(workspace.parent)
    with pytest.raises(InputError, match="lies outside the workspace"):
        within(path, workspace, "dataset")
    with pytest.raises(InputError, match="lies outside the workspace"):
        experiment = load_experiment("movielens", [f"dataset={path}"])
        pack(experiment, workspace / "p", workspace, ship_data=True)


def test_a_link_inside_a_dataset_is_not_followed(workspace: Path) -> None:
    (workspace.parent / "secret").write_text("key")
    (workspace / "d" / "image.png").symlink_to(workspace.parent / "secret")
    pack(load_experiment("movielens", ["dataset=d"]), workspace / "p", workspace, ship_data=True)
    assert not (workspace / "p" / "data" / "image.png").exists()


def test_a_damaged_or_a_large_dataset_is_refused_before_it_is_sent(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace)
    experiment = load_experiment("movielens", ["dataset=d"])
    monkeypatch.setattr("concertrl.cluster.parcel.MAX_DATA_BYTES", 100)
    with pytest.raises(InputError, match="too much to send with a job"):
        pack(experiment, workspace / "p", workspace, ship_data=True)
    with (workspace / "d" / "interactions.parquet").open("ab") as file:
        file.write(b"x")
    with pytest.raises(InputError, match="does not match the hash"):
        pack(experiment, workspace / "q", workspace, ship_data=True)


def test_a_folder_here_means_nothing_on_a_cluster(workspace: Path) -> None:
    with pytest.raises(InputError, match="give --ship-data to send it"):
        pack(load_experiment("movielens", ["dataset=d"]), workspace / "p", workspace)


def test_requirements_are_pinned_to_what_is_here_and_ray_to_the_clusters() -> None:
    needed = requirements("2.60.9")
    assert "ray[default,rllib,tune]==2.60.9" in needed or "ray[rllib,tune]==2.60.9" in needed
    assert all("==" in line and "+" not in line for line in needed)
    assert not [line for line in needed if line.startswith(("pytest", "ruff"))]
