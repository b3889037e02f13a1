"""What a cluster runs of a submitted job: `concertrl train`, as on a laptop.

    the folder that Ray unpacked  --copied-->  ~/concertrl/jobs/<submission id>  -->  concertrl train, there

Ray deletes its folder when the driver that it belongs to has left the cluster, and where a driver dies another goes on.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from ..cluster.inside_job import job_metadata
from ..cluster.parcel import EXPERIMENT
from ..platform.experiment import load_experiment

HOME = "concertrl"
"""Below the home of the cluster's user: where a relative tracking folder goes, since Ray deletes a job's own folder."""


def run_job(folder: Path, as_json: bool) -> None:
    """Becomes the training of the experiment in `folder`; does not return.

    Raises:
        InputError: there is no experiment, or it cannot be used.
    """
    tracking = load_experiment(folder / EXPERIMENT).tracking
    job = job_metadata().get("job_submission_id", "by-hand")
    os.chdir(shutil.copytree(folder, Path.home() / HOME / "jobs" / Path(job).name, dirs_exist_ok=True))
    words = [sys.executable, "-m", __name__.partition(".")[0], "train", EXPERIMENT]
    if not Path(tracking.folder).is_absolute():
        words.append(f"tracking.folder={Path.home() / HOME / tracking.folder}")
    os.execv(sys.executable, words + (["--json"] if as_json else []))
