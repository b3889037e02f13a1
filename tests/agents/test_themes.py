"""Themes: clusters of the catalog, carried by a team's towers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from concertrl.agents.ensemble import Ensemble
from concertrl.agents.themes import EXTRA, THEMES, clustered, themes_of, with_themes
from concertrl.agents.tower import Tower
from concertrl.agents.towers import load_towers, save_towers
from concertrl.envs import BatchedEnv, Stage
from concertrl.envs.yardsticks import weighted
from concertrl.platform.logs import Logs
from sklearn.metrics import normalized_mutual_info_score

ITEMS, KINDS = 120, 6


def logs_of(attributes: tuple[tuple[str, ...], ...]) -> Logs:
    """Items with attributes, and nobody who did anything."""
    none = np.empty(0, np.int64)
    return Logs(
        user_ids=("u",),
        item_ids=tuple(f"i{place}" for place in range(ITEMS)),
        item_titles=("",) * ITEMS,
        item_texts=("",) * ITEMS,
        item_attributes=attributes,
        users=none,
        items=none,
        timestamps=none,
        ratings=none.astype(np.float32),
        clicks=none.astype(np.float32),
        reviews=(),
    )


def vectors_of(kinds: np.ndarray, noise: float) -> np.ndarray:
    draws = np.random.default_rng(0)
    return (draws.normal(size=(KINDS, 8))[kinds] + noise * draws.normal(size=(ITEMS, 8))).astype(np.float32)


def alike(themes: torch.Tensor, kinds: np.ndarray) -> float:
    return float(normalized_mutual_info_score(kinds, themes.argmax(1).numpy()))


def test_items_of_one_kind_are_of_the_same_themes() -> None:
    kinds = np.arange(ITEMS) % KINDS
    for attributes, noise in ((((),) * ITEMS, 0.05), (tuple((f"kind {kind}",) for kind in kinds), 3.0)):
        themes = clustered(vectors_of(kinds, noise), logs_of(attributes), 0)
        assert themes.shape == (ITEMS, THEMES) and torch.equal(themes.sum(1), torch.ones(ITEMS))
        assert (themes.sum(0) > 0).all()
        assert alike(themes, kinds) > 0.6
    assert alike(clustered(vectors_of(kinds, 3.0), logs_of(((),) * ITEMS), 0), kinds) < 0.5


def test_there_are_no_more_themes_than_kinds_of_items() -> None:
    kinds = np.arange(ITEMS) % KINDS
    themes = clustered(vectors_of(kinds, 0.0), logs_of(((),) * ITEMS), 0)
    assert themes.shape == (ITEMS, KINDS) and alike(themes, kinds) == 1.0


def test_a_small_catalog_has_a_theme_an_item() -> None:
    few = replace(logs_of(((),) * ITEMS), item_ids=("a", "b"), item_titles=("",) * 2, item_attributes=((),) * 2)
    assert clustered(np.eye(2, dtype=np.float32), few, 0).shape == (2, 2)


def test_a_tower_carries_them_through_files(tmp_path: Path) -> None:
    kinds = np.arange(ITEMS) % KINDS
    towers = {
        "cf": Tower("cf", torch.randn(ITEMS, 3), "mean", {"prior": torch.ones(3), "gain": torch.tensor(1.0)}),
        "content": Tower(
            "content",
            torch.from_numpy(vectors_of(kinds, 0.05)),
            "mean",
            {"prior": torch.ones(8), "gain": torch.tensor(1.0)},
        ),
    }
    found = with_themes(towers, logs_of(((),) * ITEMS), 0)
    assert EXTRA in found["content"].extras and EXTRA not in found["cf"].extras
    assert alike(found["content"].extras[EXTRA], kinds) > 0.6
    assert EXTRA in with_themes({"cf": towers["cf"]}, logs_of(((),) * ITEMS), 0)["cf"].extras
    save_towers(found, tmp_path)
    assert torch.equal(themes_of(load_towers(tmp_path).values()), found["content"].extras[EXTRA])
    assert themes_of(towers.values()).shape == (ITEMS, 0)


def test_an_agent_that_leans_away_shows_more_themes(small_stage: Stage) -> None:
    """Every agent under a gain of -1: sessions meet more of the catalog's themes, and more of the world's topics."""

    def spread(gain: float) -> tuple[float, float]:
        env = BatchedEnv(small_stage, sessions=64, seed=2)
        env.reset()
        slates = []
        for _ in range(env.horizon):
            actions = {name: torch.zeros(64, env.ensemble.action_dim(name)) for name in env.recommenders}
            for action in actions.values():
                action[:, 3] = gain
            slates.append(env.step(actions).slate)
        shown = torch.cat(slates, dim=1)
        themes, topics = env.ensemble.themes.argmax(1), env.world.item_topic
        return tuple(  # pyright: ignore[reportReturnType]
            float(torch.tensor([len(row.unique()) for row in table[shown]]).float().mean())
            for table in (themes, topics)
        )

    plain, varied = spread(0.0), spread(-1.0)
    assert varied[0] > plain[0] + 1 and varied[1] > plain[1]


def test_an_untrained_team_leans_nowhere(stage_with: Callable[..., Stage]) -> None:
    stage = stage_with()
    bare = {
        name: replace(tower, extras={k: v for k, v in tower.extras.items() if k != EXTRA})
        for name, tower in stage.ensemble.towers.items()
    }
    without = replace(stage, ensemble=Ensemble(bare, stage.ensemble.fusion, stage.ensemble.weights))
    slates = []
    for each in (stage, without):
        env = BatchedEnv(each, sessions=16, seed=4)
        env.reset()
        slates.append(torch.stack([weighted(each.best_static)(env, {}).slate for _ in range(3)]))
    assert torch.equal(*slates)
