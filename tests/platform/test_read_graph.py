"""A knowledge graph beside a source: joined by the items' ids, bad lines kept apart, other inputs refused in a line."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from concertrl.__main__ import main
from concertrl.platform.dataset import load_dataset
from concertrl.platform.errors import InputError
from concertrl.platform.ingest import ingest

RATINGS = "user_id,item_id,rating,timestamp\na,m1,5,1000\nb,m2,4,2000\na,m3,4,3000\n"
KG = "0\tfilm.director\t90\n1\tfilm.director\t90\n1\tfilm.sequel\t0\n5\tfilm.director\t91\n90\tborn.in\t92\n"
MAPPING = "m1\t0\nm2\t1\nelsewhere\t5\n"

JOINED = {("m1", "film.director", "#90"), ("m2", "film.director", "#90"), ("m2", "film.sequel", "m1")}


def source(folder: Path) -> Path:
    (folder / "t.csv").write_text(RATINGS)
    return folder / "t.csv"


def kg_folder(folder: Path, kg: str = KG, mapping: str = MAPPING, packed: bool = False) -> Path:
    folder.mkdir()
    for name, text in (("kg.txt", kg), ("item_index2entity_id.txt", mapping)):
        content = text.encode()
        (folder / (name + ".gz" * packed)).write_bytes(gzip.compress(content) if packed else content)
    return folder


def edges(folder: Path) -> set[tuple[str, ...]]:
    return {tuple(row.values()) for row in load_dataset(folder).table("edges").to_pylist()}


@pytest.mark.parametrize("packed", [False, True])
def test_entities_that_are_items_get_their_ids_and_the_others_stay_numbers(tmp_path: Path, packed: bool) -> None:
    counts = ingest("csv", source(tmp_path), tmp_path / "d", graph=kg_folder(tmp_path / "kg", packed=packed))
    assert edges(tmp_path / "d") == JOINED
    assert (counts["edges"], counts["rejected"], load_dataset(tmp_path / "d").manifest.edges) == (3, 0, 3)
    assert set(load_dataset(tmp_path / "d").logs().graph.node_names) == {"m1", "m2", "m3", "film.director:#90"}


def test_two_items_may_be_one_entity(tmp_path: Path) -> None:
    graph = kg_folder(tmp_path / "kg", mapping=MAPPING + "m3\t0\n")
    ingest("csv", source(tmp_path), tmp_path / "d", graph=graph)
    more = {("m3", "film.director", "#90"), ("m2", "film.sequel", "m3")}
    assert edges(tmp_path / "d") == JOINED | more


def test_bad_lines_are_kept_apart_with_file_line_and_reason(tmp_path: Path) -> None:
    graph = kg_folder(tmp_path / "kg", KG + "0\tdirector\n\n0\t\t90\n", MAPPING + "m3\n\t7\n")
    told: list[str] = []
    counts = ingest("csv", source(tmp_path), tmp_path / "d", graph=graph, on_reject=told.append)
    rows = load_dataset(tmp_path / "d").table("rejected").to_pylist()
    assert edges(tmp_path / "d") == JOINED and counts["rejected"] == 4 == len(told)
    assert [(row["file"], row["line"], row["reason"]) for row in rows] == [
        ("item_index2entity_id.txt", 4, "1 fields where 2 are due"),
        ("item_index2entity_id.txt", 5, "a mapping needs an item id and an entity"),
        ("kg.txt", 6, "2 fields where 3 are due"),
        ("kg.txt", 8, "relation is empty"),
    ]
    assert rows[3]["row"] == "0\t\t90"


@pytest.mark.parametrize("name", ["edges.csv", "edges.csv.gz", "edges.parquet"])
@pytest.mark.parametrize("whole_folder", [True, False])
def test_a_table_of_edges_by_item_id(tmp_path: Path, name: str, whole_folder: bool) -> None:
    rows = [("m1", "near", "m2"), ("m1", "maker", "Yam"), ("elsewhere", "maker", "Yam"), ("m2", "maker", "")]
    (tmp_path / "g").mkdir()
    place = tmp_path / "g" / name
    columns = dict(zip(("head", "relation", "tail"), map(list, zip(*rows, strict=True)), strict=True))
    if name.endswith(".parquet"):
        pq.write_table(pa.table(columns), place)
    else:
        text = "\n".join(map(",".join, [tuple(columns), *rows])).encode()
        place.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    ingest("csv", source(tmp_path), tmp_path / "d", graph=place.parent if whole_folder else place)
    assert edges(tmp_path / "d") == {("m1", "near", "m2"), ("m1", "maker", "Yam")}
    (rejected,) = load_dataset(tmp_path / "d").table("rejected").to_pylist()
    assert (rejected["file"], rejected["reason"]) == (name, "tail is empty")


def test_a_graph_adds_to_the_edges_of_the_source(tmp_path: Path) -> None:
    ml = tmp_path / "ml"
    ml.mkdir()
    (ml / "ratings.csv").write_text("userId,movieId,rating,timestamp\nu,1,5,1\nv,2,4,2\n")
    (ml / "movies.csv").write_text("movieId,title,genres\n1,A,War\n2,B,War\n3,Unrated,War\n")
    graph = kg_folder(tmp_path / "kg", "4\tdirector\t9\n", "3\t4\n")  # an item of the catalog that nobody rated
    ingest("movielens", ml, tmp_path / "d", graph=graph)
    assert edges(tmp_path / "d") == {(item, "genre", "War") for item in "123"} | {("3", "director", "#9")}


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"kg.txt": KG}, "has kg.txt and no item_index2entity_id.txt"),
        ({"notes.txt": "hello"}, "no graph; a folder with kg.txt and item_index2entity_id.txt, or with edges.parquet"),
        ({"edges.csv": "head,relaton,tail\nm1,a,b\n"}, 'no column "relation"; did you mean "relaton"'),
        ({"edges.parquet": "no parquet"}, "is not a Parquet file"),
        ({"edges.csv": "head,relation,tail\nq,a,b\n"}, "none of its 1 edges is of an item of the dataset"),
        ({"kg.txt": KG, "item_index2entity_id.txt": "9\t0\n"}, "none of its 5 edges is of an item of the dataset"),
        ({"kg.txt": "", "item_index2entity_id.txt": MAPPING}, "kg.txt: is empty"),
        (None, "no such file or folder; --graph names a knowledge graph"),
    ],
)
def test_what_is_no_graph_ends_in_one_line_and_leaves_nothing(
    tmp_path: Path, files: dict[str, str] | None, says: str
) -> None:
    for name, text in (files or {}).items():
        (tmp_path / "g").mkdir(exist_ok=True)
        (tmp_path / "g" / name).write_text(text)
    with pytest.raises(InputError) as caught:
        ingest("csv", source(tmp_path), tmp_path / "d", graph=tmp_path / "g")
    assert says in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "d").exists()


def test_the_command_line_takes_a_graph(tmp_path: Path) -> None:
    arguments = ["ingest", "csv", source(tmp_path), "--out", tmp_path / "d", "--graph", kg_folder(tmp_path / "kg")]
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0 and ", 3 edges, " in result.output
    assert edges(tmp_path / "d") == JOINED


def test_the_graph_of_movies_joins_movielens(tmp_path: Path, data_folder: Path) -> None:
    graph = data_folder / "kg-mkr" / "movie"
    if not graph.is_dir():
        pytest.skip("CONCERTRL_DATA has no kg-mkr")
    plain = ingest("movielens", data_folder / "ml-latest-small", tmp_path / "plain")
    counts = ingest("movielens", data_folder / "ml-latest-small", tmp_path / "d", graph=graph)
    added = edges(tmp_path / "d") - edges(tmp_path / "plain")
    assert (counts["edges"] - plain["edges"], counts["rejected"]) == (16_495, 0)
    assert len({head for head, _, _ in added}) == 1_855  # as the data's own notes count them
    assert len({relation for _, relation, _ in added}) == 7
