from __future__ import annotations

from pathlib import Path

import pyarrow as pa
from concertrl.platform.dataset import load_dataset
from concertrl.platform.graph import Graph, build_graph
from concertrl.platform.ingest import ingest
from concertrl.platform.schema import EDGES
from hypothesis import given
from hypothesis import strategies as st

ITEMS = ("1995", "7", "8")
EDGE = st.tuples(
    st.sampled_from([*ITEMS, "stranger"]), st.sampled_from(["year", "near", "like"]), st.sampled_from([*ITEMS, "x"])
)


def table(*edges: tuple[str, str, str]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(EDGES.names, edge, strict=True)) for edge in edges], schema=EDGES)


def said(graph: Graph) -> set[tuple[str, str, str]]:
    """The edges by name."""
    ends = zip(graph.heads.tolist(), graph.relations.tolist(), graph.tails.tolist(), strict=True)
    names = graph.node_names
    return {(names[head], graph.relation_names[relation], names[tail]) for head, relation, tail in ends}


def test_a_tail_that_is_an_items_id_is_that_item_but_a_year_never_is() -> None:
    graph = build_graph(
        ITEMS, table(("7", "near", "8"), ("7", "near", "B9"), ("8", "year", "1995"), ("7", "year", "8"))
    )
    assert graph.node_names == (*ITEMS, "near:B9", "year:1995", "year:8")
    assert said(graph) == {
        ("7", "near", "8"),
        ("7", "near", "near:B9"),
        ("8", "year", "year:1995"),
        ("7", "year", "year:8"),
    }


@given(st.lists(EDGE, max_size=12), st.randoms(use_true_random=False))
def test_the_order_of_edges_and_their_repetition_change_nothing(
    edges: list[tuple[str, str, str]], random: object
) -> None:
    graph = build_graph(ITEMS, table(*edges))
    again = [*edges, *edges[:3]]
    random.shuffle(again)  # type: ignore[attr-defined]
    assert build_graph(ITEMS, table(*again)) == graph
    kept = {edge for edge in edges if edge[0] in ITEMS and (edge[0] != edge[2] or edge[1] == "year")}
    assert len(graph) == len(kept) == len(said(graph))
    assert {(head, relation) for head, relation, _ in said(graph)} == {(head, relation) for head, relation, _ in kept}
    assert (graph.heads < len(ITEMS)).all() and graph.node_names[:3] == ITEMS


def test_find_names_the_nodes_of_edges_as_they_were_built() -> None:
    edges = [("7", "near", "8"), ("7", "near", "B9"), ("8", "year", "1995")]
    graph = build_graph(ITEMS, table(*edges))
    assert [graph.find([edge[1:]]) for edge in edges] == [[2], [3], [4]]
    assert graph.find([("near", "8"), ("near", "unheard of"), ("near", "8"), ("far", "B9")]) == [2]


def test_paths_are_shared_nodes_and_direct_edges() -> None:
    graph = build_graph(ITEMS, table(("7", "near", "8"), ("8", "by", "z"), ("7", "by", "z"), ("1995", "of", "z")))
    z = graph.node_names.index("by:z")
    assert graph.paths(1, [0, 1, 2]) == [(2, "by", z), (2, "near", 2)]
    assert graph.paths(2, [1]) == [(1, "by", z), (1, "near", 1)]
    assert graph.paths(0, [1, 2]) == [] == graph.paths(1, [])


def test_without_leaves_out_a_relation_and_moves_no_node() -> None:
    graph = build_graph(ITEMS, table(("7", "near", "8"), ("8", "year", "1995")))
    rest = graph.without(["near", "never there"])
    assert said(rest) == {("8", "year", "year:1995")} and rest.node_names == graph.node_names
    assert not len(Graph().without(["near"])) and Graph() == Graph() and Graph() != graph


def test_logs_of_a_dataset_hold_its_graph_and_keep_it_with_fewer_rows(tmp_path: Path) -> None:
    source = tmp_path / "ml"
    source.mkdir()
    (source / "ratings.csv").write_text("userId,movieId,rating,timestamp\nu,1995,5,1\nv,7,4,2\nu,8,3,3\n")
    (source / "movies.csv").write_text("movieId,title,genres\n1995,A (1988),War|Drama\n7,B (1995),Drama\n8,C,\n")
    ingest("movielens", source, tmp_path / "d")
    logs = load_dataset(tmp_path / "d").logs()
    assert said(logs.graph) == {
        ("1995", "genre", "genre:War"),
        ("1995", "genre", "genre:Drama"),
        ("1995", "year", "year:1988"),
        ("7", "genre", "genre:Drama"),
        ("7", "year", "year:1995"),
    }
    assert logs.rows(logs.positive).graph == logs.graph
