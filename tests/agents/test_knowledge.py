"""Propagation over the knowledge graph, and the tower that is made of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from concertrl.agents import collaborative, knowledge
from concertrl.agents.knowledge import vectors_from_edges
from concertrl.agents.profiles import profile
from concertrl.agents.propagation import graph_matrix, propagate, propagated, relation_weights
from concertrl.agents.tower import PAD, History, Tower
from concertrl.agents.validation import ndcg, validation
from concertrl.platform.dataset import load_dataset
from concertrl.platform.errors import InputError
from concertrl.platform.graph import Graph, build_graph
from concertrl.platform.ingest import ingest
from concertrl.platform.logs import Logs
from concertrl.platform.schema import EDGES
from concertrl.platform.settings import CollaborativeSettings, KnowledgeSettings
from hypothesis import given
from hypothesis import strategies as st

MAKERS, ITEMS, USERS = 4, 24, 60
COLD = 5
"""An item that nobody met; its maker is 1, as of the items 1, 9, 13 ..."""


def graph_of(*edges: tuple[int, str, str], items: int = ITEMS) -> Graph:
    rows = [{"head": str(head), "relation": relation, "tail": tail} for head, relation, tail in edges]
    return build_graph(tuple(map(str, range(items))), pa.Table.from_pylist(rows, schema=EDGES))


def planted() -> Logs:
    """A user likes the items of one maker, and those alone; the colour of an item is chance."""
    draw = np.random.default_rng(0)
    users, items = np.repeat(np.arange(USERS), 12), np.concatenate([draw.permutation(ITEMS)[:12] for _ in range(USERS)])
    kept = items != COLD
    users, items = users[kept], items[kept]
    colours = draw.integers(0, 3, ITEMS)
    edges = [(item, "maker", f"m{item % MAKERS}") for item in range(ITEMS)]
    edges += [(item, "colour", f"c{colours[item]}") for item in range(ITEMS)]
    return Logs(
        user_ids=tuple(map(str, range(USERS))),
        item_ids=tuple(map(str, range(ITEMS))),
        item_titles=("",) * ITEMS,
        item_texts=("",) * ITEMS,
        item_attributes=((),) * ITEMS,
        users=users,
        items=items,
        timestamps=np.arange(len(users)),
        ratings=np.where(items % MAKERS == users % MAKERS, 5.0, 2.0).astype(np.float32),
        clicks=np.ones(len(users), np.float32),
        reviews=("",) * len(users),
        graph=graph_of(*edges),
    )


def test_a_relation_weighs_what_it_tells_of_likes() -> None:
    logs = planted()
    weights = dict(zip(logs.graph.relation_names, relation_weights(logs.graph, logs), strict=True))
    assert weights["maker"] > 0.5 and weights["colour"] < 0.1
    nobody = replace(logs, ratings=np.ones(len(logs), np.float32))
    assert relation_weights(logs.graph, nobody).tolist() == [1, 1]


def test_the_matrix_is_symmetric_and_normalised_by_weighted_degrees() -> None:
    graph = graph_of((0, "a", "x"), (1, "a", "x"), (1, "b", "y"), (2, "b", "0"), items=3)
    dense = graph_matrix(graph, np.array([1.0, 3.0])).to_dense()
    names = graph.node_names
    assert names == ("0", "1", "2", "a:x", "b:y")
    assert torch.equal(dense, dense.T)
    # Degrees: 0: 1 + 3, 1: 1 + 3, 2: 3, x: 2, y: 3.
    expected = {(0, 3): 1 / 8**0.5, (1, 3): 1 / 8**0.5, (1, 4): 3 / 12**0.5, (0, 2): 3 / 12**0.5}
    for (head, tail), value in expected.items():
        assert dense[head, tail].item() == pytest.approx(value, rel=1e-6)
    assert (dense != 0).sum() == 2 * len(expected)


def test_a_hop_adds_the_neighbours_and_two_reach_further() -> None:
    graph = graph_of((0, "a", "x"), (1, "a", "x"), items=2)
    matrix = graph_matrix(graph, np.ones(1))
    vectors = torch.tensor([[2.0], [0.0], [0.0]])
    share = 0.5 / 2**0.5
    assert propagate(vectors, matrix, 0.5, 0).tolist() == vectors.tolist()
    assert propagate(vectors, matrix, 0.5, 1).squeeze().tolist() == pytest.approx([2, 0, 2 * share])
    assert propagate(vectors, matrix, 0.5, 2).squeeze().tolist() == pytest.approx(
        [2 + 2 * share**2, 2 * share**2, 4 * share]
    )


@given(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from("ab"), st.sampled_from("xyz25")), min_size=1),
    st.integers(0, 4),
)
def test_no_vector_grows_beyond_its_bound(edges: list[tuple[int, str, str]], hops: int) -> None:
    graph = graph_of(*edges, items=6)
    if not len(graph):
        return
    matrix = graph_matrix(graph, np.arange(1.0, 1 + len(graph.relation_names)))
    vectors = torch.randn(graph.num_nodes, 3, generator=torch.Generator().manual_seed(hops))
    after = propagate(vectors, matrix, 0.5, hops)
    assert after.norm() <= 1.5**hops * vectors.norm() * (1 + 1e-5)


@pytest.mark.parametrize("method", ["als", "ease"])
def test_an_item_that_nobody_met_is_offered_to_who_likes_its_kin(method: str) -> None:
    logs = planted()
    settings = {"method": method, "factors": 8, "popularity": 0}  # which an item that nobody met has none of
    tower = collaborative.fit(logs, CollaborativeSettings.model_validate(settings), 0)
    assert tower.item_vectors[COLD].abs().max() < 1e-6
    spread = propagated(tower, logs, alpha=1.0)
    history = History(torch.tensor([[1, 9, 13], [2, 10, 14]]), torch.full((2, 3), 5.0), torch.ones(2, 3))
    scores = profile(spread, history) @ spread.item_vectors.T
    assert scores[0, COLD] > scores[0, 4] + 0.1 and scores[0, COLD] > scores[1, COLD] + 0.1
    assert "2 hops" in spread.facts["propagated"]


def test_popularity_is_not_passed_on() -> None:
    logs = planted()
    tower = collaborative.fit(logs, CollaborativeSettings(method="als", factors=4, popularity=0.15), 0)
    spread = propagated(tower, logs, alpha=1.0)
    assert torch.equal(spread.item_vectors[:, 4], tower.item_vectors[:, 4])
    assert not torch.equal(spread.item_vectors[:, :4], tower.item_vectors[:, :4])
    taste = spread.item_vectors[:, :4]
    ridge = tower.extras["gram"] - tower.item_vectors[:, :4].T @ tower.item_vectors[:, :4]
    torch.testing.assert_close(spread.extras["gram"], taste.T @ taste + ridge)


def test_nothing_to_pass_changes_nothing() -> None:
    logs = planted()
    tower = Tower("t", torch.eye(ITEMS), "mean", {"prior": torch.ones(ITEMS), "gain": torch.tensor(1.0)})
    assert propagated(tower, replace(logs, graph=Graph()), 1.0) is tower
    assert propagated(tower, logs, 0.0) is tower
    late = graph_of((0, "also_bought", "1"), (2, "also_bought", "3"))
    assert propagated(tower, replace(logs, graph=late), 1.0) is tower


@pytest.fixture(scope="module")
def logs() -> Logs:
    return planted()


@pytest.fixture(scope="module")
def tower(logs: Logs) -> Tower:
    return knowledge.fit(logs, KnowledgeSettings(), 0)


def scores_of(tower: Tower, *likes: int) -> torch.Tensor:
    history = History(torch.tensor([likes]), torch.full((1, len(likes)), 5.0), torch.ones(1, len(likes)))
    return (profile(tower, history) @ tower.item_vectors.T)[0]


def test_kin_of_what_was_liked_lead_and_an_unseen_item_is_among_them(logs: Logs, tower: Tower) -> None:
    best = scores_of(tower, 1).topk(ITEMS // MAKERS).indices
    assert set(best.tolist()) == {item for item in range(ITEMS) if item % MAKERS == 1} and COLD in best
    assert (tower.name, tower.profile_kind) == ("knowledge", "linear")
    assert tower.facts["relations"].startswith("maker ") and tower.facts["items_without_vector"] == "0 of 24"


def test_items_of_the_fit_get_their_own_vectors_back_from_their_edges(logs: Logs, tower: Tower) -> None:
    nodes = torch.full((ITEMS + 1, 4), PAD)
    for item in range(ITEMS):
        own = logs.graph.tails[logs.graph.heads == item]
        nodes[item, 4 - len(own) :] = torch.from_numpy(own)
    vectors, inputs = vectors_from_edges(tower, nodes)
    torch.testing.assert_close(vectors[:-1], tower.item_vectors)
    torch.testing.assert_close(inputs[:-1], tower.extras["inputs"])
    assert (vectors[-1] == 0).all() and (inputs[-1] == 0).all()


def test_a_new_item_is_placed_by_its_edges(logs: Logs, tower: Tower) -> None:
    nodes = [logs.graph.find([("maker", f"m{maker}"), ("colour", "unheard of")]) for maker in range(MAKERS)]
    vectors, _ = vectors_from_edges(tower, torch.tensor(nodes))
    history = History(torch.tensor([[2, 6]]), torch.full((1, 2), 5.0), torch.ones(1, 2))
    assert int((profile(tower, history) @ vectors.T).argmax()) == 2


def test_items_link_items(logs: Logs) -> None:
    linked = graph_of(*((item, "sequel_of", str(item % MAKERS)) for item in range(MAKERS, ITEMS)))
    scores = scores_of(knowledge.fit(replace(logs, graph=linked), KnowledgeSettings(), 0), 1)
    kin = torch.arange(ITEMS) % MAKERS == 1
    assert scores[kin].min() > scores[~kin].max()


def test_items_without_edges_have_no_vector(logs: Logs) -> None:
    graph = logs.graph
    keep = graph.heads != 3
    some = replace(graph, heads=graph.heads[keep], relations=graph.relations[keep], tails=graph.tails[keep])
    tower = knowledge.fit(replace(logs, graph=some), KnowledgeSettings(), 0)
    assert (tower.item_vectors[3] == 0).all() and (tower.item_vectors != 0).any(1).sum() == ITEMS - 1
    assert tower.facts["items_without_vector"] == "1 of 24"


def test_what_cannot_be_learned_from_is_named(logs: Logs) -> None:
    def refused(changed: Logs, says: str) -> None:
        with pytest.raises(InputError, match=says):
            knowledge.fit(changed, KnowledgeSettings(), 0)

    refused(replace(logs, graph=Graph()), "has no edges: .* --graph")
    refused(replace(logs, graph=graph_of((0, "also_bought", "1"))), "no edges but such as know of the time after")
    refused(replace(logs, ratings=np.ones(len(logs), np.float32)), "no user liked an item that has an edge")


def test_late_relations_are_not_read(logs: Logs, tower: Tower) -> None:
    edges = [(item, "maker", f"m{item % MAKERS}") for item in range(ITEMS)]
    early, late = graph_of(*edges), graph_of(*edges, (0, "also_bought", "1"), (2, "bought_together", "3"))
    first, second = (knowledge.fit(replace(logs, graph=each), KnowledgeSettings(), 0) for each in (early, late))
    torch.testing.assert_close(scores_of(first, 1), scores_of(second, 1))


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_a_handful_of_likes_leaves_the_likeness_of_nodes(logs: Logs, rows: int) -> None:
    few = logs.rows(np.isin(np.arange(len(logs)), np.flatnonzero(logs.positive)[:rows]))
    tower = knowledge.fit(few, KnowledgeSettings(), 0)
    liked = int(few.items[0])
    scores = scores_of(tower, liked)
    kin = torch.arange(ITEMS) % MAKERS == liked % MAKERS
    assert tower.item_vectors.isfinite().all() and scores[kin].mean() > scores[~kin].mean()


def test_one_node_for_all_is_finite(logs: Logs) -> None:
    same = graph_of(*((item, "kind", "thing") for item in range(ITEMS)))
    tower = knowledge.fit(replace(logs, graph=same), KnowledgeSettings(), 0)
    assert tower.item_vectors.isfinite().all() and (scores_of(tower, 1) - scores_of(tower, 1)[0]).abs().max() < 1e-5


def test_fitted_twice_is_the_same(logs: Logs, tower: Tower) -> None:
    again = knowledge.fit(logs, KnowledgeSettings(), 0)
    assert torch.equal(again.item_vectors, tower.item_vectors)
    assert all(torch.equal(again.extras[name], tower.extras[name]) for name in tower.extras)


def test_cold_items_of_movielens_are_ranked_three_times_better_than_by_chance(
    tmp_path: Path, data_folder: Path
) -> None:
    """A random tenth of the items is not in the training part; to popularity they are all alike, so it is chance."""
    ingest("movielens", data_folder / "ml-latest-small", tmp_path / "d")
    logs = load_dataset(tmp_path / "d").logs()
    problem = validation(logs)
    assert problem is not None
    draw = np.random.default_rng(0)
    met = np.unique(logs.items[logs.positive])
    cold = np.sort(draw.choice(met, len(met) // 10, replace=False))
    tower = knowledge.fit(problem.earlier.rows(~np.isin(problem.earlier.items, cold)), KnowledgeSettings(), 0)
    history = problem.history
    known = ~torch.isin(history.items, torch.from_numpy(cold))
    weights = torch.where(known, history.weights, 0.0)
    users = problem.liked[:, cold].any(1)
    queries = profile(tower, History(torch.where(known, history.items, PAD), history.ratings, weights).rows(users))
    liked = problem.liked[users][:, cold]
    found = float(ndcg(queries @ tower.item_vectors[cold].T, liked).mean())
    chance = np.mean([float(ndcg(torch.from_numpy(draw.random(liked.shape)), liked).mean()) for _ in range(20)])
    assert found > 3 * chance
