"""What cannot be used: a row goes to rejected.parquet, a whole input ends in one line, and nothing is half-written."""

from __future__ import annotations

import csv
import gzip
import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from concertrl.platform.dataset import load_dataset
from concertrl.platform.errors import InputError
from concertrl.platform.ingest import ingest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

HEADER = "user_id,item_id,rating,timestamp\n"
GOOD = "a,x,5,1000\nb,y,4,2000\n"

BAD_ROWS = [
    ("c,x,five,3000", 'rating "five" is not a number'),
    ("c,x,nan,3000", 'rating "nan" is not a number'),
    ("c,x,inf,3000", 'rating "inf" is not a number'),
    ("c,x,true,3000", 'rating "true" is not a number'),
    ("c,x,1e999,3000", 'rating "1e999" is not a number'),
    ("c,x,,3000", "rating is empty"),
    (",x,5,3000", "user_id is empty"),
    ("c,  ,5,3000", "item_id is empty"),
    ("c,x,5,", "timestamp is empty"),
    ("c,x,5,yesterday", 'timestamp "yesterday" is not a time'),
    ("c,x,5,2020-02-30", 'timestamp "2020-02-30" is not a time'),
    ("c,x,5,-1", 'timestamp "-1" is before 1970'),
    ("c,x,5,1969-12-31", 'timestamp "1969-12-31" is before 1970'),
    ("c,x,5,2999-01-01", 'timestamp "2999-01-01" is in the future'),
    ("c,x,5,99999999999999999999", "is in the future"),
    ("c,x,5,1600000000000", "is in the future (milliseconds?)"),
    ("c,x,5", "3 fields where 4 are due"),
    ("c,x,5,3000,9", "5 fields where 4 are due"),
    ('c,"x"y,5,3000', "not a CSV row"),
]


def ingest_text(folder: Path, text: str | bytes, name: str = "t.csv", source: str = "csv", **options) -> dict:
    content = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
    (folder / name).write_bytes(content)
    return ingest(source, folder / name, folder / "d", **options)


def rejected(folder: Path) -> list[dict]:
    return load_dataset(folder / "d").table("rejected").to_pylist()


@pytest.mark.parametrize(("row", "reason"), BAD_ROWS)
def test_a_bad_row_is_kept_apart_with_file_line_and_reason(tmp_path, row, reason):
    told: list[str] = []
    counts = ingest_text(tmp_path, f"{HEADER}a,x,5,1000\n{row}\nb,y,4,2000\n", on_reject=told.append)
    assert (counts["interactions"], counts["rejected"]) == (2, 1)
    (kept,) = rejected(tmp_path)
    assert (kept["file"], kept["line"]) == ("t.csv", 3)
    assert reason in kept["reason"]
    assert told == [f"t.csv:3: {kept['reason']} (row kept in rejected.parquet)"]
    if "CSV" not in reason:
        assert kept["row"].split(",")[:2] == row.split(",")[:2]


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("click", "2", "is not 0 or 1"),
        ("conversion", "0.5", "is not 0 or 1"),
        ("dwell_s", "-1", "is not seconds, 0 or more"),
        ("propensity", "0", "is not a probability above 0"),
        ("propensity", "1.5", "is not a probability above 0"),
        ("position", "1.5", "is not a whole number, 0 or more"),
    ],
)
def test_numbers_out_of_their_range_are_rejected_and_empty_ones_are_not(tmp_path, column, value, reason):
    rows = f"user_id,item_id,rating,{column}\na,x,5,\nb,y,4,1\nc,x,3,{value}\n"
    assert ingest_text(tmp_path, rows)["interactions"] == 2
    assert rejected(tmp_path)[0]["reason"] == f'{column} "{value}" {reason}'


@pytest.mark.parametrize(("source", "value"), [("movielens", "0"), ("movielens", "5.5"), ("amazon", "0.5")])
def test_a_rating_that_the_source_cannot_hold_is_rejected(tmp_path, source, value):
    headers = {"movielens": "userId,movieId,rating,timestamp\n", "amazon": "reviewerID,asin,overall,unixReviewTime\n"}
    counts = ingest_text(tmp_path, f"{headers[source]}{GOOD}c,x,{value},3000\n", "ratings.csv", source)
    assert (counts["interactions"], counts["rejected"]) == (2, 1)
    assert f'"{value}" is not from' in rejected(tmp_path)[0]["reason"]


def test_line_numbers_count_lines_within_quotes_and_blank_lines(tmp_path):
    text = 'user_id,item_id,review\na,x,"one\ntwo\r\nthree"\n\nb,y,"fine"\n,y,"no\nuser"\n"never closed,x,y\n'
    ingest_text(tmp_path, text)
    assert [(row["line"], row["reason"].split(":")[0]) for row in rejected(tmp_path)] == [
        (7, "user_id is empty"),
        (9, "not a CSV row"),
    ]


def test_an_open_quote_costs_its_window_and_not_the_rest_of_the_file(tmp_path):
    rows = "".join(f"u{row % 9},i{row % 8},{'text ' * 8}\n" for row in range(20_000))
    counts = ingest_text(tmp_path, 'user_id,item_id,review\na,x,"open\n' + rows)
    assert counts["rejected"] == 1
    assert counts["interactions"] > 16_000
    assert "(to line" in rejected(tmp_path)[0]["reason"]


def test_bytes_that_are_no_text_cost_their_row_only(tmp_path):
    counts = ingest_text(tmp_path, HEADER.encode() + GOOD.encode() * 20 + b"caf\xe9,x,3,3000\n")
    assert (counts["interactions"], counts["rejected"]) == (40, 1)
    assert rejected(tmp_path)[0]["reason"] == r'user_id "caf\\udce9" has bytes that are not UTF-8 text'


def test_strange_json_is_rejected_and_never_run(tmp_path):
    hostile = "__import__('pathlib').Path('ran').touch()"
    lines = [
        '{"user_id": "a", "item_id": "x", "rating": 5}',
        '{"user_id": "b", "item_id": 7, "rating": "4"}',
        "[" * 5000,
        "{" + hostile + ": 1}",
        '{"user_id": {"a": 1}, "item_id": "x", "rating": 5}',
        '{"user_id": "\\ud800", "item_id": "x", "rating": 5}',
        '{"user_id": "c", "item_id": "x", "rating": NaN}',
        '{"user_id": "c", "item_id": "x", "rating": ' + "9" * 5000 + "}",
        '["user_id"]',
    ]
    counts = ingest_text(tmp_path, "\n".join(lines), "t.jsonl", "jsonl")
    assert (counts["interactions"], counts["rejected"]) == (2, 7)
    assert not Path("ran").exists()
    assert max(len(row["row"]) for row in rejected(tmp_path)) == 500


def test_bad_catalog_rows_are_rejected_too(tmp_path):
    (tmp_path / "movies.csv").write_text("movieId,title,genres\nx,X,Drama\nx,again,Drama\n,empty,\n")
    (tmp_path / "tags.csv").write_text("userId,movieId,tag,timestamp\na,x,t,soon\na,,t,1\na,x,t,99999999999999\n")
    ingest_text(tmp_path, "userId,movieId,rating,timestamp\n" + GOOD, "ratings.csv", "movielens")
    assert [(row["file"], row["line"]) for row in rejected(tmp_path)] == [
        *(("tags.csv", line) for line in (2, 3, 4)),
        *(("movies.csv", line) for line in (3, 4)),
    ]


def test_only_the_first_five_rejected_rows_are_told(tmp_path):
    told: list[str] = []
    assert ingest_text(tmp_path, HEADER + GOOD + ",,,\n" * 9, on_reject=told.append)["rejected"] == 9
    assert len(told) == 5


NOISE = random.Random(0)
LONG = HEADER + "".join(f"{NOISE.randbytes(9).hex()},{NOISE.randbytes(9).hex()},4,1000\n" for _ in range(30_000))
WHOLE = [
    ("csv", "t.csv", "", {}, "is empty"),
    ("csv", "t.csv", gzip.compress(b"", mtime=0), {}, "is empty"),
    ("csv", "t.csv", HEADER.encode(), {}, "has no rows"),
    ("csv", "t.csv", b"\n\n", {}, "no column names"),
    ("csv", "t.csv", b'"user_id\n', {}, "the line of column names is not CSV"),
    ("csv", "t.csv", b"user_id,item_id,item_id\na,x,x\n", {}, 'two columns are named "item_id"'),
    ("csv", "t.csv", random.Random(0).randbytes(5000), {}, "is not text"),
    ("csv", "t.csv", (HEADER + GOOD).encode("utf-16"), {}, "is not text"),
    ("csv", "t.csv.gz", gzip.compress((HEADER + GOOD * 9999).encode(), mtime=0)[:-5], {}, "gzip file is cut short"),
    ("csv", "t.csv.gz", gzip.compress(LONG.encode(), 1, mtime=0)[:-2000], {}, "gzip file is cut short"),
    ("csv", "t.csv.gz", b"\x1f\x8b" + b"not really gzip", {}, "gzip file is damaged"),
    (
        "csv",
        "t.csv",
        b"user_i,item_id\na,x\nb,y\n",
        {},
        'no column "user_id"; map one with user_id=COLUMN (columns: user_i,',
    ),
    ("csv", "t.csv", HEADER + GOOD, {"user_id": "usr_id"}, 'no column "usr_id"; did you mean "user_id"?'),
    ("csv", "t.csv", HEADER + GOOD, {"user": "user_id"}, 'unknown key "user"; did you mean "user_id"?'),
    ("csv", "t.csv", HEADER + GOOD, {"timestamp": "timestamp", "timestamp_ms": "timestamp"}, "not both"),
    ("csv", "t.csv", HEADER + GOOD.replace("b,", "a,"), {}, "all rows are of one user, 'a'"),
    ("csv", "t.csv", HEADER + GOOD.replace(",y", ",x"), {}, "all rows are of one item, 'x'"),
    (
        "csv",
        "t.csv",
        HEADER + "a,x,five,1\n" * 3,
        {},
        'none of its 3 rows can be used; the first: t.csv:2: rating "five"',
    ),
    ("jsonl", "t.jsonl", HEADER + GOOD, {}, "no JSON object in its first 3 lines"),
    ("parquet", "t.parquet", HEADER + GOOD, {}, "is not a Parquet file"),
    ("parquet", "t.parquet", b"", {}, "is empty"),
    (
        "movielens",
        "ratings.csv",
        "userId,movieID,rating,timestamp\n",
        {},
        'no column "movieId"; did you mean "movieID"?',
    ),
    ("movielens", "other.csv", HEADER + GOOD, {}, "no u.data, ratings.dat or ratings.csv"),
    ("movielens", "ratings.csv", HEADER + GOOD, {"user_id": "a"}, "movielens: needs no mapping"),
    ("amazon", "reviews.csv", HEADER + GOOD, {}, 'no column "reviewerID"'),
    ("amazon", "meta_x.json", "{}\n", {}, "no file of reviews; metadata alone"),
    ("amazn", "t.csv", HEADER + GOOD, {}, 'no source "amazn"; did you mean "amazon"?'),
]


@pytest.mark.parametrize(("source", "name", "content", "mapping", "says"), WHOLE)
def test_an_input_that_cannot_be_used_ends_in_one_line_and_leaves_nothing(
    tmp_path, source, name, content, mapping, says
):
    with pytest.raises(InputError) as caught:
        ingest_text(tmp_path, content, name, source, mapping=mapping)
    message = str(caught.value)
    assert says in message
    assert "\n" not in message
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_a_damaged_parquet_file_and_a_type_that_has_no_text(tmp_path):
    values = [str(number) for number in range(40_000)]
    pq.write_table(pa.table({"user_id": values, "item_id": values}), tmp_path / "t.parquet", compression="gzip")
    content = bytearray((tmp_path / "t.parquet").read_bytes())
    content[4000:4400] = bytes(400)
    with pytest.raises(InputError, match="the Parquet file is damaged"):
        ingest_text(tmp_path, bytes(content), "t.parquet", "parquet")
    pq.write_table(pa.table({"user_id": [{"a": 1}], "item_id": ["x"]}), tmp_path / "t.parquet")
    with pytest.raises(InputError, match='column "user_id" is of type struct'):
        ingest("parquet", tmp_path / "t.parquet", tmp_path / "d")
    assert [entry.name for entry in tmp_path.iterdir()] == ["t.parquet"]


def test_a_missing_path_and_a_folder_for_a_file(tmp_path):
    with pytest.raises(InputError, match="no such file or folder"):
        ingest("csv", tmp_path / "nowhere.csv", tmp_path / "d")
    with pytest.raises(InputError, match="is a folder; give a file"):
        ingest("csv", tmp_path, tmp_path / "d")
    with pytest.raises(InputError, match=r"no u\.data, ratings\.dat or ratings\.csv, .* there is: nothing"):
        ingest("movielens", tmp_path, tmp_path / "d")
    with pytest.raises(InputError, match=r"no file of reviews; they end in \.json"):
        ingest("amazon", tmp_path, tmp_path / "d")


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(*[st.text(max_size=6) | st.sampled_from(["5", "a", "1000"])] * 4), max_size=12))
def test_whatever_the_rows_each_is_used_or_rejected(tmp_path, rows):
    with (tmp_path / "t.csv").open("w", encoding="utf-8", errors="surrogatepass", newline="") as file:
        csv.writer(file).writerows([HEADER.strip().split(","), *GOOD_ROWS, *rows])
    counts = ingest("csv", tmp_path / "t.csv", tmp_path / "d")
    assert counts["interactions"] + counts["rejected"] == len(rows) + 40
    assert counts["interactions"] >= 40


GOOD_ROWS = [line.split(",") for line in GOOD.split()] * 20

PEAK = """
import re, sys  # and no torch: it is not needed here, and takes seconds
from concertrl.platform.ingest import ingest
ingest("csv", sys.argv[1], sys.argv[2])
assert "torch" not in sys.modules
print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])  # rusage would count the parent's peak
"""


def test_memory_does_not_grow_with_the_file(tmp_path):
    peaks = []
    for rows in (60_000, 200_000):
        table = tmp_path / f"{rows}.csv"
        with table.open("w") as file:
            file.write("user_id,item_id,rating,timestamp,review\n")
            file.writelines(f"u{row % 997},i{row % 499},4,{row},{'some words ' * 55}{row}\n" for row in range(rows))
        run = [sys.executable, "-c", PEAK, str(table), str(tmp_path / "d")]
        peaks.append(int(subprocess.run(run, capture_output=True, text=True, check=True).stdout))
    assert peaks[1] - peaks[0] < 50_000  # kilobytes; the larger file has 84 MB of text more
