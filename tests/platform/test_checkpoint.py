"""Checkpoints: whole or not at all, nothing executable, the last good one always there."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from concertrl.platform import checkpoint as module
from concertrl.platform.checkpoint import (
    MANIFEST,
    TENSORS,
    WORDS,
    Checkpoint,
    checkpoint_name,
    checkpoints,
    latest_good,
    prune,
    read_checkpoint,
    write_checkpoint,
)
from concertrl.platform.checkpoint_settings import CheckpointSettings
from concertrl.platform.errors import InputError


class Bomb:
    """A pickle that leaves a trace where it is read."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


def made(number: int = 1, **about: float) -> Checkpoint:
    tensors = {"a/b": torch.arange(6.0).view(2, 3) + number, "c": torch.tensor(number), "seen": torch.ones(3).bool()}
    return Checkpoint(tensors, {"iteration": number, "more": {"looks": [1.5, 0.1]}}, about)


def signed(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Changes the manifest and hashes it anew, as one with ill intent would."""
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    manifest.pop("check")
    check = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (folder / MANIFEST).write_text(json.dumps({**manifest, "check": check}))


def replaced(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    signed(folder, lambda manifest: manifest["files"].update({name: entry}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "run" / checkpoint_name(1), made())
    return tmp_path / "run" / checkpoint_name(1)


def test_what_is_written_is_read(folder: Path) -> None:
    kept, wanted = read_checkpoint(folder), made()
    assert kept.words == wanted.words and kept.about == {}
    assert set(kept.tensors) == set(wanted.tensors)
    for name, value in wanted.tensors.items():
        assert torch.equal(kept.tensors[name], value) and kept.tensors[name].dtype == value.dtype
    write_checkpoint(folder, made(2, score=1.0))
    assert read_checkpoint(folder).words["iteration"] == 2 and read_checkpoint(folder).about == {"score": 1.0}
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name]


@pytest.mark.parametrize("name", [TENSORS, WORDS, MANIFEST])
@pytest.mark.parametrize("damage", [lambda whole: whole[:-7], lambda whole: whole[:9] + b"0" + whole[10:], None])
def test_a_torn_or_changed_file_is_refused(folder: Path, name: str, damage: Callable[[bytes], bytes] | None) -> None:
    if damage is None:
        (folder / name).unlink()
    else:
        changed = damage((folder / name).read_bytes())
        assert changed != (folder / name).read_bytes()
        (folder / name).write_bytes(changed)
    with pytest.raises(InputError, match=r"checkpoint") as told:
        read_checkpoint(folder)
    assert str(folder) in str(told.value) and "\n" not in str(told.value)


def test_a_manifest_with_a_wrong_hash_is_refused(folder: Path) -> None:
    signed(folder, lambda manifest: manifest["files"][TENSORS].update(sha256="0" * 64))
    with pytest.raises(InputError, match=r"tensors.safetensors: damaged, not the bytes that were written"):
        read_checkpoint(folder)


def test_no_pickle_is_read(folder: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    bomb = pickle.dumps(Bomb(trace))
    (folder / "state.pkl").write_bytes(bomb)
    with pytest.raises(InputError, match=r"state.pkl: a checkpoint holds no such file, and it is not read"):
        read_checkpoint(folder)
    (folder / "state.pkl").unlink()
    for name in (TENSORS, WORDS):
        whole = (folder / name).read_bytes()
        replaced(folder, name, bomb)
        with pytest.raises(InputError, match=r"no safetensors|no checkpoint that can be read"):
            read_checkpoint(folder)
        replaced(folder, name, whole)
    read_checkpoint(folder)
    assert not trace.exists()
    pickle.loads(bomb)  # the bomb is one
    assert trace.exists()


def test_nothing_outside_the_folder_is_read(folder: Path, tmp_path: Path) -> None:
    signed(folder, lambda manifest: manifest["files"].update({"../secret": manifest["files"][WORDS]}))
    with pytest.raises(InputError, match=r"names '\.\./secret', which is no file of a checkpoint"):
        read_checkpoint(folder)
    signed(folder, lambda manifest: manifest["files"].pop("../secret"))
    (folder / WORDS).rename(tmp_path / "elsewhere.json")
    (folder / WORDS).symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(InputError, match="a checkpoint holds no links"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    "change", [{"about": []}, {"files": None}, {"files": {TENSORS: 1, WORDS: {}}}, {"format": None}]
)
def test_a_manifest_of_another_shape_is_refused(folder: Path, change: dict[str, Any]) -> None:
    signed(folder, lambda manifest: manifest.update(change))
    with pytest.raises(InputError, match=r"not the manifest of|no checkpoint that can be read|format None is not 1"):
        read_checkpoint(folder)
    prune(folder.parent, CheckpointSettings())
    assert folder.exists()


def test_a_state_that_is_no_mapping_is_refused(folder: Path) -> None:
    replaced(folder, WORDS, b"[]")
    with pytest.raises(InputError, match=r"state\.json is no mapping"):
        read_checkpoint(folder)


def test_another_format_is_told(folder: Path) -> None:
    signed(folder, lambda manifest: manifest.update(format=9))
    with pytest.raises(InputError, match="format 9 is not 1"):
        read_checkpoint(folder)


def test_a_full_disk_leaves_nothing_behind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(folder.with_name(checkpoint_name(2)), made(2))
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_the_latest_good_one_is_found_and_the_others_are_told(folder: Path) -> None:
    home, lines = folder.parent, []
    for number in (2, 3):
        write_checkpoint(home / checkpoint_name(number), made(number))
    (home / checkpoint_name(3) / WORDS).write_bytes(b"{}")
    found = latest_good(home, lines.append)
    assert found is not None and found[0].name == checkpoint_name(2) and found[1].words["iteration"] == 2
    assert len(lines) == 1 and checkpoint_name(3) in lines[0]
    assert latest_good(home / "nowhere") is None


def test_the_policy_keeps_the_last_the_best_and_every_so_many(tmp_path: Path) -> None:
    for number in range(9):
        write_checkpoint(tmp_path / checkpoint_name(number), made(number, score=-abs(number - 5.0)))
    (tmp_path / f".{checkpoint_name(4)}.torn").mkdir()
    prune(tmp_path, CheckpointSettings(keep_last=2, keep_best=1, keep_every=3))
    assert [path.name for path in checkpoints(tmp_path)] == [checkpoint_name(number) for number in (8, 7, 6, 5, 3)]
    assert not list(tmp_path.glob(".*"))
    prune(tmp_path, CheckpointSettings(keep_last=1, keep_best=0, keep_every=0))
    assert [path.name for path in checkpoints(tmp_path)] == [checkpoint_name(8)]


def test_the_last_good_one_is_never_removed(tmp_path: Path) -> None:
    for number in range(5):
        write_checkpoint(tmp_path / checkpoint_name(number), made(number))
    for number in (3, 4):
        (tmp_path / checkpoint_name(number) / TENSORS).write_bytes(b"torn")
    prune(tmp_path, CheckpointSettings(keep_last=2, keep_best=0, keep_every=0))
    assert [path.name for path in checkpoints(tmp_path)] == [checkpoint_name(number) for number in (4, 3, 2)]
