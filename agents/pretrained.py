"""What pretraining gives the towers: item vectors, and what an item in a history says of its user.

    logs, settings, seed  ->  key  ->  found in the cache, or learned: with rows held out, then on all  ->  Pretrained

A run that was killed goes on at the epoch where it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ..platform.cache import cache_folder, write_whole
from ..platform.encoder import EncodeProgress, Encoder
from ..platform.errors import InputError
from ..platform.logs import Logs
from ..platform.settings import PretrainSettings
from ..platform.split import split_by_time
from .pretrain import EpochProgress, Learned, learn, usable
from .pretrain_data import Known, Material, material
from .pretrain_model import RANKERS
from .pretrain_tasks import TASKS, Question
from .profiles import calibrated
from .tower import Tower

HELD_OUT = 0.2
"""Share of each user's interactions, the latest, that the number of epochs is chosen on."""

JUDGES = ("ranking", "masked", "click")
"""The task that chooses the epoch, the first of these that is learned, or else the first task."""

MAX_REVIEWS = 20_000
"""Reviews read, unless told otherwise."""


@dataclass(frozen=True)
class Pretrained:
    """What was learned of the items. An item that is dot product `inputs` away from another goes with it.

    Attributes:
        item_vectors: `(N, d)` float32, on the scale of the task that orders items.
        inputs: `(N, d)` float32, see `profiles.linear`.
        offsets: `(N,)` float32, an item's own part of a score: how sought after it is.
        low: scalar in (0, 1), what an interaction that was no like counts beside a like.
        facts: what it was learned from, in words.
    """

    item_vectors: Tensor
    inputs: Tensor
    offsets: Tensor
    low: Tensor
    facts: dict[str, str]


def pretrain(
    logs: Logs,
    settings: PretrainSettings,
    encoder: Encoder,
    seed: int,
    max_reviews: int = MAX_REVIEWS,
    encoding: EncodeProgress | None = None,
    progress: EpochProgress | None = None,
) -> Pretrained:
    """Learns from `logs`: pass the train part only. Equal logs, settings, encoder and seed give equal numbers.

    Raises:
        InputError: the logs hold nothing that any of `settings.tasks` could learn from.
    """
    key = _key(logs, settings, encoder, seed, max_reviews)
    folder = cache_folder(encoder.settings.cache) / "pretrained" / key[:32]
    try:
        return _load(folder / "pretrained.safetensors")
    except (OSError, SafetensorError, KeyError, ValueError):  # not there yet, or torn: it is made again
        folder.mkdir(parents=True, exist_ok=True)
    split = split_by_time(logs, validation=0, test=HELD_OUT, newcomers=0)
    reading = material(logs, split.train, encoder, max_reviews, encoding)
    held = torch.from_numpy(split.test)
    tasks = usable(reading, settings.tasks, held)
    if not tasks:
        raise InputError(
            f"agents.pretrain.tasks={','.join(settings.tasks)}: the logs have too few interactions for any of them; "
            "set agents.pretrain.use=false"
        )
    question = Question(reading, Known(reading, reading.fit), held)
    states = folder / "select.safetensors", folder / "all.safetensors"
    selected = learn(reading, settings, tasks, seed, question, states[0], progress)
    judge = next((task for task in JUDGES if task in tasks), tasks[0])
    epochs = selected.best[judge][0] + 1
    everything = material(logs, np.ones(len(logs), bool), encoder, max_reviews, encoding)
    until = {task: best + 1 + settings.patience for task, (best, _) in selected.best.items()}
    whole = settings.model_copy(update={"epochs": epochs})
    learned = learn(everything, whole, tasks, seed, None, states[1], progress, until)
    figure = f"{TASKS[judge].figure} {selected.figures[epochs - 1][judge]:.4f} on rows held out"
    facts = {"pretrained_on": ", ".join(tasks), "pretrained_for": f"{epochs} epochs: {judge}, {figure}"}
    found = replace(_taken(learned, everything, judge), facts=facts)
    _save(found, folder / "pretrained.safetensors")
    for state in states:
        state.unlink(missing_ok=True)
    return found


def pretrained_tower(name: str, pretrained: Pretrained, logs: Logs) -> Tower:
    """A tower of its own: likes add up their items' `inputs`, and the last column is what is common to all users."""
    unit = pretrained.item_vectors.square().sum(1).mean().sqrt().clamp_min(1e-6)
    offsets = (pretrained.offsets - pretrained.offsets.mean())[:, None]
    # The model weighs taste against an item's offset as W to sqrt(1 + W), `linear` as W to W: right for typical users.
    counts = torch.from_numpy(np.bincount(logs.users[logs.weights > 0], minlength=1)).double()
    share = ((1 + counts).sqrt().mean() / counts.mean().clamp_min(1)).float()
    extras = {
        "inputs": torch.cat([pretrained.inputs, share.expand(len(offsets), 1)], dim=1),
        "low": pretrained.low,
        "fade": torch.tensor(1.0),
    }
    vectors = torch.cat([pretrained.item_vectors, offsets], dim=1) / unit
    return calibrated(Tower(name, vectors, "linear", extras, pretrained.facts, common=1), logs)


def _taken(learned: Learned, reading: Material, judge: str) -> Pretrained:
    model = learned.model.eval()
    place = RANKERS.index(judge) if judge in RANKERS else 0
    with torch.no_grad():
        seen = model.see(reading, Known(reading, reading.fit))
        return Pretrained(
            item_vectors=(seen.vectors @ model.adapters[place].T).contiguous(),
            inputs=seen.inputs.contiguous(),
            offsets=seen.offsets[:, place].contiguous(),
            low=model.low.sigmoid().clone(),
            facts={},
        )


def _save(pretrained: Pretrained, file: Path) -> None:
    tensors = {name: value for name, value in vars(pretrained).items() if isinstance(value, Tensor)}
    facts = torch.frombuffer(bytearray(json.dumps(pretrained.facts).encode()), dtype=torch.uint8)
    write_whole(file, save({**tensors, "facts": facts}))


def _load(file: Path) -> Pretrained:
    tensors = load(file.read_bytes())
    facts = json.loads(bytes(tensors.pop("facts").tolist()))
    return Pretrained(**tensors, facts=facts)


def _key(logs: Logs, settings: PretrainSettings, encoder: Encoder, seed: int, max_reviews: int) -> str:
    """A hash of all that the numbers depend on: the input, the code that reads and learns, torch."""
    digest = hashlib.sha256()
    for part in _parts(logs, settings, encoder, seed, max_reviews):
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _parts(logs: Logs, settings: PretrainSettings, encoder: Encoder, seed: int, max_reviews: int) -> Iterable[bytes]:
    texts = (logs.user_ids, logs.item_ids, logs.item_titles, logs.item_texts, logs.item_attributes, logs.reviews)
    yield from (json.dumps(value).encode() for value in texts)
    yield from (value.tobytes() for value in (logs.users, logs.items, logs.timestamps, logs.ratings, logs.clicks))
    yield settings.model_dump_json(exclude={"use"}).encode()
    yield json.dumps([encoder.fingerprint, seed, max_reviews, torch.__version__]).encode()
    room = Path(__file__).parent
    code = [*sorted(room.glob("pretrain*.py")), room / "features.py", room / "reviews.py"]
    yield from (path.read_bytes() for path in code)
