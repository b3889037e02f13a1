"""What an item's neighbours in the knowledge graph say of it, added to what a tower knows.

    graph, logs  ->  relation_weights: r, how much better than chance sharing a relation predicts liking both
    graph, r     ->  graph_matrix: lambda_ij r_ij  ->  propagate: v_i <- v_i + alpha * sum_j lambda_ij r_ij v_j

Entities start from nothing, so items speak to items in two hops: to what they point to, and back from there.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor
from torch.nn.functional import pad

from ..platform.graph import LATE, Graph
from ..platform.logs import Logs
from .profiles import calibrated
from .tower import Tower

PRIOR_PAIRS = 10.0
"""Pairs of likes, each divided by how many items share the tail, that a weight is drawn towards 0 by."""


def relation_weights(graph: Graph, logs: Logs) -> NDArray[np.float64]:
    """`(R,)` r >= 0: logarithm of how many more pairs of likes of one user share the relation than chance would have.

    Chance is a user's likes drawn by popularity alone. A relation that says nothing of liking, or of which next to
    nothing is known, has the weight 0; where that is so of all, each has the weight 1.
    """
    likes = logs.positive
    cells = (np.ones(int(likes.sum())), (logs.users[likes], logs.items[likes]))
    liked = csr_matrix(cells, shape=(logs.num_users, graph.num_nodes))
    counts, popularity = np.bincount(logs.users[likes]), np.bincount(logs.items[likes], minlength=graph.num_nodes)
    by_chance = float((counts * (counts - 1)).sum()) / max(float(popularity.sum() ** 2 - (popularity**2).sum()), 1.0)
    weights = np.zeros(len(graph.relation_names))
    for relation in np.unique(graph.relations):
        edges = graph.relations == relation
        ends = (graph.heads[edges], graph.tails[edges])
        holds = csr_matrix((np.ones(len(ends[0])), ends), shape=(graph.num_nodes, graph.num_nodes))
        # What many items share counts less: each tail has the same weight in all, as `graph_matrix` has it.
        rare = 1 / np.maximum(np.bincount(ends[1], minlength=graph.num_nodes), 1)
        likes_of_tail = csr_matrix(liked @ holds)
        likes_of_tail.data **= 2
        met = float((likes_of_tail @ rare).sum() - popularity @ (holds @ rare))
        expected = by_chance * float((popularity @ holds) ** 2 @ rare - popularity**2 @ (holds @ rare))
        weights[relation] = max(0.0, math.log((met + PRIOR_PAIRS) / (expected + PRIOR_PAIRS)))
    return weights if weights.any() else np.ones_like(weights)


def graph_matrix(graph: Graph, weights: NDArray[np.float64]) -> Tensor:
    """`(M, M)` sparse: lambda_ij r_ij of the edge between nodes i and j, in both directions, 0 without one.

    lambda_ij = 1 / sqrt(d_i d_j), with d the sums of the weights `weights` `(R,)` at a node (Kipf and Welling 2017,
    equation 2): no vector grows without bound, and what everything shares says little.
    """
    ends = np.concatenate([[graph.heads, graph.tails], [graph.tails, graph.heads]], axis=1)
    strength = np.tile(weights[graph.relations], 2)
    degree = np.bincount(ends[0], strength, minlength=graph.num_nodes)
    scale = 1 / np.sqrt(np.maximum(degree, 1e-12))
    values = torch.from_numpy((strength * scale[ends[0]] * scale[ends[1]]).astype(np.float32))
    size = (graph.num_nodes, graph.num_nodes)
    return torch.sparse_coo_tensor(torch.from_numpy(ends), values, size, check_invariants=True).coalesce()


def propagate(vectors: Tensor, matrix: Tensor, alpha: float, hops: int) -> Tensor:
    """v_i <- v_i + alpha * sum_j lambda_ij r_ij v_j, `hops` times, all nodes at once.

    Args:
        vectors: `(M, d)`, a node each.
        matrix: `(M, M)` sparse, of `graph_matrix`.
        alpha: share of the neighbours, at least 0.
        hops: how far along the edges a vector is heard.
    """
    for _ in range(hops):
        vectors = vectors + alpha * torch.sparse.mm(matrix, vectors)
    return vectors


def propagated(tower: Tower, logs: Logs, alpha: float, hops: int = 2) -> Tower:
    """The tower with its item vectors, and its `inputs` where it has them, propagated over the graph of `logs`.

    Columns that are common to all tastes (popularity) stay as they are. A dataset without edges changes nothing.
    """
    graph = logs.graph.without(LATE)
    if not len(graph) or not alpha:
        return tower
    matrix = graph_matrix(graph, relation_weights(graph, logs))
    taste = tower.dim - tower.common

    def spread(vectors: Tensor) -> Tensor:
        items = len(vectors)
        nodes = pad(vectors[:, :taste], (0, 0, 0, graph.num_nodes - items))
        return torch.cat([propagate(nodes, matrix, alpha, hops)[:items], vectors[:, taste:]], dim=1)

    extras = {**tower.extras}
    if "inputs" in extras:
        extras["inputs"] = spread(extras["inputs"])
    vectors = spread(tower.item_vectors)
    if "gram" in extras:  # of the user's equations, which are over the item vectors as they are now
        old, new = tower.item_vectors[:, :taste], vectors[:, :taste]
        extras["gram"] = extras["gram"] - old.T @ old + new.T @ new
    facts = {**tower.facts, "propagated": f"over {len(graph):,} edges, {hops} hops, alpha {alpha:g}"}
    return calibrated(replace(tower, item_vectors=vectors, extras=extras, facts=facts), logs)
