"""Pretraining: one model learns several tasks at once, and gives the towers their item vectors.

    Logs  ->  Material, Question (the latest of each user, held out)  ->  learn, an epoch at a time:
        rows of every task  ->  losses (K,)  ->  Balance.total  ->  step;  the held out rows  ->  figures
    ->  the best state of each task  ->  learned again on all rows for as many epochs  ->  Pretrained

A state is kept after every epoch, so that a run that was killed goes on where it was, to the same bits.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..platform.cache import write_whole
from ..platform.errors import InputError
from ..platform.settings import PretrainSettings
from ..platform.threads import torch_threads
from .pretrain_balance import Balance
from .pretrain_data import Known, Material
from .pretrain_model import Model
from .pretrain_tasks import TASKS, Question

Figures = dict[str, float]
"""A task's measure by its name."""

EpochProgress = Callable[[int, Figures], None]
"""Called with the epochs done and the latest figures."""


@dataclass
class Learned:
    """What `learn` ends with, and what it keeps on the way.

    Attributes:
        model: after the last epoch.
        figures: of the held out rows, one an epoch, of the tasks that were still learned.
        best: each task's epoch, from 0, with the best figure, and the model's state then.
    """

    model: Model
    figures: list[Figures] = field(default_factory=list)
    best: dict[str, tuple[int, dict[str, Tensor]]] = field(default_factory=dict)

    def measured(self, task: str, question: Question) -> float:
        """The task's measure of its best model."""
        if task in self.best:
            self.model.load_state_dict(self.best[task][1])
        return measure(self.model, (task,), question)[task]


def measure(model: Model, tasks: Sequence[str], question: Question) -> Figures:
    """The tasks' figures, see `TASKS`. The model is asked, not trained."""
    model.eval()
    with torch.no_grad(), torch_threads(1):
        return {task: TASKS[task].measure(model, question) for task in tasks}


def usable(material: Material, tasks: Sequence[str], held: Tensor | None = None) -> tuple[str, ...]:
    """Those of the tasks that the material has rows for, to learn from and (if given) among `held` `(n,)` bool."""
    parts = [material.fit, *([] if held is None else [held])]
    return tuple(
        task for task in tasks if all(TASKS[task].enough(material, part & TASKS[task].rows(material)) for part in parts)
    )


def learn(
    material: Material,
    settings: PretrainSettings,
    tasks: Sequence[str],
    seed: int,
    question: Question | None = None,
    file: Path | None = None,
    progress: EpochProgress | None = None,
    until: Mapping[str, int] | None = None,
) -> Learned:
    """Trains on the fit rows, each task until its figure of `question` gets no better; without one, `until` it says.

    A task that has stopped would go on to fit its rows by heart, in the trunk that the others still learn from. A
    task's batches depend on the seed, the task and the epoch alone, not on what is learned beside it.

    Args:
        until: the epochs of each task, where there is no question; else all of them.
        file: where the state is kept after each epoch, and found again.
    """
    with torch_threads(1), torch.random.fork_rng(devices=[]):
        torch.manual_seed(_seed(seed, "first"))
        training = _Training(material, settings, tasks, seed, until)
        training.restore(file)
        while training.active():
            active = training.active()
            training.epoch(active)
            if question:
                training.judge(active, question)
            training.keep(file)
            if progress:
                progress(training.epochs, training.learned.figures[-1] if question else {})
    return training.learned


class _Training:
    """A model on its way."""

    def __init__(
        self,
        material: Material,
        settings: PretrainSettings,
        tasks: Sequence[str],
        seed: int,
        until: Mapping[str, int] | None,
    ) -> None:
        self.until = until or {}
        self.material, self.settings, self.tasks, self.seed = material, settings, tuple(tasks), seed
        self.known, self.epochs = Known(material, material.fit), 0
        sizes = (material.num_items, material.text.shape[1], settings.factors)
        self.learned = Learned(Model(*sizes, settings.dropout, settings.forget))
        self.balance = Balance(settings.balance, [getattr(settings.weights, task) for task in tasks])
        parameters = [*self.learned.model.parameters(), self.balance.log_weights]
        self.optimizer = torch.optim.AdamW(
            [{"params": parameters[:-1]}, {"params": parameters[-1:], "weight_decay": 0.0}],
            lr=settings.learning_rate,
            weight_decay=settings.l2,
        )
        self.rows = {task: torch.nonzero(material.fit & TASKS[task].rows(material))[:, 0] for task in self.tasks}

    def epoch(self, active: Sequence[str]) -> None:
        settings, model, size = self.settings, self.learned.model, self.material.num_items
        places = [self.tasks.index(task) for task in active]
        torch.manual_seed(_seed(self.seed, "epoch", self.epochs))
        draws = {task: np.random.default_rng([self.seed, *task.encode(), self.epochs]) for task in self.tasks}
        catalog = np.random.default_rng([self.seed, *b"negatives", self.epochs])
        model.train()
        for _ in range(settings.steps):
            seen = model.see(self.material, self.known)
            negatives = torch.from_numpy(catalog.permutation(size)[: settings.negatives])
            losses = []
            for task in active:
                rows = self.rows[task]
                batch = rows[torch.from_numpy(draws[task].integers(0, len(rows), settings.batch))]
                losses.append(TASKS[task].loss(model, self.material, seen, batch, negatives))
            self.optimizer.zero_grad()
            self.balance.total(torch.stack(losses), places, model.trunk.last.weight).backward()
            self.optimizer.step()
        self.epochs += 1

    def judge(self, tasks: Sequence[str], question: Question) -> None:
        learned = self.learned
        learned.figures.append(measure(learned.model, tasks, question))
        for task, figure in learned.figures[-1].items():
            sign, best = TASKS[task].sign, learned.best.get(task)
            if best is None or sign * figure > sign * learned.figures[best[0]][task]:
                state = {name: tensor.clone() for name, tensor in learned.model.state_dict().items()}
                learned.best[task] = (self.epochs - 1, state)

    def active(self) -> tuple[str, ...]:
        """The tasks that are still learned."""
        if self.epochs >= self.settings.epochs:
            return ()
        best, patience = self.learned.best, self.settings.patience
        gaining = (task for task in self.tasks if task not in best or self.epochs - best[task][0] <= patience)
        return tuple(task for task in gaining if self.epochs < self.until.get(task, self.settings.epochs))

    def keep(self, file: Path | None) -> None:
        if file is None:
            return
        tensors = {f"model.{name}": tensor for name, tensor in self.learned.model.state_dict().items()}
        tensors |= {f"balance.{name}": tensor for name, tensor in self.balance.state_dict().items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in state.items()}
        for task, (_, state) in self.learned.best.items():
            tensors |= {f"best.{task}.{name}": tensor for name, tensor in state.items()}
        told = {
            "epochs": self.epochs,
            "figures": self.learned.figures,
            "best": {task: epoch for task, (epoch, _) in self.learned.best.items()},
        }
        copies = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, save(copies, {"training": json.dumps(told)}))

    def restore(self, file: Path | None) -> None:
        """Goes on from `file`, if it is there. The caller's name for it says what it was trained on."""
        if file is None or not file.is_file():
            return
        try:
            with safe_open(file, "pt") as kept:
                told = json.loads(kept.metadata()["training"])
                tensors = {name: kept.get_tensor(name) for name in kept.keys()}  # noqa: SIM118 (no mapping)
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(f"{file}: damaged ({error}); delete this file, it is made again") from None
        self.learned.model.load_state_dict(_under(tensors, "model."))
        self.balance.load_state_dict(_under(tensors, "balance."))
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _under(tensors, "optimizer.").items():
            number, _, part = name.partition(".")
            state.setdefault(int(number), {})[part] = tensor
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        self.epochs, self.learned.figures = told["epochs"], told["figures"]
        self.learned.best = {task: (epoch, _under(tensors, f"best.{task}.")) for task, epoch in told["best"].items()}


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _seed(seed: int, *parts: str | int) -> int:
    """A seed for torch of a seed and what it is for."""
    words = [word for part in parts for word in (part.encode() if isinstance(part, str) else [part])]
    return int(np.random.SeedSequence([seed, *words]).generate_state(1, np.uint64)[0] >> 1)
