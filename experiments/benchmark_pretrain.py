"""Joint pretraining against single tasks: the same model, rows and budget, one seed beside the other.

    dataset  ->  split by time  ->  for each seed: all tasks at once, and each task alone
             ->  each task's state with its best validation figure  ->  its test figure  ->  paired differences

Both arms choose a state for each task on the validation part alike; the test part is asked once, at the end. The
intervals are over the seeds, which draw the first weights and the batches: the split is one and the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..agents.pretrain import learn, usable
from ..agents.pretrain_data import Known, Material, material
from ..agents.pretrain_tasks import TASKS, Question
from ..platform.dataset import load_dataset
from ..platform.encoder import Encoder
from ..platform.errors import InputError
from ..platform.settings import AgentsSettings, PretrainSettings
from ..platform.split import split_by_time
from ..platform.statistics import Interval, interval

Say = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """One task. The intervals are of the test part, over the seeds, at 95 %.

    Attributes:
        task, figure: what was learned, and what it is judged by.
        joint, single: the figure learned with the other tasks, and alone.
        gain: joint over single, paired by seed, above 0 where joint is better (a lower RMSE too).
        validation_gain: the mean gain on the part that the states were chosen on.
    """

    task: str
    figure: str
    joint: Interval
    single: Interval
    gain: Interval
    validation_gain: float

    @property
    def verdict(self) -> str:
        """`better` or `worse` where the interval of the gain leaves out 0, else `no worse`."""
        return "better" if self.gain.low > 0 else "worse" if self.gain.high < 0 else "no worse"


@dataclass(frozen=True)
class Found:
    """What the comparison ends with.

    Attributes:
        rows: one a task.
        seeds: how many.
        settings: of the pretraining, for both arms.
        sizes: interactions to learn from, to choose on, and to judge by.
        seconds: that it took, on one thread.
    """

    rows: list[Row]
    seeds: int
    settings: dict[str, Any]
    sizes: dict[str, int]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        table = [
            {
                "task": row.task,
                "figure": row.figure,
                **{name: getattr(row, name)._asdict() for name in ("joint", "single", "gain")},
                "validation_gain": row.validation_gain,
                "verdict": row.verdict,
            }
            for row in self.rows
        ]
        return {
            "table": table,
            "seeds": self.seeds,
            "settings": self.settings,
            "sizes": self.sizes,
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class _Problem:
    material: Material
    validation: Question
    test: Question


def measure(dataset: Path, agents: AgentsSettings | None = None, seeds: int = 5, say: Say = lambda line: None) -> Found:
    """Learns `agents.pretrain.tasks` together and one by one, with each of `seeds` >= 2 seeds.

    Raises:
        InputError: the dataset cannot be read, or holds rows for fewer than two of the tasks.
    """
    started, agents = time.perf_counter(), agents or AgentsSettings()
    problem, settings = _problem(dataset, agents), agents.pretrain
    parts = [problem.material.fit, problem.validation.held, problem.test.held]
    tasks = usable(problem.material, usable(problem.material, settings.tasks, parts[1]), parts[2])
    if len(tasks) < 2:
        raise InputError(f"{dataset}: has rows for {', '.join(tasks) or 'none'} of the tasks; joint learning needs two")
    figures = []
    for seed in range(seeds):
        figures.append(_seed(problem, settings, tasks, seed))
        took = time.perf_counter() - started
        say(f"seed {seed + 1} of {seeds}, {took:.0f} s: {_line(tasks, figures[-1])}")
    names: tuple[str, ...] = ("train", "validation", "test")
    sizes = {name: int(part.sum()) for name, part in zip(names, parts, strict=True)}
    rows = [_row(task, [found[task] for found in figures]) for task in tasks]
    return Found(rows, seeds, settings.model_dump(), sizes, round(time.perf_counter() - started, 1))


def _problem(path: Path, agents: AgentsSettings) -> _Problem:
    dataset = load_dataset(path)
    split = split_by_time(dataset.logs())
    logs = replace(dataset.logs(), item_texts=dataset.train_logs(split).item_texts)
    reading = material(logs, split.train, Encoder(agents.encoder), agents.sentiment.max_reviews)
    validation, test = torch.from_numpy(split.validation), torch.from_numpy(split.test)
    earlier = Known(reading, reading.fit | validation)
    return _Problem(
        reading, Question(reading, Known(reading, reading.fit), validation), Question(reading, earlier, test)
    )


def _seed(
    problem: _Problem, settings: PretrainSettings, tasks: Sequence[str], seed: int
) -> dict[str, tuple[float, float, float, float]]:
    """By task: joint and single on the test part, joint and single on the validation part."""

    def learned(names: Sequence[str]) -> dict[str, tuple[float, float]]:
        found = learn(problem.material, settings, names, seed, problem.validation)
        return {name: (found.measured(name, problem.test), found.figures[found.best[name][0]][name]) for name in names}

    joint = learned(tasks)
    singles = {task: learned((task,))[task] for task in tasks}
    return {task: (joint[task][0], singles[task][0], joint[task][1], singles[task][1]) for task in tasks}


def _row(task: str, figures: Sequence[tuple[float, float, float, float]]) -> Row:
    sign = TASKS[task].sign
    joint, single, chosen_joint, chosen_single = zip(*figures, strict=True)
    gains = [sign * (ours - theirs) for ours, theirs in zip(joint, single, strict=True)]
    chosen = sum(sign * (ours - theirs) for ours, theirs in zip(chosen_joint, chosen_single, strict=True))
    return Row(
        task, TASKS[task].figure, interval(joint), interval(single), interval(gains), round(chosen / len(figures), 6)
    )


def _line(tasks: Sequence[str], figures: dict[str, tuple[float, float, float, float]]) -> str:
    return ", ".join(f"{task} {figures[task][0]:.4f} ({figures[task][1]:.4f} alone)" for task in tasks)


def report(found: Found) -> str:
    """The result as a person reads it."""
    sizes = ", ".join(f"{name} {size:,}" for name, size in found.sizes.items())
    lines = [
        f"means over {found.seeds} seeds, 95 % intervals; interactions: {sizes}; {found.seconds:.0f} s",
        "",
        f"{'task':10}{'figure':11}{'joint':>26}{'single':>26}{'gain of joint':>28}",
    ]
    for row in found.rows:
        cells = f"{_cell(row.joint):>26}{_cell(row.single):>26}{_cell(row.gain, '+'):>28}"
        lines.append(f"{row.task:10}{row.figure:11}{cells}  {row.verdict}")
    return "\n".join(lines)


def _cell(found: Interval, sign: str = "") -> str:
    return f"{found.mean:{sign}.4f} [{found.low:{sign}.4f}, {found.high:{sign}.4f}]"
