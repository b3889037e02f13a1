"""What every way of teaching a transformer's last layers shares: the layers, batches of one length, rates, kept epochs.

Encoder  ->  LastLayers (a copy, the last layers free to learn)  --tokens, pooled-->  (b, dim)
         ->  keep / resume: what was learned, and the optimizer's moments as long as there is more to learn
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from .cache import write_whole
from .encoder import Encoder, load_model

FinetuneProgress = Callable[[int, int, float], None]
"""Called with texts read, texts to read in all epochs, and texts read a second."""

NEIGHBOURS = 32
"""Batches' worth of shuffled texts that are put in order of length, so that a batch is padded little."""


class LastLayers:
    """A copy of an encoder's model whose last layers learn; the others, and the vectors of the words, stay as they are.

    Attributes:
        tokenizer, model: as `load_model` gives them.
        learned: the parameters that learn, by the model's name of them.
    """

    def __init__(self, encoder: Encoder, layers: int, max_tokens: int) -> None:
        self.tokenizer, self.model = load_model(encoder.folder)
        encoder.teach(self.model)
        self._max_tokens = max_tokens
        blocks = max((part for part in self.model.modules() if isinstance(part, nn.ModuleList)), key=len)
        self.model.requires_grad_(False)
        for block in list(blocks)[-layers:]:
            block.requires_grad_(True)
        self.learned = {name: tensor for name, tensor in self.model.named_parameters() if tensor.requires_grad}

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """A row of token ids for each text, cut to the longest that is read."""
        readable = [text.encode("utf-8", "replace").decode() for text in texts]
        longest = getattr(self.model.config, "max_position_embeddings", None) or self._max_tokens
        longest = min(self._max_tokens, longest, self.tokenizer.model_max_length)
        return self.tokenizer(readable, truncation=True, max_length=longest)["input_ids"] if readable else []

    def pooled(self, tokens: Sequence[list[int]]) -> Tensor:
        """`(b, dim)` float32, the mean of the last layer over each row's own tokens, padded to the longest row."""
        device = self.model.device
        rows = [torch.tensor(row) for row in tokens]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.tokenizer.pad_token_id or 0)
        lengths = torch.tensor([len(row) for row in rows])
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=_native_bfloat16(device)):
            hidden = self.model(input_ids=ids.to(device), attention_mask=mask.long()).last_hidden_state
        return (hidden.float() * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)


class Counter:
    """What is reported every `every` texts: texts read so far, of all, and a second."""

    def __init__(self, total: int, done: int, every: int, progress: FinetuneProgress | None) -> None:
        self._total, self._done, self._read = total, done, 0
        self._every, self._progress = every, progress
        self._started = time.perf_counter()

    def add(self, texts: int) -> None:
        before, self._read = self._read, self._read + texts
        last = self._done + self._read == self._total
        if self._progress and (last or before // self._every != self._read // self._every):
            rate = self._read / (time.perf_counter() - self._started)
            self._progress(self._done + self._read, self._total, rate)


def batches_by_length(lengths: Sequence[int], size: int, seed: int) -> Iterator[NDArray[np.int64]]:
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


def rate_at(step: int, steps: int, warm_up: float) -> float:
    """Share of the highest rate at a step: up in a straight line, then down to nearly zero."""
    rising = max(1.0, warm_up * steps)
    return min((step + 1) / rising, (steps - step) / max(1.0, steps - rising))


def keep(path: Path, learned: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, epochs: int, last: bool) -> None:
    """Writes what was learned in so many epochs; with the optimizer's moments unless that was the last."""
    tensors = {f"learned.{name}": tensor for name, tensor in learned.items()}
    tensors["epochs"] = torch.tensor(epochs)
    if not last:
        moments: dict[int, dict[str, Tensor]] = optimizer.state_dict()["state"]
        tensors |= {f"moment.{place}.{name}": value for place, of in moments.items() for name, value in of.items()}
    write_whole(path, save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}))


def resume(path: Path, learned: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> int:
    """Puts back what the file holds and returns the epochs done: 0 where there is none, or one that is damaged."""
    try:
        tensors = load(path.read_bytes())
    except (FileNotFoundError, SafetensorError):
        return 0
    if any(f"learned.{name}" not in tensors for name in learned):
        return 0
    with torch.no_grad():
        for name, tensor in learned.items():
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
