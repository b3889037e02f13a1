from __future__ import annotations

import pyarrow as pa
import pytest
from concertrl.platform.errors import InputError
from concertrl.platform.schema import EDGES, INTERACTIONS, TABLES, check


def test_a_table_of_the_schema_passes():
    for schema in TABLES.values():
        check(schema.empty_table(), schema)


def test_a_missing_column_is_named_with_the_file():
    table = INTERACTIONS.empty_table().drop_columns(["click"])
    with pytest.raises(InputError, match=r"^a\.parquet: has the columns .* needed are .*click"):
        check(table, INTERACTIONS, "a.parquet")


def test_another_type_is_named():
    table = INTERACTIONS.empty_table().set_column(3, "rating", pa.array([], pa.string()))
    with pytest.raises(InputError, match="column rating is of type string; needed is float"):
        check(table, INTERACTIONS)


def test_an_empty_value_where_none_may_be_is_named():
    table = pa.table({"head": ["a", None], "relation": ["r", "r"], "tail": ["b", "c"]})
    with pytest.raises(InputError, match="column head has 1 empty values"):
        check(table, EDGES)
