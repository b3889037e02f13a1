"""Every way to fuse, side by side, judged on users of another kind.

    worlds x contestants x seeds  ->  cells, each in a file of its own, as many at once as there are cores
                                  ->  normalised scores with intervals over the seeds  ->  tables, pictures, MLflow

A cell that has its file is not run again, so the benchmark may be stopped and started as often as one likes. A cell is
a function of its experiment, the data, its contestant and its seed, and its file's name says all of them.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..platform.cache import write_whole
from ..platform.dataset import load_dataset
from ..platform.errors import ConcertError, InputError
from ..platform.experiment import load_experiment, override
from ..platform.settings import Experiment
from .fusion_cells import FIXED, TRAINED, Sizes, run_cell

Say = Callable[[str], None]

EDITION = 3
"""Raised when the code changes what a cell comes to, so that older cells are not taken for new ones."""

SEEDS, QUICK_SEEDS = 5, 2

QUICK = Sizes(sessions=512, looks=20, bandit=300)

QUICK_ITERATIONS = 40


@dataclass(frozen=True)
class Cell:
    """One run of the benchmark.

    Attributes:
        world: the experiment's name.
        contestant: `fixed`, or one of `TRAINED`.
        seed: of training and judging.
        key: hash of all that the figures depend on.
    """

    world: str
    contestant: str
    seed: int
    key: str

    def path(self, folder: Path) -> Path:
        return folder / self.world / f"{self.contestant}-{self.seed}-{self.key}.json"


@dataclass(frozen=True)
class Contest:
    """What is to be run.

    Attributes:
        experiments: by the world's name.
        seeds: how many.
        sizes: of every cell.
        folder: where the cells' files are.
    """

    experiments: dict[str, Experiment]
    seeds: int
    sizes: Sizes
    folder: Path

    def cells(self) -> Iterator[Cell]:
        """Seed by seed, so that a benchmark stopped early has whole seeds."""
        for name, experiment in self.experiments.items():
            key = _key(experiment, self.sizes)
            for seed in range(self.seeds):
                for contestant in (FIXED, *TRAINED):
                    yield Cell(name, contestant, seed, key)

    def found(self) -> dict[Cell, dict[str, Any]]:
        """The cells that are done."""
        return {
            cell: json.loads(path.read_text("utf-8"))
            for cell in self.cells()
            if (path := cell.path(self.folder)).exists()
        }


def contest_of(datasets: Sequence[str], words: Sequence[str], quick: bool, folder: Path) -> Contest:
    """The built-in world, and one for each of `datasets` as `EXPERIMENT=FOLDER`, such as `movielens=data/ml`.

    Args:
        datasets: left out where quick.
        words: `key=value` overrides of every experiment.
        quick: the built-in world, `QUICK_SEEDS` seeds, shorter training.
        folder: for the cells' files.

    Raises:
        InputError: an experiment or a dataset cannot be read.
    """
    experiments = {"builtin": load_experiment("builtin", words)}
    for pair in () if quick else datasets:
        name, equals, path = pair.partition("=")
        if not equals:
            raise InputError(f"--world {pair}: write EXPERIMENT=DATASET, such as movielens=data/ml")
        experiments[name] = load_experiment(name, [f"dataset={json.dumps(path)}", *words])
        load_dataset(path)
    if quick:
        shorter = override(experiments["builtin"], [f"train.iterations={QUICK_ITERATIONS}"])
        return Contest({"builtin": shorter}, QUICK_SEEDS, QUICK, folder)
    return Contest(experiments, SEEDS, Sizes(), folder)


def _key(experiment: Experiment, sizes: Sizes) -> str:
    played = experiment.model_dump(mode="json", exclude={"tracking", "cluster", "evaluate", "dataset"})
    played["agents"]["encoder"].pop("cache")
    data = load_dataset(experiment.dataset).digest if experiment.dataset else None
    parts = json.dumps([played, data, asdict(sizes), __version__, EDITION], sort_keys=True)
    return hashlib.sha256(parts.encode()).hexdigest()[:12]


def run(contest: Contest, workers: int | None = None, say: Say = lambda line: None) -> dict[Cell, dict[str, Any]]:
    """Runs the cells that have no file yet, and gives the figures of all.

    Args:
        contest: what to run.
        workers: cells at once; by default one a core.
        say: told, in a line, what is done.

    Raises:
        ConcertError: cells failed; the others have their files.
    """
    cells = list(contest.cells())
    waiting = [cell for cell in cells if not cell.path(contest.folder).exists()]
    say(f"{len(cells)} cells, {len(cells) - len(waiting)} of them done before")
    if not waiting:
        return contest.found()
    failed: list[str] = []
    # Fresh processes: Ray, torch and their threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers or os.cpu_count() or 1, mp_context=context) as pool:
        jobs = {pool.submit(_run, contest, cell): cell for cell in waiting}
        for number, job in enumerate(as_completed(jobs), start=1):
            cell = jobs[job]
            reason = job.exception()
            label = f"{cell.world} {cell.contestant} seed {cell.seed}"
            if reason is not None:
                failed.append(f"{label}: {reason}")
            ended = f"failed: {reason}" if reason else f"{job.result():.0f} s"
            say(f"{number} of {len(waiting)}: {label}, {ended}")
    if failed:
        raise ConcertError(
            f"{len(failed)} of {len(waiting)} cells failed, the first: {failed[0]}; start again to retry"
        )
    return contest.found()


def _run(contest: Contest, cell: Cell) -> float:
    """Runs a cell and writes its file; the seconds it took."""
    started = time.monotonic()
    found = run_cell(contest.experiments[cell.world], cell.contestant, cell.seed, contest.sizes)
    found["seconds"] = round(time.monotonic() - started, 1)
    path = cell.path(contest.folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(found).encode())
    return found["seconds"]
