from __future__ import annotations

import pytest
import torch
from concertrl.platform.ranking import best_items, descending_keys, key_index, rows_matmul, smallest
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

INF = float("inf")
VALUES = st.one_of(
    st.sampled_from([0.0, -0.0, INF, -INF, 1.0, -1.0, 1e-45, -1e-45]),
    st.floats(width=32, allow_nan=False, allow_subnormal=False),
)


def ordered(values: list[float]) -> list[int]:
    """Indices by the plain rule: higher value first, then lower index."""
    return sorted(range(len(values)), key=lambda index: (-values[index], index))


@given(st.lists(VALUES, min_size=1, max_size=40))
def test_keys_order_by_value_then_index(values: list[float]) -> None:
    keys = descending_keys(torch.tensor([values]), torch.arange(len(values)))
    assert key_index(keys[0].sort().values).tolist() == ordered(values)
    assert key_index(keys[0]).tolist() == list(range(len(values)))


@given(st.lists(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=7, max_size=7), min_size=1, max_size=5), st.data())
def test_smallest_are_the_first_of_the_sorted(rows: list[list[int]], data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 7))
    assert smallest(torch.tensor(rows), n).tolist() == [sorted(row)[:n] for row in rows]


@given(batch=st.integers(1, 20), count=st.integers(1, 60), share=st.floats(0, 1), seed=st.integers(0, 999))
def test_best_items_are_those_of_a_full_sort_ties_included(batch: int, count: int, share: float, seed: int) -> None:
    """Small whole numbers, so that scores are exact and tie often, at the last place too."""
    draws = torch.Generator().manual_seed(seed)
    queries = torch.randint(-2, 3, (batch, 3), generator=draws).float()
    vectors = torch.randint(-1, 2, (3, count), generator=draws).float()
    penalty = -100.0 * (torch.rand(batch, count, generator=draws) < 0.3).float() + 0.0
    n = max(1, round(share * count))
    items, scores = best_items(queries, vectors, penalty, n)
    exact = queries @ vectors + penalty
    assert items.tolist() == [ordered(row)[:n] for row in exact.tolist()]
    assert torch.equal(scores, exact.gather(1, items))


@given(
    batch=st.integers(8, 20), count=st.integers(64, 700), n=st.integers(1, 12), reach=st.sampled_from([1, 5, 1000]),
    seed=st.integers(0, 999),
)  # fmt: skip
def test_best_items_of_a_large_catalog(batch: int, count: int, n: int, reach: int, seed: int) -> None:
    """Whole numbers again; by `reach` most scores tie, or some, or almost none."""
    draws = torch.Generator().manual_seed(seed)
    queries = torch.randint(-reach, reach + 1, (batch, 3), generator=draws).float()
    vectors = torch.randint(-reach, reach + 1, (3, count), generator=draws).float()
    penalty = -(2.0**23) * (torch.rand(batch, count, generator=draws) < 0.3).float() + 0.0
    items, _ = best_items(queries, vectors, penalty, n)
    exact = queries @ vectors + penalty
    assert items.tolist() == [ordered(row)[:n] for row in exact.tolist()]


def test_scores_that_are_not_numbers_still_give_items() -> None:
    """The loss is refused later, by name; here nothing may break."""
    queries = torch.ones(8, 2)
    queries[3] = float("nan")
    items, _ = best_items(queries, torch.arange(1800.0).view(2, 900), torch.zeros(8, 900), 10)
    assert all(len(set(row)) == 10 and min(row) >= 0 and max(row) < 900 for row in items.tolist())


@pytest.mark.parametrize("batch", [1, 2, 7, 8, 9, 63, 64, 65, 100, 128, 129, 200])
def test_best_items_have_the_scores_of_topk(batch: int) -> None:
    draws = torch.Generator().manual_seed(batch)
    queries, vectors = torch.randn(batch, 16, generator=draws), torch.randn(16, 500, generator=draws)
    penalty = torch.zeros(batch, 500)
    items, scores = best_items(queries, vectors, penalty, 30)
    expected = torch.topk(queries.double() @ vectors.double(), 30, dim=1)
    torch.testing.assert_close(scores.double(), expected.values, rtol=1e-5, atol=1e-5)
    assert torch.equal(items, expected.indices)


def split(rows: Tensor, *sizes: int) -> list[Tensor]:
    return list(rows.split([*sizes, len(rows) - sum(sizes)]))


@pytest.mark.parametrize("sizes", [(1,), (5,), (8,), (64,), (65, 1), (100, 30, 3)])
def test_a_row_has_the_same_bits_in_any_batch(sizes: tuple[int, ...]) -> None:
    draws = torch.Generator().manual_seed(1)
    queries, vectors = torch.randn(150, 32, generator=draws), torch.randn(32, 800, generator=draws)
    penalty = -1e4 * (torch.rand(150, 800, generator=draws) < 0.1).float() + 0.0
    items, scores = best_items(queries, vectors, penalty, 50)
    parts = [best_items(q, vectors, p, 50) for q, p in zip(split(queries, *sizes), split(penalty, *sizes), strict=True)]
    assert torch.equal(torch.cat([part[0] for part in parts]), items)
    assert torch.equal(torch.cat([part[1] for part in parts]), scores)
    square = vectors @ vectors.t()
    assert torch.equal(
        torch.cat([rows_matmul(part, square) for part in split(queries, *sizes)]), rows_matmul(queries, square)
    )
    torch.testing.assert_close(rows_matmul(queries[:3], square), queries[:3] @ square)
