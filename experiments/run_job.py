"""The driver of a submitted job: trains what was sent, on the cluster it was sent to, and starts again if it must.

working folder (parcel)  ->  experiment, its tracking folder made to last  ->  train, as on a laptop
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

from ..cluster.inside_job import COMMAND, job_metadata
from ..cluster.parcel import EXPERIMENT, read_order
from ..platform.experiment import load_experiment
from ..platform.settings import Experiment
from .progress import Narrator

HOME = "concertrl"
"""Below the home of the cluster's user: where a relative tracking folder goes, since Ray deletes a job's own folder."""


def run_job(folder: Path) -> None:
    """Trains what was packed into `folder`.

    Raises:
        InputError: the folder holds no job, or the cluster lacks what the experiment names.
        ConcertError: the training failed for a reason it can name.
    """
    order = read_order(folder)
    experiment = _lasting(load_experiment(folder / EXPERIMENT))
    # A stopped job gets a SIGTERM: its MLflow run is to end as killed, and not to stay open for ever.
    signal.signal(signal.SIGTERM, _interrupt)
    from .train import train

    narrator = Narrator.on_terminal(results=not order.as_json)
    result = train(experiment, narrator=narrator, command=job_metadata().get(COMMAND, ""))
    if order.as_json:
        sys.stdout.write(json.dumps(result.as_dict()) + "\n")


def _lasting(experiment: Experiment) -> Experiment:
    tracking = experiment.tracking
    if Path(tracking.folder).is_absolute():
        return experiment
    kept = str(Path.home() / HOME / tracking.folder)
    return experiment.model_copy(update={"tracking": tracking.model_copy(update={"folder": kept})})


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt
