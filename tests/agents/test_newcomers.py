from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from concertrl.agents.ensemble import Ensemble
from concertrl.agents.newcomers import NEIGHBOURS, read_new_items
from concertrl.agents.team import Catalog, Team
from concertrl.agents.team_files import load_team
from concertrl.agents.towers import fit_towers
from concertrl.platform.encoder import Encoder
from concertrl.platform.errors import InputError
from concertrl.platform.graph import build_graph
from concertrl.platform.logs import Logs
from concertrl.platform.schema import EDGES
from concertrl.platform.settings import AgentsSettings, EncoderSettings, FusionSettings

KINDS = {
    "space": ("rockets to Mars", "an alien starship", "robots in orbit", "deep space"),
    "love": ("a summer romance", "the wedding of two lovers", "love letters", "a broken heart"),
}


def library() -> Logs:
    """48 items of two kinds with a genre each; even users like the first kind, odd ones the second."""
    import pyarrow as pa

    titles = [f"{text} {number}" for number in range(6) for texts in KINDS.values() for text in texts]
    kinds = [kind for _ in range(6) for kind, texts in KINDS.items() for _ in texts]
    ids = tuple(f"i{place:02}" for place in range(len(titles)))
    draw = np.random.default_rng(0)
    users = np.repeat(np.arange(60), 8)
    mine = [np.flatnonzero(np.array(kinds) == ("space", "love")[user % 2]) for user in range(60)]
    items = np.concatenate([draw.choice(mine[user], 8, replace=False) for user in range(60)])
    rows = [{"head": item, "relation": "genre", "tail": kind} for item, kind in zip(ids, kinds, strict=True)]
    return Logs(
        user_ids=tuple(f"u{user:02}" for user in range(60)),
        item_ids=ids,
        item_titles=tuple(titles),
        item_texts=("",) * len(ids),
        item_attributes=((),) * len(ids),
        users=users,
        items=items,
        timestamps=np.arange(len(users), dtype=np.int64),
        ratings=np.full(len(users), 5.0, np.float32),
        clicks=np.ones(len(users), np.float32),
        reviews=("",) * len(users),
        graph=build_graph(ids, pa.Table.from_pylist(rows, EDGES)),
    )


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> EncoderSettings:
    return EncoderSettings(cache=str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def saved(encoder: EncoderSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    logs = library()
    settings = AgentsSettings.model_validate({"names": ("cf", "content", "knowledge"), "encoder": encoder.model_dump()})
    ensemble = Ensemble(fit_towers(logs, settings, seed=0), FusionSettings(), torch.full((3,), 1 / 3))
    from concertrl.agents.tower import History

    history = History(*logs.padded(50))
    catalog = Catalog(logs.item_ids, logs.item_titles, torch.arange(60), history, "salt")
    team = Team(ensemble, {}, catalog, slate=5, horizon=8, name="library", encoder=encoder)
    folder = tmp_path_factory.mktemp("team")
    team.save(folder)
    return folder


def fresh(saved: Path, encoder: EncoderSettings) -> Team:
    team = load_team(saved)
    team.encoder = encoder
    return team


SPACE, LOVE = ["i00", "i01", "i08"], ["i04", "i05", "i12"]
NEW = [
    {"item_id": "new-space", "title": "Rockets and robots to Mars", "edges": [("genre", "space")]},
    {"item_id": "new-love", "title": "A romance of two lovers", "edges": [("genre", "love")]},
]


def test_an_item_added_a_second_ago_is_recommended_to_who_likes_its_kind(saved: Path, encoder: EncoderSettings) -> None:
    team = fresh(saved, encoder)
    before = team.recommend([SPACE, LOVE], k=20)
    assert team.add_items(NEW) == ("new-space", "new-love")
    space, love = team.recommend([SPACE, LOVE], k=20)
    assert "new-space" in space and "new-space" not in love
    assert "new-love" in love and "new-love" not in space
    # What was known keeps its order, but for what the new item pushed out.
    kept = [item for item in space if item != "new-space"]
    assert len(set(kept) & set(before[0])) >= 17


def test_every_agent_places_a_new_item_among_its_kind(saved: Path, encoder: EncoderSettings) -> None:
    team = fresh(saved, encoder)
    team.add_items(pd.DataFrame(NEW))
    for name, tower in team.ensemble.towers.items():
        unit = torch.nn.functional.normalize(tower.item_vectors, dim=1)
        likeness = unit[48:] @ unit[:48].T
        space = torch.tensor([place % 8 < 4 for place in range(48)])
        assert likeness[0, space].mean() > likeness[0, ~space].mean() + 0.2, name
        assert likeness[1, ~space].mean() > likeness[1, space].mean() + 0.2, name


def test_a_team_with_new_items_is_saved_and_loaded(saved: Path, encoder: EncoderSettings, tmp_path: Path) -> None:
    team = fresh(saved, encoder)
    team.add_items(NEW)
    team.save(tmp_path)
    again = load_team(tmp_path)
    assert again.recommend([SPACE], k=10) == team.recommend([SPACE], k=10)
    assert again.recommend([["new-space"]], k=5) == team.recommend([["new-space"]], k=5)
    told = {each.agent: each.evidence for each in again.explain(SPACE, "new-space").arguments}
    assert any(line.startswith('text: "') for line in told["content"])
    with pytest.raises(InputError, match='"new-space" is in the catalog already'):
        again.add_items(NEW)


def test_an_item_nothing_is_said_of_stands_where_the_mean_is(saved: Path, encoder: EncoderSettings) -> None:
    team = fresh(saved, encoder)
    team.add_items([{"item_id": "bare"}])
    cf = team.ensemble.towers["cf"]
    torch.testing.assert_close(cf.item_vectors[48], cf.item_vectors[:48].mean(0))
    assert (team.ensemble.towers["content"].item_vectors[48] == 0).all()
    assert "bare" not in team.recommend([SPACE], k=5)[0]


def test_a_tower_without_words_takes_the_mean_of_the_nearest(saved: Path, encoder: EncoderSettings) -> None:
    team = fresh(saved, encoder)
    team.add_items(NEW[:1])
    towers = team.ensemble.towers
    near = torch.zeros(48)
    for name in ("content", "knowledge"):
        unit = torch.nn.functional.normalize(towers[name].item_vectors, dim=1)
        near += unit[:48] @ unit[48]
    best = near.topk(NEIGHBOURS).indices
    for table in (towers["cf"].item_vectors, towers["cf"].extras["inputs"], team.ensemble.themes):
        torch.testing.assert_close(table[48], table[best].mean(0))


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([{"title": "no id"}], "items, row 0: no item_id"),
        ([{"item_id": "a"}, {"item_id": "a"}], 'row 1: item_id "a" is there twice'),
        ([{"item_id": "i00"}], '"i00" is in the catalog already'),
        ([{"item_id": "a", "edges": ["genre"]}], "edges are pairs"),
        ([{"item_id": "a", "attributes": "Drama"}], "attributes is not a list"),
    ],
)
def test_rows_that_cannot_be_used(rows: list[dict[str, object]], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        read_new_items(rows, {"i00"})


def test_texts_are_joined_as_the_fit_joins_them() -> None:
    new = read_new_items(
        pd.DataFrame([{"item_id": 7, "title": "Heat", "attributes": ["Crime", "1995"], "text": None}]), ()
    )
    assert new.ids == ("7",) and new.texts == ("Heat. Crime, 1995",) and len(new) == 1


def test_the_encoder_is_the_one_that_read_the_catalog(saved: Path, encoder: EncoderSettings) -> None:
    assert load_team(saved).encoder.model == encoder.model
    assert Encoder(load_team(saved).encoder).fingerprint == Encoder(encoder).fingerprint
