"""Pictures to vectors with a frozen vision transformer, each picture encoded once in the life of the cache.

paths  ->  a key each, of the file's bytes and the model  ->  found in the cache, or encoded and kept  ->  (n, dim)
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .cache import EmbeddingStore, cache_folder
from .encoder import EncodeProgress, locate
from .errors import InputError
from .settings import EncoderSettings
from .threads import all_cores, torch_threads

GROUP = 32
"""Pictures encoded between two writes to the cache."""

_MODEL_FILES = (".json", ".safetensors")


class ImageEncoder:
    """Any vision model of `transformers`, mean-pooled over the last layer. Nothing is loaded until it is needed.

    Args:
        model: a folder, or a name on the Hugging Face hub.
        settings: whose cache is used.
    """

    def __init__(self, model: str, settings: EncoderSettings) -> None:
        self.model, self.settings = model, settings

    @cached_property
    def folder(self) -> Path:
        """Where the model's files are."""
        return locate(self.model, "agents.content.images")

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the model's files."""
        digest = hashlib.sha256(b"image, mean-pooled, normalised\0")
        for path in sorted(self.folder.iterdir()):
            if path.suffix in _MODEL_FILES:
                with path.open("rb") as file:
                    digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def encode(self, paths: Sequence[str], progress: EncodeProgress | None = None) -> NDArray[np.float32]:
        """Unit vectors `(n, dim)` of n picture files.

        Raises:
            InputError: a file is missing or is no picture, or the model or the cache cannot be used.
        """
        keys = {path: self._key(path) for path in dict.fromkeys(paths)}
        with EmbeddingStore(cache_folder(self.settings.cache) / "embeddings.sqlite") as store:
            vectors = store.read(list(keys.values()))
            missing = [path for path, key in keys.items() if key not in vectors]
            start = time.perf_counter()
            for done in range(0, len(missing), GROUP):
                group = missing[done : done + GROUP]
                with torch_threads(all_cores()):
                    encoded = self._embed(group)
                store.write([keys[path] for path in group], encoded)
                vectors.update((keys[path], vector) for path, vector in zip(group, encoded, strict=True))
                if progress:
                    progress(len(vectors), len(keys), (done + len(group)) / (time.perf_counter() - start))
        return np.stack([vectors[keys[path]] for path in paths])

    def _key(self, path: str) -> bytes:
        try:
            with open(path, "rb") as file:
                content = hashlib.file_digest(file, "sha256").digest()
        except OSError as error:
            raise InputError(
                f"{path}: the item's image cannot be read ({error.strerror}); correct image_path"
            ) from None
        return hashlib.sha256(self.fingerprint.encode() + content).digest()

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from transformers import AutoImageProcessor, AutoModel

        try:
            processor = AutoImageProcessor.from_pretrained(self.folder, trust_remote_code=False)
            model = AutoModel.from_pretrained(self.folder, trust_remote_code=False, use_safetensors=True)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise InputError(
                f"{self.folder}: cannot be loaded as an image encoder ({reason}); set agents.content.images"
            ) from None
        return processor, model.float().eval().to("cuda" if torch.cuda.is_available() else "cpu")

    def _embed(self, paths: Sequence[str]) -> NDArray[np.float32]:
        processor, model = self._loaded
        inputs = processor(images=[_open(path) for path in paths], return_tensors="pt").to(model.device)
        with torch.inference_mode():
            hidden = model(**inputs).last_hidden_state.cpu()
        # Convolutional models give (n, dim, height, width), transformers (n, patches, dim).
        pooled = hidden.flatten(2).mean(2) if hidden.dim() == 4 else hidden.mean(1)
        return torch.nn.functional.normalize(pooled, dim=1).numpy()


def _open(path: str) -> Any:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise InputError(f"{path}: the item's image cannot be read ({error}); correct image_path") from None
