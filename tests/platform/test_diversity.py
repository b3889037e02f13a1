from __future__ import annotations

from typing import Literal, get_args

import pytest
import torch
from concertrl.platform.diversity import diversify, dpp, mmr, relevance
from concertrl.platform.fusion import Fused
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

BATCH, POOL, SLATE = 5, 9, 4

Method = Literal["mmr", "dpp"]
METHODS: tuple[Method, ...] = get_args(Method)


def drawn(seed: int) -> tuple[Fused, Tensor]:
    noise = torch.Generator().manual_seed(seed)
    items = torch.stack([torch.randperm(20, generator=noise)[:POOL] for _ in range(BATCH)])
    points = torch.randn(BATCH, POOL, generator=noise).sort(1, descending=True).values
    return Fused(items, points), torch.randn(20, 6, generator=noise)


def likeness(fused: Fused, vectors: Tensor) -> Tensor:
    rows = torch.nn.functional.normalize(vectors[fused.slate], dim=2)
    return rows @ rows.transpose(1, 2)


@pytest.mark.parametrize("method", METHODS)
@given(seed=st.integers(0, 200), weight=st.sampled_from([0.0, 1e-3, 0.3, 0.7, 1.0]))
def test_a_slate_is_of_the_pool_and_has_nothing_twice(method: Method, seed: int, weight: float) -> None:
    fused, vectors = drawn(seed)
    slates = diversify(fused, vectors, SLATE, method, weight)
    for slate, pool in zip(slates.tolist(), fused.slate.tolist(), strict=True):
        assert len(set(slate)) == SLATE and set(slate) <= set(pool)


@pytest.mark.parametrize("method", METHODS)
def test_without_a_weight_the_order_stays(method: Method) -> None:
    fused, vectors = drawn(1)
    assert torch.equal(diversify(fused, vectors, SLATE, method, 0.0), fused.slate[:, :SLATE])


@pytest.mark.parametrize("method", METHODS)
def test_the_more_weight_the_less_alike(method: Method) -> None:
    alike = []
    for weight in (0.0, 0.4, 0.9):
        total = 0.0
        for seed in range(30):
            fused, vectors = drawn(seed)
            rows = torch.nn.functional.normalize(vectors[diversify(fused, vectors, SLATE, method, weight)], dim=2)
            total += float((rows @ rows.transpose(1, 2)).sum((1, 2)).mean())
        alike.append(total)
    assert alike[0] > alike[1] > alike[2]


def test_mmr_written_out() -> None:
    fused, vectors = drawn(3)
    worth, alike = relevance(fused.points), likeness(fused, vectors)
    found = mmr(worth, alike, SLATE, 0.3)
    for row in range(BATCH):
        taken: list[int] = []
        for _ in range(SLATE):
            left = [place for place in range(POOL) if place not in taken]
            taken.append(
                max(
                    left,
                    key=lambda p: (
                        0.7 * float(worth[row, p]) - 0.3 * max([0.0, *(float(alike[row, p, other]) for other in taken)])
                    ),
                )
            )
        assert found[row].tolist() == taken


def test_each_place_of_a_dpp_adds_the_most_volume() -> None:
    """The determinant of the kernel of what is taken, computed anew at each place."""
    fused, vectors = drawn(4)
    worth, alike = relevance(fused.points).double(), likeness(fused, vectors).double()
    found = dpp(worth, alike, SLATE, 0.5)
    quality = worth.exp()
    kernel = quality[:, :, None] * alike * quality[:, None, :]
    for row in range(BATCH):
        taken: list[int] = []
        for _ in range(SLATE):
            left = [place for place in range(POOL) if place not in taken]
            volumes = {p: float(torch.linalg.det(kernel[row][[*taken, p]][:, [*taken, p]])) for p in left}
            taken.append(max(volumes, key=lambda p: volumes[p]))
        assert found[row].tolist() == taken


@pytest.mark.parametrize("method", METHODS)
def test_items_that_are_the_same_or_say_nothing_break_nothing(method: Method) -> None:
    fused, _ = drawn(5)
    for vectors in (torch.zeros(20, 6), torch.ones(20, 6)):
        slates = diversify(fused, vectors, SLATE, method, 0.5)
        assert all(len(set(slate)) == SLATE for slate in slates.tolist())


def test_places_without_an_item_are_not_taken_while_others_are_left() -> None:
    fused, vectors = drawn(6)
    short = Fused(fused.slate.clone(), fused.points.clone())
    short.slate[:, SLATE + 1 :], short.points[:, SLATE + 1 :] = -1, -torch.inf
    for method in METHODS:
        assert bool((diversify(short, vectors, SLATE, method, 0.6) >= 0).all())


def test_a_row_is_the_same_in_any_batch() -> None:
    fused, vectors = drawn(7)
    for method in METHODS:
        whole = diversify(fused, vectors, SLATE, method, 0.5)
        for row in range(BATCH):
            one = Fused(fused.slate[row : row + 1], fused.points[row : row + 1])
            assert torch.equal(diversify(one, vectors, SLATE, method, 0.5)[0], whole[row])
