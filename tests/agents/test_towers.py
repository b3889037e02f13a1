from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from concertrl.agents import towers
from concertrl.agents.profiles import profile
from concertrl.agents.themes import EXTRA
from concertrl.agents.tower import History, Tower
from concertrl.agents.towers import FITTERS, INDEX, fit_towers, load_towers, pinned, save_towers
from concertrl.platform.errors import InputError
from concertrl.platform.graph import Graph
from concertrl.platform.logs import Logs
from concertrl.platform.settings import RECOMMENDERS, TEAM, AgentsSettings
from safetensors.torch import save

KINDS = ("western", "space opera", "romance")


def make() -> Logs:
    draw = np.random.default_rng(0)
    users, items = np.repeat(np.arange(30), 6), draw.integers(0, 12, 180)
    ratings = np.where(items % 3 == users % 3, 5.0, draw.choice([1.0, 3.0, 4.0], 180))
    return Logs(
        user_ids=tuple(map(str, range(30))),
        item_ids=tuple(map(str, range(12))),
        item_titles=tuple(f"A {KINDS[item % 3]}, part {item}" for item in range(12)),
        item_texts=("",) * 12,
        item_attributes=((),) * 12,
        users=users,
        items=items,
        timestamps=np.arange(180, dtype=np.int64),
        ratings=ratings.astype(np.float32),
        clicks=np.ones(180, np.float32),
        reviews=tuple(("superb" if stars > 3 else "dreadful") if row % 2 else "" for row, stars in enumerate(ratings)),
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def fitted(cache: Path) -> dict[str, Tower]:
    return fit_towers(make(), settings(cache), seed=0)


def settings(cache: Path, **changes: object) -> AgentsSettings:
    return AgentsSettings.model_validate({"encoder": {"cache": str(cache)}, **changes})


def same(first: dict[str, Tower], second: dict[str, Tower]) -> bool:
    return list(first) == list(second) and all(
        one.facts == other.facts
        and one.profile_kind == other.profile_kind
        and torch.equal(one.item_vectors, other.item_vectors)
        and one.extras.keys() == other.extras.keys()
        and all(torch.equal(one.extras[key], other.extras[key]) for key in one.extras)
        for one, other in zip(first.values(), second.values(), strict=True)
    )


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the towers that were really fitted, in order."""
    names: list[str] = []

    def counted(name: str) -> towers.Fitter:
        fitter = FITTERS[name]

        def fit(*arguments: object) -> Tower:
            names.append(name)
            return fitter.fit(*arguments)  # type: ignore[arg-type]

        return replace(fitter, fit=fit)

    monkeypatch.setattr(towers, "FITTERS", {name: counted(name) for name in FITTERS})
    return names


def test_every_recommender_has_a_fit() -> None:
    assert tuple(FITTERS) == RECOMMENDERS


def test_towers_come_in_the_order_asked_for(cache: Path, fitted: dict[str, Tower]) -> None:
    assert list(fitted) == ["cf", "content", "sentiment"]
    assert [tower.name for tower in fitted.values()] == list(fitted)
    turned = fit_towers(make(), settings(cache, names=["sentiment", "cf"]), seed=0)
    turned["cf"].extras.pop(EXTRA)  # in the place of content
    assert same(turned, {name: fitted[name] for name in ("sentiment", "cf")})


def test_queries_of_all_towers_are_of_one_size(fitted: dict[str, Tower]) -> None:
    history = History(*make().padded(50))
    for tower in fitted.values():
        assert profile(tower, history).square().mean().item() == pytest.approx(1, abs=1e-3)


def test_a_fit_is_found_again(cache: Path, fitted: dict[str, Tower], fits: list[str]) -> None:
    assert same(fit_towers(make(), settings(cache), seed=0), fitted) and fits == []


@pytest.mark.parametrize("part", ["ratings", "timestamps", "item_titles", "reviews"])
def test_other_logs_are_another_fit(cache: Path, fitted: dict[str, Tower], fits: list[str], part: str) -> None:
    logs = make()
    value = getattr(logs, part)
    changed = ("changed", *value[1:]) if isinstance(value, tuple) else np.append(value[:-1], value.dtype.type(2))
    fit_towers(replace(logs, **{part: changed}), settings(cache), seed=0)
    assert fits == list(TEAM)


def test_other_settings_and_seeds_are_another_fit(cache: Path, fitted: dict[str, Tower], fits: list[str]) -> None:
    fit_towers(make(), settings(cache, cf={"factors": 4}), seed=0)
    assert fits == ["cf"]  # what one agent is set to is nothing to the others
    fit_towers(make(), settings(cache, sentiment={"max_reviews": 9}), seed=0)
    assert fits[1:] == ["content", "sentiment"]
    fit_towers(make(), settings(cache), seed=1)
    assert fits[3:] == list(TEAM)
    fit_towers(make(), settings(cache, encoder={"cache": str(cache), "max_tokens": 9}), seed=0)
    assert fits[6:] == ["content", "sentiment"]
    fit_towers(make(), settings(cache, encoder={"cache": str(cache), "batch_size": 9}), seed=0)
    assert len(fits) == 8


def test_what_a_fit_picked_can_be_held_fast(tmp_path: Path, fits: list[str]) -> None:
    names = settings(tmp_path, names=["cf", "sequence"])
    picked = fit_towers(make(), names, seed=0)
    held = pinned(names, picked)
    assert held.cf.method != "best" and held.cf.candidate is not None and held.sequence.method != "best"
    again = fit_towers(make(), held, seed=0)
    assert fits == ["cf", "sequence"] * 2
    assert all(torch.equal(again[name].item_vectors, picked[name].item_vectors) for name in picked)
    assert pinned(held, again) == held


def test_the_content_tower_may_be_pretrained_on_several_tasks(tmp_path: Path) -> None:
    learned = {"use": True, "epochs": 2, "steps": 3, "factors": 8}
    found = fit_towers(make(), settings(tmp_path, names=["content"], pretrain=learned), seed=0)["content"]
    assert found.name == "content" and "pretrained_on" in found.facts and found.item_vectors.isfinite().all()
    plain = fit_towers(make(), settings(tmp_path, names=["content"]), seed=0)["content"]
    assert plain.facts != found.facts


def test_propagation_is_an_addition_to_any_tower(cache: Path) -> None:
    plain = fit_towers(make(), settings(cache, names=["cf"]), seed=0)["cf"]
    nodes = (*make().item_ids, "genre:western")
    edges = Graph(np.array([0, 3]), np.zeros(2, np.int64), np.array([12, 12]), nodes, ("genre",))
    logs = replace(make(), graph=edges)
    spread = fit_towers(logs, settings(cache, names=["cf"], propagate={"cf": 0.5}), seed=0)["cf"]
    assert "propagated" in spread.facts and not torch.equal(spread.item_vectors, plain.item_vectors)
    untouched = fit_towers(logs, settings(cache, names=["cf"]), seed=0)["cf"]
    assert torch.equal(untouched.item_vectors, plain.item_vectors)


def test_notes_are_saved_with_a_tower_and_checked(fitted: dict[str, Tower], tmp_path: Path) -> None:
    told = replace(fitted["cf"], notes={"praise": ("so warm", "é")})
    save_towers({"cf": told}, tmp_path)
    assert load_towers(tmp_path)["cf"].notes == told.notes
    (tmp_path / "cf.notes.json").write_text('{"praise": ["changed"]}')
    with pytest.raises(InputError, match=r"cf\.notes\.json: damaged"):
        load_towers(tmp_path)


def test_a_torn_cache_entry_is_fitted_again(cache: Path, fitted: dict[str, Tower], fits: list[str]) -> None:
    for path in (cache / "towers").glob("*/*.safetensors"):
        path.write_bytes(path.read_bytes()[:-100])
    assert same(fit_towers(make(), settings(cache), seed=0), fitted) and fits == list(TEAM)
    for path in (cache / "towers").glob("*/towers.json"):
        path.write_text("{")
    assert same(fit_towers(make(), settings(cache), seed=0), fitted) and fits == list(TEAM) * 2
    assert same(fit_towers(make(), settings(cache), seed=0), fitted) and len(fits) == 6


def test_progress_names_the_tower(tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    fit_towers(make(), settings(tmp_path), 0, lambda name, done, total, rate: calls.append((name, done, total)))
    assert calls[0] == ("content", 12, 12)


def test_saved_towers_come_back_as_they_were(tmp_path: Path, fitted: dict[str, Tower]) -> None:
    save_towers(fitted, tmp_path / "team" / "towers")
    assert same(load_towers(tmp_path / "team" / "towers"), fitted)
    names = {path.name for path in (tmp_path / "team" / "towers").iterdir()}
    files = {"cf.safetensors", "content.safetensors", "content.notes.json", "sentiment.safetensors"}
    assert names == {INDEX, *files}
    save_towers({"cf": fitted["cf"]}, tmp_path / "team" / "towers")
    assert list(load_towers(tmp_path / "team" / "towers")) == ["cf"]


def damage(folder: Path, how: str) -> None:
    index, file = folder / INDEX, folder / "cf.safetensors"
    if how == "no index":
        index.unlink()
    elif how == "index is no text":
        index.write_bytes(b"\xff\xfe\x00")
    elif how == "no towers":
        index.write_text('{"format": 1, "towers": []}')
    elif how == "other format":
        index.write_text('{"format": 2, "towers": []}')
    elif how == "no file":
        file.unlink()
    elif how == "one byte":
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(bytes(data))
    elif how == "a path for a name":
        index.write_text(index.read_text().replace('"cf"', '"../cf"'))
    else:
        index.write_text(index.read_text().replace('"mean"', '"other"'))


@pytest.mark.parametrize(
    "how",
    ["no index", "index is no text", "no towers", "other format", "no file", "one byte", "a path for a name", "kind"],
)
def test_a_damaged_folder_is_one_line(tmp_path: Path, fitted: dict[str, Tower], how: str) -> None:
    save_towers(fitted, tmp_path)
    damage(tmp_path, how)
    with pytest.raises(InputError, match=f"{tmp_path}.*(save the team again|is this the folder of a team)") as caught:
        load_towers(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "fault", ["missing extra", "wrong extra", "flat vectors", "not a number", "no vectors", "other shapes"]
)
def test_a_tower_that_cannot_serve_is_refused(tmp_path: Path, fitted: dict[str, Tower], fault: str) -> None:
    tower = fitted["cf"]
    extras = dict(tower.extras)
    vectors = tower.item_vectors
    if fault == "missing extra":
        del extras["gain"]
    elif fault == "wrong extra":
        extras["inputs"] = torch.eye(3)
    elif fault == "flat vectors":
        vectors = vectors[0]
    elif fault == "not a number":
        vectors = vectors * torch.nan
    save_towers({"cf": replace(tower, item_vectors=vectors, extras=extras)}, tmp_path)
    if fault == "no vectors":
        towers.write_whole(tmp_path / "cf.safetensors", save({}))
        index = json.loads((tmp_path / INDEX).read_text())
        index["towers"][0] |= {"shapes": {}, "sha256": towers.hashlib.sha256(save({})).hexdigest()}
        (tmp_path / INDEX).write_text(json.dumps(index))
    elif fault == "other shapes":
        (tmp_path / INDEX).write_text((tmp_path / INDEX).read_text().replace('"extras.gain": []', '"extras.gain": [1]'))
    with pytest.raises(InputError, match="not a tower that can serve") as caught:
        load_towers(tmp_path)
    assert "\n" not in str(caught.value)


def test_towers_of_two_catalogs_do_not_go_together(tmp_path: Path, fitted: dict[str, Tower]) -> None:
    shorter = replace(fitted["content"], item_vectors=fitted["content"].item_vectors[:5])
    save_towers({"cf": fitted["cf"], "content": shorter}, tmp_path)
    with pytest.raises(InputError, match="towers over one catalog"):
        load_towers(tmp_path)
