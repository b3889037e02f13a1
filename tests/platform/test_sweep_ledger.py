"""The ledger of a sweep: what is written is read back, nothing half, nobody beside, no password."""

from __future__ import annotations

from pathlib import Path

import pytest
from concertrl.platform.errors import ConcertError, InputError
from concertrl.platform.sweep_file import begin, load_sweep, reopen
from concertrl.platform.sweep_ledger import Ending, Ledger, Look, best_look


def ledger_in(folder: Path, *words: str) -> Ledger:
    return begin(*load_sweep("builtin", "asha", [f"tracking.folder={folder}", *words]), command="typed")


def look(number: int, look: int, score: float, source: tuple[int, int] | None = None, failed: str = "") -> Look:
    scores = {"return": score}
    return Look(number, look, {"train.epochs": 2}, source, look * 5, 100, 10, 1.0, 1e9, scores, failed=failed)


def test_a_sweep_is_read_back_as_it_was_begun(tmp_path: Path) -> None:
    ledger = ledger_in(tmp_path, "sweep.trials=5", "seed=3")
    again = reopen("builtin-asha", tmp_path)
    assert (again.sweep, again.experiment) == (ledger.sweep, ledger.experiment)
    assert (again.key, again.command) == (ledger.key, "typed")


def test_a_name_is_taken_once_and_an_unknown_one_names_those_there(tmp_path: Path) -> None:
    ledger_in(tmp_path)
    with pytest.raises(InputError, match=r"--resume builtin-asha` goes on with it, sweep.name=OTHER begins another"):
        ledger_in(tmp_path)
    with pytest.raises(InputError, match=r'no sweep "builtin-ahsa".*did you mean "builtin-asha"'):
        reopen("builtin-ahsa", tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": 1}', '{"key": "a", "command": "", "hidden": false}'])
def test_a_damaged_sweep_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    ledger = ledger_in(tmp_path)
    (ledger.folder / "sweep.json").write_text(text)
    with pytest.raises(InputError, match=r"sweep.json: cannot be read as a sweep") as caught:
        reopen("builtin-asha", tmp_path)
    assert "\n" not in str(caught.value)


def test_a_password_is_used_but_not_written_down(tmp_path: Path) -> None:
    uri = "http://me:secret@127.0.0.1:9"
    assert ledger_in(tmp_path, f"tracking.uri={uri}").experiment.tracking.uri == uri
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and "secret" in path.read_text("utf-8")]
    with pytest.raises(InputError, match=r"give tracking.uri=... again"):
        reopen("builtin-asha", tmp_path)
    assert reopen("builtin-asha", tmp_path, uri).experiment.tracking.uri == uri


def test_an_address_without_a_password_is_kept(tmp_path: Path) -> None:
    ledger_in(tmp_path, "tracking.uri=http://127.0.0.1:9")
    assert reopen("builtin-asha", tmp_path).experiment.tracking.uri == "http://127.0.0.1:9"


def test_one_process_at_a_time(tmp_path: Path) -> None:
    ledger = ledger_in(tmp_path)
    other = reopen("builtin-asha", tmp_path)
    with ledger.held(), pytest.raises(InputError, match="run by another process"), other.held():
        pass
    with reopen("builtin-asha", tmp_path).held():
        pass


def test_trials_looks_and_endings_are_read_back(tmp_path: Path) -> None:
    ledger = ledger_in(tmp_path)
    ledger.propose(0, {"agents.names": ["cf", "content"]})
    ledger.propose(11, {})
    ledger.write_look(look(11, 2, 1.5, source=(0, 1)))
    ledger.write_look(look(11, 1, 1.0))
    ledger.end(0, Ending("failed", "a reason"))
    ledger.end(0, Ending("finished"))  # the first word counts
    again = reopen("builtin-asha", tmp_path)
    assert again.candidates() == {0: {"agents.names": ["cf", "content"]}, 11: {}}
    assert again.looks(11) == [look(11, 1, 1.0), look(11, 2, 1.5, source=(0, 1))] and again.looks(0) == []
    assert again.look(11, 2) == look(11, 2, 1.5, source=(0, 1)) and again.look(11, 3) is None
    assert again.ending(0) == Ending("failed", "a reason") and again.ending(11) is None
    again.forget_after(11, 1)
    assert again.looks(11) == [look(11, 1, 1.0)]


def test_a_damaged_look_says_which(tmp_path: Path) -> None:
    ledger = ledger_in(tmp_path)
    ledger.write_look(look(3, 1, 1.0))
    (ledger.place(3) / "looks" / "0001.json").write_text("{")
    with pytest.raises(ConcertError, match=r"trials/0003/looks/0001.json: damaged"):
        ledger.looks(3)


def test_a_checkpoint_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    ledger = ledger_in(tmp_path)

    def torn(folder: Path) -> None:
        folder.mkdir()
        (folder / "part").write_text("half")
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        ledger.save_checkpoint(0, 1, torn)
    assert not ledger.checkpoint(0, 1).exists()

    def whole(folder: Path) -> None:
        folder.mkdir()
        (folder / "part").write_text("all")

    ledger.save_checkpoint(0, 1, whole)
    assert [path.name for path in ledger.checkpoint(0, 1).iterdir()] == ["part"]


@pytest.mark.parametrize(("scheduler", "kept"), [("asha", {2, 5, 6}), ("pbt", {2, 3, 4, 5, 6})])
def test_checkpoints_that_may_be_needed_are_kept(tmp_path: Path, scheduler: str, kept: set[int]) -> None:
    """The newest two and the best; with exchanges all that another trial may still go on from."""
    ledger = begin(*load_sweep("builtin", scheduler, [f"tracking.folder={tmp_path}", "sweep.perturb=2"]))
    for number, score in enumerate([1.0, 9.0, 3.0, 4.0, 5.0, 6.0], start=1):
        ledger.save_checkpoint(0, number, lambda folder: folder.mkdir())
        ledger.write_look(look(0, number, score))
        ledger.prune(0)
    assert {int(path.name) for path in (ledger.place(0) / "checkpoints").iterdir()} == kept


@pytest.mark.parametrize(("mode", "best"), [("max", 2), ("min", 1)])
def test_the_best_look_goes_by_the_first_objective_and_leaves_failures_out(mode: str, best: int) -> None:
    _, sweep = load_sweep("builtin", "asha", [f"sweep.objectives=[{{metric: return, mode: {mode}}}]"])
    looks = [look(0, 1, 1.0), look(0, 2, 2.0), look(0, 3, 2.0), look(0, 4, 99.0 if mode == "max" else -99, failed="x")]
    found = best_look(looks, sweep)
    assert found is not None and found.look == best
    assert best_look([], sweep) is None
