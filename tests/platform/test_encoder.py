from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from concertrl.platform.cache import EmbeddingStore, cache_folder, write_whole
from concertrl.platform.encoder import Encoder
from concertrl.platform.errors import InputError
from concertrl.platform.settings import EncoderSettings

TEXTS = [
    "A warm, full sound.",
    "It broke after a week!",
    "sci-fi",
    "",
    "Space opera with robots and a love story. " * 9,
]


def encoder(folder: Path, **settings: object) -> Encoder:
    return Encoder(EncoderSettings.model_validate({"cache": str(folder), **settings}))


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    folder = tmp_path_factory.mktemp("cache")
    return folder, encoder(folder).encode(TEXTS)


def test_vectors_are_unit_rows_in_the_order_of_the_texts(warm: tuple[Path, np.ndarray]) -> None:
    folder, vectors = warm
    assert vectors.shape == (5, 384) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    again = encoder(folder).encode([TEXTS[3], TEXTS[0], TEXTS[3]])
    np.testing.assert_array_equal(again, vectors[[3, 0, 3]])


def test_meaning_is_near(tmp_path: Path) -> None:
    film, near, far = encoder(tmp_path).encode(
        ["a science fiction film", "a movie about space ships", "a guitar cable"]
    )
    assert film @ near > film @ far + 0.2


def test_equals_mean_pooling_of_the_model_by_hand(warm: tuple[Path, np.ndarray]) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = encoder(warm[0]).folder
    tokens = AutoTokenizer.from_pretrained(folder)(TEXTS[0], return_tensors="pt")
    with torch.inference_mode():
        hidden = AutoModel.from_pretrained(folder)(**tokens).last_hidden_state[0].mean(0)
    np.testing.assert_allclose(warm[1][0], (hidden / hidden.norm()).numpy(), atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_neighbours_and_batches_change_nothing(tmp_path: Path, warm: tuple[Path, np.ndarray], batch_size: int) -> None:
    fresh = encoder(tmp_path, batch_size=batch_size)
    rows = [fresh.encode([text])[0] for text in TEXTS[:2]] + list(fresh.encode(TEXTS[2:]))
    # To the last bit on some processors; on others a product's rounding depends on how many rows it has.
    np.testing.assert_allclose(np.stack(rows), warm[1], atol=1e-6)


def test_a_warm_cache_loads_no_model(warm: tuple[Path, np.ndarray]) -> None:
    code = (
        "import sys; from concertrl.platform.encoder import Encoder; "
        "from concertrl.platform.settings import EncoderSettings as S; "
        f"v = Encoder(S(cache={str(warm[0])!r})).encode({TEXTS!r}); "
        "print(v.shape, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(5, 384) False"


def test_nothing_is_encoded_twice_and_progress_counts_distinct_texts(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    subject = encoder(tmp_path)
    subject.encode(["one", "two", "one"], lambda done, total, rate: calls.append((done, total)))
    assert calls == [(2, 2)]
    subject.encode(["one", "two", "three"], lambda done, total, rate: calls.append((done, total)))
    assert calls[1:] == [(3, 3)]
    subject.encode(["three"], lambda done, total, rate: calls.append((done, total)))
    assert len(calls) == 2


def test_the_cut_is_part_of_the_key(tmp_path: Path) -> None:
    long = TEXTS[-1]
    short, full = encoder(tmp_path, max_tokens=8).encode([long]), encoder(tmp_path, max_tokens=64).encode([long])
    assert np.abs(short - full).max() > 1e-3
    np.testing.assert_array_equal(encoder(tmp_path, max_tokens=8).encode([long]), short)


def test_more_tokens_than_the_model_can_read_are_cut(tmp_path: Path) -> None:
    assert np.isfinite(encoder(tmp_path, max_tokens=100_000).encode(["word " * 600])).all()


def test_broken_unicode_is_encoded(tmp_path: Path) -> None:
    assert np.isfinite(encoder(tmp_path).encode(["half a pair \ud800", "nul \0 byte"])).all()


def test_no_texts(tmp_path: Path) -> None:
    assert encoder(tmp_path).encode([]).shape == (0, 384)


WRITER = """
import sys
from pathlib import Path
import numpy as np
from concertrl.platform.cache import EmbeddingStore

path, name, batches = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
with EmbeddingStore(path) as store:
    for batch in range(batches):
        keys = [f"{name}-{batch}-{row}".encode() for row in range(512)]
        store.write(keys, np.full((512, 384), batch, np.float32))
        path.with_suffix(".ready").touch()
"""


def write(path: Path, name: str, batches: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", WRITER, str(path), name, str(batches)])


def test_a_killed_writer_leaves_whole_groups(tmp_path: Path) -> None:
    path = tmp_path / "embeddings.sqlite"
    with write(path, "a", 100_000) as writer:
        while not path.with_suffix(".ready").exists() and writer.poll() is None:
            time.sleep(0.01)
        writer.kill()
    with EmbeddingStore(path) as store:
        groups = 0
        while found := store.read([f"a-{groups}-{row}".encode() for row in range(512)]):
            assert len(found) == 512
            assert all((vector == groups).all() and vector.shape == (384,) for vector in found.values())
            groups += 1
        store.write([b"after"], np.ones((1, 384), np.float32))
    assert groups >= 1


def test_two_processes_share_a_cache(tmp_path: Path) -> None:
    path = tmp_path / "embeddings.sqlite"
    with write(path, "a", 12) as first, write(path, "b", 12) as second:
        assert (first.wait(), second.wait()) == (0, 0)
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT COUNT(*) FROM embeddings").fetchone() == (2 * 12 * 512,)
    database.close()


def test_a_key_that_is_there_stays(tmp_path: Path) -> None:
    with EmbeddingStore(tmp_path / "x.sqlite") as store:
        store.write([b"k"], np.zeros((1, 4), np.float32))
        store.write([b"k"], np.ones((1, 4), np.float32))
        np.testing.assert_array_equal(store.read([b"k", b"absent"])[b"k"], np.zeros(4))


def test_a_damaged_cache_says_which_file_to_delete(tmp_path: Path) -> None:
    path = tmp_path / "embeddings.sqlite"
    path.write_bytes(b"not a database at all, " * 100)
    with pytest.raises(InputError, match=r"embeddings\.sqlite: the cache is damaged .* delete this file") as caught:
        encoder(tmp_path).encode(["text"])
    assert "\n" not in str(caught.value)


def test_a_cache_that_cannot_be_made_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot be used as a cache .*agents\.encoder\.cache"):
        cache_folder(str(tmp_path / "file" / "cache"))


def test_the_default_cache_follows_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "concertrl"


def test_write_whole_leaves_the_old_file_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["no/such-model", "no such model!", "a/b/c"])
def test_an_unknown_model_is_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"no such folder.*packaged: all-MiniLM-L6-v2") as caught:
        encoder(tmp_path, model=name).encode(["text"])
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no config\.json"):
        encoder(tmp_path, model=str(tmp_path)).encode(["text"])


@pytest.mark.parametrize("config", ["{}", "not json", '{"model_type": "bert"}', '{"model_type": "nonsense"}'])
def test_a_folder_that_is_no_text_encoder(tmp_path: Path, config: str) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(InputError, match=r"agents\.encoder\.model") as caught:
        encoder(tmp_path, model=str(tmp_path)).encode(["text"])
    assert "\n" not in str(caught.value)


def test_pickled_weights_are_refused(tmp_path: Path, warm: tuple[Path, np.ndarray]) -> None:
    import torch

    for path in encoder(warm[0]).folder.iterdir():
        if path.is_file() and path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="cannot be loaded as a text encoder"):
        encoder(tmp_path, model=str(tmp_path)).encode(["text"])
