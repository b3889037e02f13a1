"""What is sent to a cluster for a job: one folder with the code, the resolved experiment and, if asked for, the data.

    workspace + experiment  --pack-->  concertrl/  experiment.yaml  data/  --Ray-->  the job's working folder
    a run that goes on      --pack_resume-->  concertrl/  resume.json

Nothing is sent from outside the workspace, which is the folder that `concertrl submit` is called in.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from ..platform.code_version import ROOT, package_files
from ..platform.errors import InputError
from ..platform.experiment import packaged_experiments, resolved_yaml
from ..platform.settings import Experiment

EXPERIMENT, DATA, RESUME = "experiment.yaml", "data", "resume.json"

ENTRYPOINT = "python -m concertrl job"
"""What a job runs, in the folder that was sent. No word of the user's is in it, so that none is read by a shell."""

MAX_DATA_BYTES = 100 * 1024**2
"""A larger dataset is not sent with a job, but put where the cluster reads it."""


def within(path: str | Path, workspace: Path, what: str) -> Path:
    """The path, absolute and without links, if it lies in the workspace.

    Raises:
        InputError: it does not.
    """
    found = (workspace / path).resolve()
    if not found.is_relative_to(workspace.resolve()):
        raise InputError(f"{what} {path}: lies outside the workspace {workspace}, so it is not sent; copy it there")
    return found


def check_source(source: str, workspace: Path) -> None:
    """Sees that an experiment's file lies in the workspace; packaged names have none.

    Raises:
        InputError: it does not.
    """
    if source not in packaged_experiments() and Path(source).suffix in (".yaml", ".yml"):
        within(source, workspace, "experiment")


def pack(experiment: Experiment, folder: Path, workspace: Path, *, ship_data: bool = False) -> None:
    """Writes what is sent into `folder`, which is made.

    Raises:
        InputError: a path of the experiment lies outside the workspace or means nothing on a cluster; the dataset is
            damaged or too large to be sent; the folder is not empty.
    """
    _see_empty(folder)
    experiment = _portable(experiment, workspace, ship_data)
    # First, since it may be refused, and then nothing is to be left behind.
    if experiment.dataset is not None and ship_data:
        _copy_dataset(within(experiment.dataset, workspace, "dataset"), folder / DATA)
        experiment = experiment.model_copy(update={"dataset": DATA})
    _copy_code(folder)
    _write_private(folder / EXPERIMENT, resolved_yaml(experiment))


def pack_resume(run: str, overrides: Sequence[str], folder: Path) -> None:
    """Writes what is sent for a run that the cluster has a folder of, and that goes on there, into a new `folder`.

    Raises:
        InputError: the folder is not empty.
    """
    _see_empty(folder)
    _copy_code(folder)
    _write_private(folder / RESUME, json.dumps({"run": run, "overrides": list(overrides)}))


def _see_empty(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder}: is not empty; name a new folder")


def _copy_code(folder: Path) -> None:
    for path in package_files():
        target = folder / "concertrl" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, target)


def _write_private(path: Path, text: str) -> None:
    """It may hold the tracking server's password, which then is for the owner's eyes alone."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def requirements(ray_version: str) -> list[str]:
    """The packages that ConcertRL needs, each in the version of this machine, Ray in the cluster's.

    Raises:
        InputError: the package is not installed, so that its requirements are not known.
    """
    try:
        needed = metadata.requires("concertrl") or []
    except metadata.PackageNotFoundError:
        raise InputError("--env: concertrl is not installed here, so its requirements are not known") from None
    return [_pinned(line, ray_version) for line in needed if "extra ==" not in line]


def _pinned(line: str, ray_version: str) -> str:
    name = line.strip()
    for sign in "<>=!~;( ":
        name = name.partition(sign)[0]
    bare = name.partition("[")[0]
    version = ray_version if bare == "ray" else metadata.version(bare).partition("+")[0]
    return f"{name}=={version}"


def _portable(experiment: Experiment, workspace: Path, ship_data: bool) -> Experiment:
    """The experiment as a cluster may read it: it joins the cluster it runs on."""
    if experiment.dataset is not None:
        if ship_data or not Path(experiment.dataset).is_absolute():
            within(experiment.dataset, workspace, "dataset")
        if not ship_data and not Path(experiment.dataset).is_absolute():
            raise InputError(
                f"dataset={experiment.dataset}: names a folder here; give --ship-data to send it, or its absolute path "
                "on the cluster"
            )
    cluster = experiment.cluster.model_copy(update={"address": "auto"})
    return experiment.model_copy(update={"cluster": cluster})


def _copy_dataset(source: Path, target: Path) -> None:
    from ..platform.dataset import load_dataset  # loads torch, which the other verbs of jobs can do without

    dataset = load_dataset(source)  # damage is told here, not after minutes on the cluster
    files = [path for path in source.rglob("*") if path.is_file() and not path.is_symlink()]
    size = sum(path.stat().st_size for path in files)
    if size > MAX_DATA_BYTES:
        raise InputError(
            f"{source}: {size / 2**20:,.0f} MiB is too much to send with a job (at most {MAX_DATA_BYTES // 2**20}); "
            "put it where every node of the cluster reads it, and give that absolute path"
        )
    for path in files:
        copy = target / path.relative_to(dataset.path)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
