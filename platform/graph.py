"""The knowledge graph: what items have in common, such as a genre, a director or a brand, and what leads to what.

    edges of a dataset (head, relation, tail)  --build_graph-->  Graph, its first N nodes the items

An edge is read in both directions: an item is near what it points to, and what points to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .schema import EDGES, pc

ATTRIBUTES = ("genre", "year", "brand", "category", "topic")
"""Relations whose tails are words and never items, even where an item's id reads the same, as the year 1995 may."""

LATE = ("also_bought", "bought_together", "also_viewed", "buy_after_viewing")
"""Relations that a publisher counts after the last interaction: they know of the time after any cut."""


def _no_nodes() -> NDArray[np.int64]:
    return np.zeros(0, np.int64)


@dataclass(frozen=True, eq=False)
class Graph:
    """e edges between nodes; nodes 0 .. N-1 are the items in the order of `Logs.item_ids`.

    Attributes:
        heads, tails: `(e,)` int64 nodes; a head is an item.
        relations: `(e,)` int64 indices of `relation_names`.
        node_names: of all nodes: the items' ids, then `relation:tail` for what is no item.
        relation_names: sorted.
    """

    heads: NDArray[np.int64] = field(default_factory=_no_nodes)
    relations: NDArray[np.int64] = field(default_factory=_no_nodes)
    tails: NDArray[np.int64] = field(default_factory=_no_nodes)
    node_names: tuple[str, ...] = ()
    relation_names: tuple[str, ...] = ()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Graph):
            return NotImplemented
        return all(np.array_equal(mine, vars(other)[name]) for name, mine in vars(self).items())

    def __hash__(self) -> int:
        return hash((len(self), self.node_names, self.relation_names))

    def __len__(self) -> int:
        return len(self.heads)

    @property
    def num_nodes(self) -> int:
        return len(self.node_names)

    def without(self, names: Sequence[str]) -> Graph:
        """The graph without the edges of the relations `names`; nodes and relations keep their indices."""
        keep = ~np.isin(
            self.relations, [self.relation_names.index(name) for name in names if name in self.relation_names]
        )
        return replace(self, heads=self.heads[keep], relations=self.relations[keep], tails=self.tails[keep])

    def find(self, edges: Sequence[tuple[str, str]]) -> list[int]:
        """The nodes that edges (relation, tail) lead to, each once, sorted; those that the graph lacks are left out."""
        index = {name: node for node, name in enumerate(self.node_names)}
        names = (
            tail if relation not in ATTRIBUTES and tail in index else f"{relation}:{tail}" for relation, tail in edges
        )
        return sorted({index[name] for name in names if name in index})

    def paths(self, item: int, others: Sequence[int]) -> list[tuple[int, str, int]]:
        """How `item` is tied to `others`: (other, relation, node both lead to; or the other itself, tied directly)."""
        near = np.isin(self.heads, others)
        key = self.relations * self.num_nodes + self.tails
        shared = near & np.isin(key, key[self.heads == item]) & (self.heads != item)
        ties = np.stack([self.heads, self.relations, self.tails], axis=1)
        away = ties[(self.heads == item) & np.isin(self.tails, others)][:, [2, 1, 2]]
        towards = ties[near & (self.tails == item)][:, [0, 1, 0]]
        found = np.unique(np.concatenate([ties[shared], away, towards]), axis=0).tolist()
        return [(other, self.relation_names[relation], node) for other, relation, node in found]


def build_graph(item_ids: Sequence[str], edges: pa.Table) -> Graph:
    """The graph of a catalog of N `item_ids`, from rows of `EDGES` in any order.

    A tail that is an item's id is that item's node, unless its relation is one of `ATTRIBUTES`; any other tail is a
    node of its own for each relation. Equal edges count once; edges of heads that are no items, and of an item to
    itself, are left out. The same rows in another order give the same graph.
    """
    ids = pa.array(item_ids, pa.string())
    heads, relations, tails = (edges[name].combine_chunks() for name in EDGES.names)
    words = pc.is_in(relations, value_set=pa.array(ATTRIBUTES))
    places = pc.if_else(words, pa.scalar(None, pa.int32()), pc.index_in(tails, value_set=ids))
    names = pc.binary_join_element_wise(relations, tails, ":")
    heads = pc.index_in(heads, value_set=ids)
    known = pc.and_(pc.is_valid(heads), pc.invert(pc.fill_null(pc.equal(heads, places), False)))
    heads, relations, names, places = (column.filter(known) for column in (heads, relations, names, places))
    entities = pc.unique(names.filter(pc.is_null(places))).sort()
    relation_names = pc.unique(relations).sort()
    nodes = pc.coalesce(places, pc.add(pc.index_in(names, value_set=entities), pa.scalar(len(item_ids), pa.int32())))
    columns = (heads, pc.index_in(relations, value_set=relation_names), nodes)
    rows = np.unique(np.stack([column.to_numpy().astype(np.int64) for column in columns], axis=1), axis=0)
    return Graph(
        heads=rows[:, 0].copy(),
        relations=rows[:, 1].copy(),
        tails=rows[:, 2].copy(),
        node_names=(*item_ids, *entities.to_pylist()),
        relation_names=tuple(relation_names.to_pylist()),
    )
