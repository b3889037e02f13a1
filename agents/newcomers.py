"""New items get vectors at once, without a fit: from their text, their edges, or the known items nearest to them.

rows  ->  NewItems  ->  text embedded, edges found in the graph
      ->  content and knowledge place an item by what is said of it
      ->  every other tower by the mean vector of the NEIGHBOURS most like it, in content or knowledge
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..platform.errors import InputError
from ..platform.graph import Graph
from ..platform.settings import EncoderSettings
from . import content, knowledge
from .features import joined_text
from .themes import EXTRA
from .tower import PAD, PER_ITEM, Tower

NEIGHBOURS = 20
"""Known items whose mean stands in for a new one: the kNN mapping of Gantner et al. 2010, "Learning
attribute-to-feature mappings for cold-start recommendations"."""


@dataclass(frozen=True)
class NewItems:
    """n items that no fit has seen: ids, titles, texts as the encoder reads them, and edges (relation, tail)."""

    ids: tuple[str, ...]
    titles: tuple[str, ...]
    texts: tuple[str, ...]
    edges: tuple[tuple[tuple[str, str], ...], ...]

    def __len__(self) -> int:
        return len(self.ids)


def read_new_items(table: Iterable[Mapping[str, Any]] | Any, known: Container[str]) -> NewItems:
    """Reads `Team.add_items`'s table.

    Raises:
        InputError: an id is missing, is there twice, or is known; or a column holds something else.
    """
    rows: list[Mapping[str, Any]] = list(getattr(table, "to_dict", lambda _: table)("records"))
    ids = [_word(row.get("item_id")) for row in rows]
    for place, item in enumerate(ids):
        if not item:
            raise InputError(f"items, row {place}: no item_id; every new item needs one")
        if item in known or item in ids[:place]:
            why = "is in the catalog already" if item in known else "is there twice"
            raise InputError(f'items, row {place}: item_id "{item}" {why}')
    titles = [_word(row.get("title")) for row in rows]
    attributes = [[_word(word) for word in _some(row, "attributes", place)] for place, row in enumerate(rows)]
    texts = [
        joined_text(title, words, _word(row.get("text")))
        for title, words, row in zip(titles, attributes, rows, strict=True)
    ]
    edges = [_edges(row, place) for place, row in enumerate(rows)]
    return NewItems(tuple(ids), tuple(titles), tuple(texts), tuple(edges))


def _word(value: object) -> str:
    return "" if value is None or value != value else str(value).strip()


def _some(row: Mapping[str, Any], column: str, place: int) -> list[Any]:
    value = row.get(column)
    if value is None or (isinstance(value, float) and value != value):
        return []
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise InputError(f"items, row {place}: {column} is not a list")
    return list(value)


def _edges(row: Mapping[str, Any], place: int) -> tuple[tuple[str, str], ...]:
    pairs: list[tuple[Any, ...]] = [() if isinstance(pair, str) else tuple(pair) for pair in _some(row, "edges", place)]
    if any(len(pair) != 2 for pair in pairs):
        raise InputError(f'items, row {place}: edges are pairs (relation, tail), such as ("genre", "Drama")')
    return tuple((str(relation), str(tail)) for pair in pairs for relation, tail in [pair])


def extended(towers: Mapping[str, Tower], new: NewItems, encoder: EncoderSettings) -> dict[str, Tower]:
    """The towers with the new items behind the known ones, in the order given."""
    placed: dict[str, Tower] = {}
    if "content" in towers and "axes" in towers["content"].extras:
        placed["content"] = _by_text(towers["content"], new, encoder)
    if "knowledge" in towers:
        placed["knowledge"] = _by_edges(towers["knowledge"], new)
    near = _nearest(list(placed.values()), len(new))
    longer = {name: placed[name] if name in placed else _like(tower, near) for name, tower in towers.items()}
    return {name: _with_themes(tower, near) for name, tower in longer.items()}


def _by_text(tower: Tower, new: NewItems, encoder: EncoderSettings) -> Tower:
    told = torch.tensor([bool(text) for text in new.texts])
    vectors = torch.zeros(len(new), tower.dim)
    if told.any():
        rows = torch.from_numpy(content.encoder_of(tower, encoder).encode([text for text in new.texts if text]))
        # In a catalog without item texts the reviews' words are what a new item's words are like.
        modality = "text" if f"{content.CENTRE}text" in tower.extras else "reviews"
        vectors[told] = content.place(tower, {modality: rows})
    placed = tower.with_items(vectors, {})
    if "text" not in tower.notes:
        return placed
    texts = (*tower.notes["text"], *(content.quoted(text) for text in new.texts))
    return replace(placed, notes={**tower.notes, "text": texts})


def _by_edges(tower: Tower, new: NewItems) -> Tower:
    graph = Graph(node_names=tower.notes["nodes"])
    found = [graph.find(edges) for edges in new.edges]
    nodes = torch.full((len(new), max(1, *map(len, found), 1)), PAD)
    for row, places in enumerate(found):
        nodes[row, : len(places)] = torch.tensor(places, dtype=torch.int64)
    vectors, inputs = knowledge.vectors_from_edges(tower, nodes)
    return tower.with_items(vectors, {"inputs": inputs})


def _nearest(placed: list[Tower], number: int) -> Tensor:
    """`(n, N)`: equal parts of the known items nearest to each new one, summing to 1; zeros where nothing is known.

    Near is what has the greatest cosine on average over the towers that placed the item.
    """
    if not placed:
        return torch.zeros(number, 0)
    known = len(placed[0].item_vectors) - number
    likeness = torch.zeros(number, known)
    for tower in placed:
        vectors = normalize(tower.item_vectors, dim=1)
        likeness += vectors[known:] @ vectors[:known].T
    best = likeness.topk(min(NEIGHBOURS, known), dim=1)
    parts = torch.zeros(number, known).scatter_(1, best.indices, 1.0 / best.indices.shape[1])
    return parts * (best.values > 0).any(1, keepdim=True)


def _like(tower: Tower, near: Tensor) -> Tower:
    """The tower with each new item at the mean of its nearest ones, or at the mean of all where none is near."""
    extras = {name: _mean(tower.extras[name], near) for name in PER_ITEM if name in tower.extras}
    return tower.with_items(_mean(tower.item_vectors, near), extras)


def _mean(table: Tensor, near: Tensor) -> Tensor:
    """Of a table of the known items `(N, d)` the rows of the new ones, `(n, d)`."""
    if not near.numel():
        return table.mean(0).expand(len(near), -1)
    lost = ~near.any(1, keepdim=True)
    return near @ table + lost * table.mean(0)


def _with_themes(tower: Tower, near: Tensor) -> Tower:
    """The tower, the new items in the themes of the nearest ones, in parts."""
    if EXTRA not in tower.extras:
        return tower
    themes = tower.extras[EXTRA]
    return replace(tower, extras={**tower.extras, EXTRA: torch.cat([themes, _mean(themes, near)])})
