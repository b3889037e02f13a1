"""A transformer's last layers, taught to tell two kinds of text apart.

    texts, labels  ->  tokens  ->  epochs of AdamW, each kept when it is done  ->  Classifier  ->  logits

The way of Devlin and others 2019 ("BERT", section 3.2) on the mean of the last layer: a linear head, a learning rate
that warms up and falls to zero. What was learned is kept under a hash of all that it depends on, so nothing is learned
twice, and a run that is killed goes on after its last whole epoch, to the same end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .cache import cache_folder
from .draws import derive
from .encoder import Encoder
from .last_layers import Counter, FinetuneProgress, LastLayers, batches_by_length, keep, rate_at, resume
from .threads import all_cores, torch_threads

REPORT = 20
"""Batches between two reports of progress."""

READ_AT_ONCE = 128
"""Texts in a batch that is only read."""

_METHOD = "finetune 1"


@dataclass(frozen=True)
class Recipe:
    """How it is learned.

    Attributes:
        layers: how many of the last layers learn; the others, and the vectors of the words, stay as they are.
        epochs: times that every text is read.
        learning_rate, head_rate: the highest of the layers and of the head.
        batch: texts a step.
        max_tokens: longer texts are cut.
        warm_up: share of the steps in which the rates rise.
        dropout: share of the pooled vector that the head does not see while it learns.
        weight_decay: of AdamW (Loshchilov and Hutter 2019).
        clip: longest gradient.
    """

    layers: int = 6
    epochs: int = 2
    learning_rate: float = 1e-4
    head_rate: float = 1e-3
    batch: int = 32
    max_tokens: int = 128
    warm_up: float = 0.1
    dropout: float = 0.1
    weight_decay: float = 0.01
    clip: float = 1.0


class Classifier:
    """An encoder with a linear head on its mean-pooled last layer. Nothing in it learns after `finetune`."""

    def __init__(self, encoder: Encoder, recipe: Recipe) -> None:
        self.recipe = recipe
        with torch.random.fork_rng():  # what weights start from is drawn, and then overwritten
            self.layers = LastLayers(encoder, recipe.layers, recipe.max_tokens)
            self.model = self.layers.model
            self.head = nn.Linear(self.model.config.hidden_size, 1).to(self.model.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.learned = self.layers.learned | {f"head.{name}": tensor for name, tensor in self.head.named_parameters()}

    def logits(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """`(n,)`, above 0 for texts of the kind that was labelled True."""
        tokens, found = self.layers.tokens(texts), np.empty(len(texts))
        order = np.argsort([len(row) for row in tokens], kind="stable")
        with torch_threads(all_cores()), torch.inference_mode():
            for start in range(0, len(order), READ_AT_ONCE):
                rows = order[start : start + READ_AT_ONCE]
                found[rows] = self.forward([tokens[row] for row in rows]).cpu().numpy()
        return found

    def forward(self, tokens: Sequence[list[int]]) -> Tensor:
        """`(b,)` float32 logits of token rows, padded to the longest of them."""
        pooled = self.layers.pooled(tokens)
        kept = nn.functional.dropout(pooled, self.recipe.dropout, training=self.model.training)
        return self.head(kept)[:, 0]


def finetune(
    encoder: Encoder,
    texts: Sequence[str],
    labels: NDArray[np.bool_],
    recipe: Recipe,
    seed: int,
    progress: FinetuneProgress | None = None,
) -> Classifier:
    """Teaches a copy of the encoder which of n texts are labelled True, `(n,)`; both kinds weigh the same together.

    Learned with every core of the CPU, or on the GPU: equal numbers on an equal machine. Kept in `finetuned` of the
    encoder's cache folder.

    Raises:
        InputError: the model or the cache cannot be used.
    """
    classifier = Classifier(encoder, recipe)
    path = cache_folder(encoder.settings.cache) / "finetuned" / f"{_key(encoder, texts, labels, recipe, seed)}.st"
    path.parent.mkdir(exist_ok=True)
    groups = [{"params": list(classifier.learned.values())[:-2], "lr": recipe.learning_rate}]
    groups.append({"params": list(classifier.head.parameters()), "lr": recipe.head_rate})
    optimizer = torch.optim.AdamW(groups, weight_decay=recipe.weight_decay)
    done = resume(path, classifier.learned, optimizer)
    counter = Counter(len(texts) * recipe.epochs, len(texts) * done, REPORT * recipe.batch, progress)
    tokens = classifier.layers.tokens(texts)
    for epoch in range(done, recipe.epochs):
        # Dropout draws from the global generator: it is seeded for each epoch, and as it was before afterwards.
        with torch_threads(all_cores()), torch.random.fork_rng():
            torch.manual_seed(derive(seed, epoch))
            _epoch(classifier, optimizer, tokens, labels, (seed, epoch), counter)
        keep(path, classifier.learned, optimizer, epoch + 1, epoch + 1 == recipe.epochs)
    return classifier


def _epoch(
    classifier: Classifier,
    optimizer: torch.optim.Optimizer,
    tokens: Sequence[list[int]],
    labels: NDArray[np.bool_],
    place: tuple[int, int],
    counter: Counter,
) -> None:
    """Reads every text once, in an order that depends on the seed and the epoch of `place` alone."""
    recipe, (seed, epoch) = classifier.recipe, place
    batches = list(batches_by_length([len(row) for row in tokens], recipe.batch, derive(seed, epoch)))
    device = classifier.model.device
    target = torch.from_numpy(labels.astype(np.float32))
    share = float(np.clip(labels.mean(), 1e-6, 1 - 1e-6))
    weight = torch.where(target > 0, 0.5 / share, 0.5 / (1 - share))
    peaks = (recipe.learning_rate, recipe.head_rate)
    classifier.model.train()
    for step, rows in enumerate(batches, epoch * len(batches)):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * rate_at(step, len(batches) * recipe.epochs, recipe.warm_up)
        logits = classifier.forward([tokens[row] for row in rows])
        chosen = torch.from_numpy(rows)
        loss = nn.functional.binary_cross_entropy_with_logits(
            logits, target[chosen].to(device), weight[chosen].to(device)
        )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(classifier.learned.values(), recipe.clip)
        optimizer.step()
        counter.add(len(rows))
    classifier.model.eval()


def _key(encoder: Encoder, texts: Sequence[str], labels: NDArray[np.bool_], recipe: Recipe, seed: int) -> str:
    digest = hashlib.sha256(f"{_METHOD}\0{encoder.fingerprint}\0{astuple(recipe)}\0{seed}\0".encode())
    for text, label in zip(texts, labels, strict=True):
        content = text.encode("utf-8", "replace")
        digest.update(len(content).to_bytes(8, "little") + content + bytes([bool(label)]))
    return digest.hexdigest()[:32]
