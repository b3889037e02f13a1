"""What a cluster runs of a submitted job, in the folder that was sent: `concertrl train`, as on a laptop."""

from __future__ import annotations

import os
import sys
from pathlib import Path

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
    words = [sys.executable, "-m", __name__.partition(".")[0], "train", EXPERIMENT]
    if not Path(tracking.folder).is_absolute():
        words.append(f"tracking.folder={Path.home() / HOME / tracking.folder}")
    os.execv(sys.executable, words + (["--json"] if as_json else []))
