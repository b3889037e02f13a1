"""A transformer's last layers, taught to tell two kinds of text apart.

    texts, labels  ->  tokens  ->  epochs of AdamW, each kept when it is done  ->  Classifier  ->  logits

The way of Devlin and others 2019 ("BERT", section 3.2) on the mean of the last layer: a linear head, a learning rate
that warms up and falls to zero. What was learned is kept under a hash of all that it depends on, so nothing is learned
twice, and a run that is killed goes on after its last whole epoch, to the same end.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from .cache import cache_folder, write_whole
from .draws import derive
from .encoder import Encoder, load_model
from .threads import all_cores, torch_threads

FinetuneProgress = Callable[[int, int, float], None]
"""Called with texts read, texts to read in all epochs, and texts read a second."""

NEIGHBOURS = 32
"""Batches' worth of shuffled texts that are put in order of length, so that a batch is padded little."""

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
            self.tokenizer, self.model = load_model(encoder.folder)
            self.head = nn.Linear(self.model.config.hidden_size, 1).to(self.model.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        blocks = max((part for part in self.model.modules() if isinstance(part, nn.ModuleList)), key=len)
        self.model.requires_grad_(False)
        for block in list(blocks)[-recipe.layers :]:
            block.requires_grad_(True)
        self.learned = {name: tensor for name, tensor in self.model.named_parameters() if tensor.requires_grad}
        self.learned |= {f"head.{name}": tensor for name, tensor in self.head.named_parameters()}

    def logits(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """`(n,)`, above 0 for texts of the kind that was labelled True."""
        tokens, found = self.tokens(texts), np.empty(len(texts))
        order = np.argsort([len(row) for row in tokens], kind="stable")
        with torch_threads(all_cores()), torch.inference_mode():
            for start in range(0, len(order), READ_AT_ONCE):
                rows = order[start : start + READ_AT_ONCE]
                found[rows] = self.forward([tokens[row] for row in rows]).cpu().numpy()
        return found

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        readable = [text.encode("utf-8", "replace").decode() for text in texts]
        longest = getattr(self.model.config, "max_position_embeddings", None) or self.recipe.max_tokens
        longest = min(self.recipe.max_tokens, longest, self.tokenizer.model_max_length)
        return self.tokenizer(readable, truncation=True, max_length=longest)["input_ids"] if readable else []

    def forward(self, tokens: Sequence[list[int]]) -> Tensor:
        """`(b,)` float32 logits of token rows, padded to the longest of them."""
        device = self.model.device
        rows = [torch.tensor(row) for row in tokens]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.tokenizer.pad_token_id or 0)
        lengths = torch.tensor([len(row) for row in rows])
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=_native_bfloat16(device)):
            hidden = self.model(input_ids=ids.to(device), attention_mask=mask.long()).last_hidden_state
        pooled = (hidden.float() * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
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
    done = _resume(path, classifier, optimizer)
    counter = _Counter(len(texts), recipe, done, progress)
    tokens = classifier.tokens(texts)
    for epoch in range(done, recipe.epochs):
        # Dropout draws from the global generator: it is seeded for each epoch, and as it was before afterwards.
        with torch_threads(all_cores()), torch.random.fork_rng():
            torch.manual_seed(derive(seed, epoch))
            _epoch(classifier, optimizer, tokens, labels, (seed, epoch), counter)
        _keep(path, classifier, optimizer, epoch + 1)
    return classifier


class _Counter:
    """What is reported: texts read so far, of all, and a second."""

    def __init__(self, texts: int, recipe: Recipe, epochs_done: int, progress: FinetuneProgress | None) -> None:
        self._total, self._done, self._read = texts * recipe.epochs, texts * epochs_done, 0
        self._every, self._progress = REPORT * recipe.batch, progress
        self._started = time.perf_counter()

    def add(self, texts: int) -> None:
        before, self._read = self._read, self._read + texts
        last = self._done + self._read == self._total
        if self._progress and (last or before // self._every != self._read // self._every):
            rate = self._read / (time.perf_counter() - self._started)
            self._progress(self._done + self._read, self._total, rate)


def _epoch(
    classifier: Classifier,
    optimizer: torch.optim.Optimizer,
    tokens: Sequence[list[int]],
    labels: NDArray[np.bool_],
    place: tuple[int, int],
    counter: _Counter,
) -> None:
    """Reads every text once, in an order that depends on the seed and the epoch of `place` alone."""
    recipe, (seed, epoch) = classifier.recipe, place
    batches = list(_batches([len(row) for row in tokens], recipe.batch, derive(seed, epoch)))
    device = classifier.model.device
    target = torch.from_numpy(labels.astype(np.float32))
    share = float(np.clip(labels.mean(), 1e-6, 1 - 1e-6))
    weight = torch.where(target > 0, 0.5 / share, 0.5 / (1 - share))
    peaks = (recipe.learning_rate, recipe.head_rate)
    classifier.model.train()
    for step, rows in enumerate(batches, epoch * len(batches)):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * _rate(step, len(batches) * recipe.epochs, recipe.warm_up)
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


def _batches(lengths: Sequence[int], size: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """All rows once, in shuffled batches of texts of nearly one length."""
    draw, lengths_of = np.random.default_rng(seed), np.asarray(lengths)
    order = draw.permutation(len(lengths_of))
    sorted_runs = [
        run[np.argsort(lengths_of[run], kind="stable")]
        for run in np.split(order, range(size * NEIGHBOURS, len(order), size * NEIGHBOURS))
    ]
    batches = [run[start : start + size] for run in sorted_runs for start in range(0, len(run), size)]
    for place in draw.permutation(len(batches)):
        yield batches[place]


def _rate(step: int, steps: int, warm_up: float) -> float:
    """Share of the highest rate at a step: up in a straight line, then down to nearly zero."""
    rising = max(1.0, warm_up * steps)
    return min((step + 1) / rising, (steps - step) / max(1.0, steps - rising))


def _key(encoder: Encoder, texts: Sequence[str], labels: NDArray[np.bool_], recipe: Recipe, seed: int) -> str:
    digest = hashlib.sha256(f"{_METHOD}\0{encoder.fingerprint}\0{astuple(recipe)}\0{seed}\0".encode())
    for text, label in zip(texts, labels, strict=True):
        content = text.encode("utf-8", "replace")
        digest.update(len(content).to_bytes(8, "little") + content + bytes([bool(label)]))
    return digest.hexdigest()[:32]


def _keep(path: Path, classifier: Classifier, optimizer: torch.optim.Optimizer, epochs: int) -> None:
    """Writes what was learned; with the optimizer's moments as long as there is more to learn."""
    tensors = {f"learned.{name}": tensor for name, tensor in classifier.learned.items()}
    tensors["epochs"] = torch.tensor(epochs)
    if epochs < classifier.recipe.epochs:
        moments: dict[int, dict[str, Tensor]] = optimizer.state_dict()["state"]
        tensors |= {f"moment.{place}.{name}": value for place, of in moments.items() for name, value in of.items()}
    write_whole(path, save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}))


def _resume(path: Path, classifier: Classifier, optimizer: torch.optim.Optimizer) -> int:
    """Puts back what the file holds and returns the epochs done: 0 where there is none, or one that is damaged."""
    try:
        tensors = load(path.read_bytes())
    except (FileNotFoundError, SafetensorError):
        return 0
    if any(f"learned.{name}" not in tensors for name in classifier.learned):
        return 0
    with torch.no_grad():
        for name, tensor in classifier.learned.items():
            tensor.copy_(tensors[f"learned.{name}"])
    moments: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "moment":
            place, _, of = rest.partition(".")
            moments.setdefault(int(place), {})[of] = tensor
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(tensors["epochs"])


def _native_bfloat16(device: torch.device) -> bool:
    """Whether half the bits are faster there; on a processor without such instructions they are slower."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    able = getattr(torch.cpu, "get_capabilities", dict)()  # torch before 2.10 cannot say
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
