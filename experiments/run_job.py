"""What a cluster runs of a submitted job: `concertrl train`, as on a laptop.

    the folder that Ray unpacked  --copied-->  ~/concertrl/jobs/<submission id>  -->  concertrl train, there

Ray deletes its folder when the driver that it belongs to has left the cluster, and where a driver dies another goes on.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

from ..cluster.inside_job import job_metadata
from ..cluster.parcel import DATA, EXPERIMENT, RESUME
from ..platform.experiment import load_experiment, override
from ..platform.settings import Experiment

HOME = "concertrl"
"""Below the home of the cluster's user: where a relative tracking folder goes, since Ray deletes a job's own folder."""

PRIVATE = "overrides"
"""In the job's folder: overrides that hold an address, which may have a password and is no word of a command."""


def run_job(folder: Path, as_json: bool) -> None:
    """Becomes the training of the experiment in `folder`, or of the run that goes on; does not return.

    Raises:
        InputError: there is no experiment, or it cannot be used.
    """
    job = job_metadata().get("job_submission_id", "by-hand")
    place = Path.home() / HOME / "jobs" / Path(job).name
    words = _resumed(folder, place) if (folder / RESUME).exists() else _begun(folder, place)
    os.chdir(shutil.copytree(folder, place, dirs_exist_ok=True))
    command = [sys.executable, "-m", __name__.partition(".")[0], "train", *words]
    os.execv(sys.executable, command + (["--json"] if as_json else []))


def _begun(folder: Path, place: Path) -> list[str]:
    experiment = load_experiment(folder / EXPERIMENT)
    # Absolute, so that a later job can go on with the run.
    data = [f"dataset={place / DATA}"] if experiment.dataset == DATA else []
    return [EXPERIMENT, *data, *_tracked(experiment.tracking.folder)]


def _resumed(folder: Path, place: Path) -> list[str]:
    told = json.loads((folder / RESUME).read_text("utf-8"))
    given = [word for word in told["overrides"] if not word.startswith("cluster.address=")]
    shown = [word for word in given if not word.startswith("tracking.uri=")]
    (folder / PRIVATE).touch(0o600)
    (folder / PRIVATE).write_text("\n".join(word for word in given if word not in shown), "utf-8")
    tracking = _tracked(override(Experiment(), shown).tracking.folder)
    more = ["--overrides", str(place / PRIVATE)]
    return ["--resume", told["run"], *shown, *tracking, "cluster.address=auto", *more]


def _tracked(folder: str) -> list[str]:
    return [] if Path(folder).is_absolute() else [f"tracking.folder={Path.home() / HOME / folder}"]
