from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from concertrl.platform.dataset import Dataset, load_dataset
from concertrl.platform.dataset_writer import DatasetWriter
from concertrl.platform.errors import ConcertError, InputError
from concertrl.platform.ingest import ingest
from concertrl.platform.split import NEVER, split_by_time

RATINGS = """userId,movieId,rating,timestamp
u2,10,5.0,100
u2,9,1.0,200
u2,10,3.5,300
u1,9,4.0,50
u1,10,2.0,60
u1,9,4.0,70
"""
MOVIES = "movieId,title,genres\n10,Ten (1979),Comedy|Romance\n9,Nine,Drama\n11,Unseen (2001),(no genres listed)\n"
TAGS = "userId,movieId,tag,timestamp\nu2,10,early,100\nu2,10,late,300\nu1,9,at the cut,70\nstranger,9,who,1\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = tmp_path / "ml"
    source.mkdir()
    for name, text in (("ratings", RATINGS), ("movies", MOVIES), ("tags", TAGS)):
        (source / f"{name}.csv").write_text(text)
    ingest("movielens", source, tmp_path / "d")
    return tmp_path / "d"


def test_logs_are_indexed_in_the_order_of_the_ids_and_hold_the_whole_catalog(folder):
    logs = load_dataset(folder).logs()
    assert logs.user_ids == ("u1", "u2")
    assert logs.item_ids == ("10", "11", "9")
    assert logs.item_titles == ("Ten (1979)", "Unseen (2001)", "Nine")
    assert logs.item_attributes == (("Comedy", "Romance", "1979"), ("2001",), ("Drama",))
    assert [logs.user_ids[user] for user in logs.users] == ["u2", "u2", "u2", "u1", "u1", "u1"]
    assert [logs.item_ids[item] for item in logs.items] == ["10", "9", "10", "9", "10", "9"]
    assert logs.ratings.tolist() == [5.0, 1.0, 3.5, 4.0, 2.0, 4.0]
    assert logs.timestamps.tolist() == [100, 200, 300, 50, 60, 70]
    assert logs.clicks.tolist() == [1.0] * 6
    assert (logs.users.dtype, logs.ratings.dtype, logs.timestamps.dtype) == (np.int64, np.float32, np.int64)
    assert logs.reviews == ("",) * 6


def test_towers_get_train_rows_and_only_tags_from_before_the_cut_of_who_wrote_them(folder):
    dataset = load_dataset(folder)
    logs = dataset.logs()
    split = split_by_time(logs)
    assert split.cuts.tolist() == [70, 300]
    train = dataset.train_logs(split)
    assert train.timestamps.tolist() == [100, 200, 50, 60]
    assert train.item_texts == ("early", "", "")
    assert logs.item_texts == ("", "", "")  # tags have a time, so they are in no text that knows no cut
    everything = split.__class__(**{**vars(split), "cuts": np.full(2, NEVER)})
    assert dataset.train_logs(everything).item_texts == ("early, late", "", "at the cut")


def test_equal_input_gives_an_equal_digest(folder, tmp_path):
    ingest("movielens", tmp_path / "ml", tmp_path / "again")
    assert load_dataset(folder).digest == load_dataset(tmp_path / "again").digest


def test_a_changed_file_is_named(folder):
    file = folder / "items.parquet"
    content = bytearray(file.read_bytes())
    content[20] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"items\.parquet: its content does not match the hash in manifest\.json"):
        load_dataset(folder)


@pytest.mark.parametrize("name", ["interactions.parquet", "edges.parquet", "manifest.json"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"{name}: is missing"):
        load_dataset(folder)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ('{"format": "other"}', "is not the manifest of a dataset"),
        ('{"format": "concertrl-dataset", "version": 99}', "has format version 99"),
        ('{"format": "concertrl-dataset", "version": 1}', "source is missing or wrong"),
    ],
)
def test_a_broken_manifest_is_refused(folder, text, says):
    (folder / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=says):
        load_dataset(folder)


def test_no_folder_and_a_file_are_refused(folder):
    with pytest.raises(InputError, match="no such dataset folder; make one with `concertrl ingest`"):
        load_dataset(folder / "nowhere")
    with pytest.raises(InputError, match="is a file, not a dataset folder"):
        load_dataset(folder / "manifest.json")


def test_a_file_of_another_schema_is_refused_though_its_hash_fits(folder):
    manifest = load_dataset(folder).manifest
    pq.write_table(pa.table({"head": ["a"]}), folder / "edges.parquet")
    with pytest.raises(InputError, match=r"edges\.parquet: has the columns head; needed are head, relation, tail"):
        Dataset(folder, manifest).table("edges")


def test_a_dataset_is_replaced_and_anything_else_is_left_alone(folder, tmp_path):
    source = tmp_path / "ml"
    (source / "ratings.csv").write_text(RATINGS + "u3,9,3.0,80\n")
    assert ingest("movielens", source, folder)["users"] == 3
    assert load_dataset(folder).manifest.users == 3
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"also holds notes\.txt"):
        ingest("movielens", source, folder)
    with pytest.raises(InputError, match="holds something else than a dataset"):
        ingest("movielens", source, source)
    with pytest.raises(InputError, match="is there and is no folder"):
        ingest("movielens", source, source / "tags.csv")
    with pytest.raises(InputError, match="cannot be written"):
        ingest("movielens", source, source / "tags.csv" / "d")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert ingest("movielens", source, empty)["path"] == str(empty)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["d", "empty", "ml"]


def test_an_interrupted_writer_leaves_the_old_dataset_and_no_trace(folder, tmp_path):
    before = load_dataset(folder).digest
    shutil.rmtree(tmp_path / "ml")
    with pytest.raises(KeyboardInterrupt), DatasetWriter(folder) as writer:
        writer.write("edges", [{"head": "a", "relation": "r", "tail": "b"}])
        raise KeyboardInterrupt
    with pytest.raises(ConcertError, match="cannot be written"), DatasetWriter(tmp_path / "new" / "deep") as writer:
        raise OSError(28, "No space left on device")
    assert load_dataset(folder).digest == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["d"]


def test_the_manifest_names_no_place_of_this_machine(folder, tmp_path):
    text = (folder / "manifest.json").read_text()
    assert str(tmp_path) not in text
    assert json.loads(text)["input"] == "ml"
