"""Every layout that `ingest` reads, small and by hand, plain and gzip; then the real data sets."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from concertrl.platform.dataset import load_dataset
from concertrl.platform.ingest import ingest

FLAGS = "0|" * 18 + "0"
COMEDY = "0|0|0|0|0|1|" + "0|" * 12 + "0"
ML_100K = {
    "u.data": "1\t7\t3\t881250949\n2\t7\t5\t881250950\n2\t8\t1\t881250951\n",
    "u.item": f"7|Caf\xe9 (1995)|01-Jan-1995||http://x|{COMEDY}\n8|Eight|||y|{FLAGS}\n9|Nine|||y|{FLAGS}\n",
    "u.user": "1|24|M|technician|85711\n2|53|F|other|94043\n",
}
ML_1M = {
    "ratings.dat": "1::7::3::978300760\n2::7::5::978300761\n2::8::1::978300762\n",
    "movies.dat": "7::Caf\xe9 (1995)::Comedy\n8::Eight::\n9::Nine::\n",
    "users.dat": "1::F::1::10::48067\n2::M::56::16::70072\n",
    "tags.dat": "2::7::so good::978300700\n",
}
ML_LATEST = {
    "ratings.csv": "userId,movieId,rating,timestamp\r\n1,7,3.0,964982703\r\n2,7,5.0,964982704\r\n2,8,0.5,964982705\r\n",
    "movies.csv": 'movieId,title,genres\r\n7,"Caf\xe9 (1995)",Comedy\r\n8,Eight,(no genres listed)\r\n9,Nine,\r\n',
    "tags.csv": 'userId,movieId,tag,timestamp\r\n2,7,"so, good",964982700\r\n',
}


def write(folder: Path, files: dict[str, str], encoding: str, packed: bool) -> Path:
    folder.mkdir()
    for name, text in files.items():
        content = text.encode(encoding)
        (folder / (name + ".gz" * packed)).write_bytes(gzip.compress(content) if packed else content)
    return folder


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("files", "encoding", "layout"),
    [
        (ML_100K, "latin-1", "ml-100k"),
        (ML_1M, "latin-1", "ml-1m"),
        (ML_1M, "utf-8", "ml-1m"),
        (ML_LATEST, "utf-8", "ml-latest"),
    ],
)
def test_movielens(tmp_path, files, encoding, layout, packed):
    source = write(tmp_path / "ml", files, encoding, packed)
    counts = ingest("movielens", source, tmp_path / "d")
    assert {name: counts[name] for name in ("interactions", "users", "items", "edges", "rejected")} == {
        "interactions": 3,
        "users": 2,
        "items": 3,
        "edges": 2,
        "rejected": 0,
    }
    dataset = load_dataset(tmp_path / "d")
    items = {row["item_id"]: row for row in dataset.table("items").to_pylist()}
    assert dataset.manifest.layout == layout
    assert items["7"]["title"] == "Café (1995)"
    assert items["7"]["attributes"] == ["Comedy", "1995"]
    assert items["9"]["attributes"] == []
    assert [tag["tag"][:2] for tag in items["7"]["tags"]] == (["so"] if "tags" in "".join(files) else [])
    assert {tuple(edge.values()) for edge in dataset.table("edges").to_pylist()} == {
        ("7", "genre", "Comedy"),
        ("7", "year", "1995"),
    }
    users = {row["user_id"]: row["attributes"] for row in dataset.table("users").to_pylist()}
    assert ("gender: F" in users["2" if layout == "ml-100k" else "1"]) if users else layout == "ml-latest"
    assert dataset.logs().timestamps.tolist()[1] - dataset.logs().timestamps.tolist()[0] == 1


def test_movielens_reads_the_ratings_file_itself_and_lives_without_a_catalog(tmp_path):
    source = write(tmp_path / "ml", {"ratings.csv": ML_LATEST["ratings.csv"]}, "utf-8", True)
    counts = ingest("movielens", source / "ratings.csv.gz", tmp_path / "d")
    assert (counts["items"], counts["edges"]) == (2, 0)
    assert "no movies.csv" in load_dataset(tmp_path / "d").manifest.notes[0]


REVIEW = {
    "reviewerID": "A1",
    "asin": "B1",
    "overall": 5.0,
    "unixReviewTime": 1393545600,
    "summary": "Good &amp; loud",
    "reviewText": "It&#34;s <b>",
}
META_2014 = (
    "{'asin': 'B1', 'title': 'Guitar &amp; case', 'brand': 'Yam', 'categories': [['Music', 'Guitars']], "
    "'description': 'Don\\'t drop', 'related': {'also_bought': ['B2', 'B9']}, 'price': 9.99}\n"
    "{'asin': 'B7', 'title': 'Never reviewed'}\n{'asin': __import__('os')}\n"
)
META_2018 = json.dumps(
    {
        "asin": "B1",
        "title": "Guitar & case",
        "brand": "Yam",
        "category": ["Music", "Guitars"],
        "description": ["Don't drop"],
    }
    | {"also_buy": ["B2", "B9"], "rank": [], "feature": []}
)


def reviews(*changes: dict) -> str:
    return "".join(json.dumps({**REVIEW, **change}) + "\n" for change in changes)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("meta", "rejected"), [(META_2014, 1), (META_2018 + "\n{}\n", 0)])
def test_amazon_json_lines_with_metadata(tmp_path, meta, rejected, packed):
    text = reviews({}, {"reviewerID": "A2"}, {"asin": "B2", "summary": None, "vote": "3"}, {}, {"overall": 4.0})
    files = {"Instruments_5.json": text, "meta_Instruments.json": meta}
    counts = ingest("amazon", write(tmp_path / "amazon", files, "utf-8", packed), tmp_path / "d")
    assert (counts["interactions"], counts["users"], counts["items"], counts["rejected"]) == (3, 2, 2, rejected)
    dataset = load_dataset(tmp_path / "d")
    assert (
        dataset.manifest.duplicates == 2
    )  # equal in user, item, time and text; another rating does not make it another
    logs = dataset.logs()
    assert logs.reviews == ('Good & loud\nIt"s <b>', 'Good & loud\nIt"s <b>', 'It"s <b>')
    assert logs.item_titles == ("Guitar & case", "")
    assert logs.item_texts == ("Don't drop", "")
    assert logs.item_attributes[0] == ("Yam", "Music", "Guitars")
    relations = {(edge["relation"], edge["tail"]) for edge in dataset.table("edges").to_pylist()}
    assert relations == {
        ("brand", "Yam"),
        ("category", "Music"),
        ("category", "Guitars"),
        ("also_bought", "B2"),
        ("also_bought", "B9"),
    }


def test_amazon_csv_edition_with_line_ends_within_a_review(tmp_path):
    text = (
        "reviewerID,asin,helpful,reviewText,overall,summary,unixReviewTime,reviewTime\n"
        'A1,B1,"[0, 0]","two\nlines, ""quoted""",5.0,good,1393545600,"02 28, 2014"\n'
        'A2,B2,"[0, 0]",,five,&lt;3,1393545600,"02 28, 2014"\n'
        'A2,B2,"[0, 0]",,4.0,&lt;3,1393545600,"02 28, 2014"\n'
    )
    (tmp_path / "reviews.csv").write_text(text)
    told: list[str] = []
    ingest("amazon", tmp_path / "reviews.csv", tmp_path / "d", on_reject=told.append)
    assert told == ['reviews.csv:4: overall "five" is not a number (row kept in rejected.parquet)']
    assert load_dataset(tmp_path / "d").logs().reviews == ('good\ntwo\nlines, "quoted"', "<3")


TABLE = pa.table(
    {
        "who": ["a", "b", "b"],
        "what": [1.0, 2.0, 2.0],
        "when": pa.array([1_600_000_000_000_000, 1_600_000_001_500_000, None], pa.timestamp("us")),
        "clicked": [True, False, True],
        "propensity": [0.5, 0.25, 1.0],
        "position": [0, 1, 2],
        "name": ["One", "Two", "other"],
        "attributes": [["x", "y"], [], ["z"]],
    }
)
MAPPING = {"user_id": "who", "item_id": "what", "timestamp": "when", "click": "clicked", "title": "name"}


def as_file(kind: str, folder: Path) -> Path:
    path = folder / f"table.{kind}"
    rows = [{**row, "attributes": "|".join(row["attributes"])} for row in TABLE.to_pylist()]
    if kind == "parquet":
        pq.write_table(TABLE, path)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row, default=str) + "\n" for row in rows))
    else:
        lines = [
            ";".join(rows[0]),
            *(";".join("" if value is None else str(value) for value in row.values()) for row in rows),
        ]
        path.write_text("\ufeff" + "\n".join(lines), "utf-8")
    return path


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_any_table_with_a_mapping(tmp_path, kind):
    told: list[str] = []
    counts = ingest(kind, as_file(kind, tmp_path), tmp_path / "d", MAPPING, on_reject=told.append)
    line = {"csv": 4, "jsonl": 3, "parquet": 3}[kind]
    assert told == [f"table.{kind}:{line}: when is empty (row kept in rejected.parquet)"]
    assert counts == {
        "interactions": 2,
        "users": 2,
        "items": 2,
        "edges": 0,
        "rejected": 1,
        "first": "2020-09-13T12:26:40Z",
        "last": "2020-09-13T12:26:41Z",
        "path": str(tmp_path / "d"),
    }
    rows = load_dataset(tmp_path / "d").table("interactions")
    assert rows["timestamp"].cast(pa.int64()).to_pylist() == [1_600_000_000_000_000, 1_600_000_001_500_000]
    assert rows["click"].to_pylist() == [1.0, 0.0]
    assert rows["rating"].null_count == 2
    assert rows["propensity"].to_pylist() == [0.5, 0.25]
    assert rows["position"].to_pylist() == [0, 1]
    logs = load_dataset(tmp_path / "d").logs()
    assert logs.item_titles == ("One", "Two")
    assert logs.item_attributes == (("x", "y"), ())
    assert [item.removesuffix(".0") for item in logs.item_ids] == ["1", "2"]


def test_a_table_of_ids_alone_is_clicks_without_time(tmp_path):
    (tmp_path / "t.csv").write_text("user_id,item_id\na,x\nb,y\n")
    counts = ingest("csv", tmp_path / "t.csv", tmp_path / "d")
    assert (counts["first"], counts["last"]) == (None, None)
    logs = load_dataset(tmp_path / "d").logs()
    assert logs.clicks.tolist() == [1, 1]
    assert logs.timestamps.tolist() == [0, 0]
    assert "no times" in load_dataset(tmp_path / "d").manifest.notes[0]


def test_milliseconds_and_a_wide_rating_scale(tmp_path):
    (tmp_path / "t.csv").write_text("user_id,item_id,rating,t\na,x,8,1600000000500\nb,y,10,1600000001000\n")
    mapping = {"timestamp_ms": "t"}
    assert ingest("csv", tmp_path / "t.csv", tmp_path / "d", mapping)["first"] == "2020-09-13T12:26:40Z"
    dataset = load_dataset(tmp_path / "d")
    assert dataset.logs().ratings.tolist() == [8, 10]
    assert "ratings go up to 10" in dataset.manifest.notes[0]


def test_progress_reaches_the_end(tmp_path):
    rows = "".join(f"u{row % 50},i{row % 70}\n" for row in range(60_000))
    (tmp_path / "t.csv").write_text("user_id,item_id\n" + rows)
    seen: list[tuple[int, int, int]] = []
    ingest("csv", tmp_path / "t.csv", tmp_path / "d", progress=lambda *now: seen.append(now))
    size = (tmp_path / "t.csv").stat().st_size
    assert [row for row, _, _ in seen] == [50_000, 60_000]
    assert 0 < seen[0][1] <= size
    assert seen[-1] == (60_000, size, size)


@pytest.mark.parametrize(
    ("source", "name", "counts"),
    [
        ("movielens", "ml-latest-small", (100_836, 610, 9_742, 0)),
        ("amazon", "amazon-musical-instruments-5core", (10_261, 1_429, 900, 0)),
    ],
)
def test_real_data_have_the_published_counts(tmp_path, data_folder, source, name, counts):
    found = ingest(source, data_folder / name, tmp_path / "d")
    assert tuple(found[key] for key in ("interactions", "users", "items", "rejected")) == counts
    reviews = load_dataset(tmp_path / "d").logs().reviews
    assert not any("&#34;" in review or "&amp;" in review for review in reviews)
    times = {"ml-latest-small": ("1996-03-29", "2018-09-24")}.get(name, ("2004-09-18", "2014-07-22"))
    assert (found["first"][:10], found["last"][:10]) == times
