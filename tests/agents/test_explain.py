from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from concertrl.agents.ensemble import Ensemble
from concertrl.agents.team import Catalog, Team
from concertrl.agents.tower import History, Tower
from concertrl.platform.errors import InputError
from concertrl.platform.settings import FusionSettings

IDS = tuple("abcdef")
SAID = "sound: +0.62 +- 0.10 in 34 sentences"
NOTES = {"praise": ("", "so warm", "", "", "", ""), "aspects": ("", "; ".join([SAID] * 4), "", "", "", "")}


def tower(name: str, inputs: torch.Tensor, **more: object) -> Tower:
    extras = {
        "inputs": inputs,
        "low": torch.tensor(0.0),
        "fade": torch.tensor(1.0),
        "gain": torch.tensor(1.0),
        "prior": torch.zeros(6),
    }
    return Tower(name, torch.eye(6), "linear", {**extras, **more.pop("extras", {})}, **more)  # type: ignore[arg-type]


def team() -> Team:
    """cf: a speaks for b, and c for d. knowledge: c speaks for b, with which it shares a node. sentiment: notes."""
    cf, knows = torch.zeros(6, 6), torch.zeros(6, 6)
    cf[0, 1], cf[2, 3] = 3.0, 1.0
    knows[2, 1] = 2.0
    edges = {"edge_heads": torch.tensor([1, 2, 4]), "edge_tails": torch.tensor([6, 6, 7])}
    towers = {
        "cf": tower("cf", cf),
        "knowledge": tower("knowledge", knows, extras=edges, notes={"nodes": (*IDS, "genre:Drama", "genre:War")}),
        "sentiment": tower("sentiment", torch.zeros(6, 6), notes=NOTES),
    }
    towers["sentiment"] = replace(
        towers["sentiment"], extras={**towers["sentiment"].extras, "prior": torch.tensor([0.0, 0, 0, 0, 1, 0])}
    )
    ensemble = Ensemble(towers, FusionSettings(), torch.tensor([0.5, 0.3, 0.2]))
    history = History(torch.tensor([[0, 2]]), torch.zeros(1, 2), torch.ones(1, 2))
    catalog = Catalog(IDS, ("", "Bee", "", "", "", ""), torch.tensor([0]), history, "salt")
    return Team(ensemble, {}, catalog, slate=2, horizon=4, name="small")


def test_the_agent_that_argues_and_the_neighbour_it_argues_from() -> None:
    found = team().explain(["a", "c"], "b")
    cases = {each.agent: each for each in found.arguments}
    assert found.item == "b" and found.title == "Bee"
    assert found.arguments[0].agent == "cf" and cases["cf"].rank == 1
    assert [item for item, _, _ in cases["cf"].because] == ["a"] and cases["cf"].because[0][2] > 1
    assert [item for item, _, _ in cases["knowledge"].because] == ["c"]
    assert cases["knowledge"].evidence == ("shares genre:Drama with c",)
    assert (
        cases["sentiment"].evidence == ('praise: "so warm"', *[f"reviewers on {SAID}"] * 3)
        and cases["sentiment"].share == 0
    )
    assert sum(each.share for each in found.arguments) == pytest.approx(1)
    assert sum(each.weight for each in found.arguments) == pytest.approx(1)
    assert found.score == pytest.approx(sum(each.weight * each.score for each in found.arguments))


def test_the_text_and_the_words_it_shares_with_the_neighbours() -> None:
    """Words that every text has tell nothing."""
    reads = torch.zeros(6, 6)
    reads[0, 1], reads[2, 1] = 3.0, 1.0
    texts = ("A garden with roses", "Garden roses with rain", "Rain with snow", "War with none", "", "Peace with all")
    content = tower("content", reads, notes={"text": texts})
    built = team()
    built.ensemble = Ensemble({"content": content}, FusionSettings(), torch.ones(1))
    (case,) = built.explain(["a", "c"], "b").arguments
    assert case.evidence == (
        'text: "Garden roses with rain"',
        "shares the words garden, roses with a",
        "shares the words rain with c",
    )
    (silent,) = built.explain(["a"], "e").arguments
    assert silent.evidence == ()


def test_scores_are_those_the_team_ranks_by() -> None:
    built = team()
    order = built.recommend([["a", "c"]], k=4)[0]
    scores = [built.explain(["a", "c"], item).score for item in order]
    assert scores == sorted(scores, reverse=True) and order[0] == "b"


def test_it_is_told_in_lines_and_for_machines() -> None:
    found = team().explain(["a", "c"], "b")
    lines = str(found).splitlines()
    assert lines[0].startswith("Bee (b): score ") and any("because of a (+" in line for line in lines)
    assert found.as_dict()["arguments"][0]["agent"] == "cf"


def test_a_stranger_has_no_neighbours() -> None:
    found = team().explain([], "e")
    assert all(not each.because for each in found.arguments)
    assert found.arguments[0].agent == "sentiment"


def test_an_item_that_is_not_there() -> None:
    with pytest.raises(InputError, match='item "z": not in the catalog of 6 items'):
        team().explain(["a"], "z")
