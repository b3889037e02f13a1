from __future__ import annotations

import numpy as np
import pytest
from concertrl.agents import item_models
from concertrl.agents.item_models import bpr, ease, item_knn, spectrum
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix


def likes(users: int, items: int, seed: int, share: float = 0.2) -> csr_matrix:
    draw = np.random.default_rng(seed)
    return csr_matrix((draw.random((users, items)) < share).astype(np.float32))


def off_diagonal(matrix: np.ndarray) -> np.ndarray:
    return matrix[~np.eye(len(matrix), dtype=bool)]


@settings(max_examples=20, deadline=None)
@given(st.integers(5, 40), st.integers(5, 40), st.floats(0.5, 200), st.integers(0, 99))
def test_ease_with_all_factors_is_its_closed_form(users: int, items: int, penalty: float, seed: int) -> None:
    matrix = likes(users, items, seed)
    dense = matrix.toarray().astype(np.float64)
    inverse = np.linalg.inv(dense.T @ dense + penalty * np.eye(items))
    closed = -inverse / np.diag(inverse)
    found = ease(spectrum(matrix, items, 0), penalty, items)
    ours = found.inputs @ found.outputs.T
    # Steck's model has no diagonal; ours is his everywhere else, in the one scale of the outputs.
    np.testing.assert_allclose(off_diagonal(ours), off_diagonal(closed), atol=1e-4)


@pytest.mark.parametrize("shape", [(30, 12), (12, 30)])
def test_item_knn_with_all_factors_is_the_cosine(shape: tuple[int, int]) -> None:
    matrix = likes(*shape, seed=3)
    dense = matrix.toarray()
    norms = np.maximum(np.linalg.norm(dense, axis=0), 1e-9)
    found = item_knn(matrix, 30, 0)
    np.testing.assert_allclose(found.inputs @ found.outputs.T, dense.T @ dense / norms / norms[:, None], atol=1e-5)


def test_the_spectrum_of_a_large_matrix_is_that_of_a_small_one(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = csr_matrix(likes(60, 6, 1).toarray() @ likes(6, 50, 2).toarray())
    exact = spectrum(matrix, 5, 0)
    monkeypatch.setattr(item_models, "EXACT", 10)
    drawn = spectrum(matrix, 5, 0)
    np.testing.assert_allclose(drawn.values, exact.values[:5], rtol=1e-6)
    np.testing.assert_allclose(np.abs(drawn.vectors.T @ exact.vectors[:, :5]), np.eye(5), atol=1e-5)


def test_fewer_factors_are_the_closest_scores() -> None:
    """Of all models of rank 3, the truncated one is nearest to what EASE says to the users it was fitted on."""
    matrix = likes(40, 20, 4)
    whole, few = (ease(spectrum(matrix, 20, 0), 10, rank) for rank in (20, 3))
    scores = [matrix @ found.inputs @ found.outputs.T for found in (whole, few)]
    assert few.inputs.shape == (20, 3)
    assert 0 < np.linalg.norm(scores[0] - scores[1]) < 0.6 * np.linalg.norm(scores[0])


def test_bpr_puts_a_crowds_items_first_for_a_history_it_never_saw() -> None:
    draw = np.random.default_rng(0)
    dense = np.zeros((80, 20), np.float32)
    for user in range(80):
        dense[user, draw.choice(10, 4, replace=False) + 10 * (user % 2)] = 1
    found = bpr(csr_matrix(dense), 8, 0)
    stranger = np.zeros(20, np.float32)
    stranger[[11, 14]] = 1
    scores = stranger @ found.inputs @ found.outputs.T
    assert set(np.argsort(-scores)[:8]) <= set(range(10, 20))


def test_models_are_the_same_twice() -> None:
    matrix = likes(40, 30, 5)
    for make in (lambda: bpr(matrix, 4, 1), lambda: item_knn(matrix, 4, 1)):
        first, again = make(), make()
        assert np.array_equal(first.inputs, again.inputs) and np.array_equal(first.outputs, again.outputs)
    assert not np.array_equal(bpr(matrix, 4, 1).outputs, bpr(matrix, 4, 2).outputs)
