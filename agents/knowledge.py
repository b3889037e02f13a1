"""The knowledge tower: what items have in common, weighed by what users like together.

    edges  ->  incidence (N, M) of items and nodes, each node by its weight  ->  singular vectors  ->  features (N, k)
    likes  ->  likeness = features @ map @ features.T, the map that best tells a like from the user's other likes
           ->  map = left @ right.T  ->  inputs = features @ left, item vectors = features @ right

An item's vector is one hop of propagation from its nodes' vectors, v_i = sum_j lambda_ij r_ij v_j, so an item that the
fit never saw gets its own from its edges alone (`vectors_from_edges`). Nothing here knows which item it is: liked items
and new ones are alike. More hops blur what the map tells apart: on MovieLens each made the ranking worse.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags
from sklearn.utils.extmath import randomized_svd
from threadpoolctl import threadpool_limits
from torch import Tensor

from ..platform.errors import InputError
from ..platform.graph import LATE, Graph
from ..platform.logs import Logs
from ..platform.settings import KnowledgeSettings
from .profiles import calibrated
from .propagation import relation_weights
from .tower import PAD, Tower

FEATURES = 256
"""Singular vectors of the incidence that the map is learned on."""

PENALTY = 0.3
"""Ridge of the map on either side, in mean diagonals: of the features in histories, and of those in the catalog."""

PRIOR = 1e-3
"""What the map is drawn towards where likes say little: so much times the likeness of the items' own nodes."""

FADE = 0.9
"""What an interaction counts beside the one after it: tastes move. Picked on the latest likes of MovieLens."""

Array = NDArray[np.float64]


def fit(logs: Logs, settings: KnowledgeSettings, seed: int) -> Tower:
    """Item vectors `(N, d)`, d <= factors; zero for an item without an edge. Relations of `LATE` are not read.

    Extras beside those of `profiles.linear`: `edge_heads`, `edge_tails` `(e,)` nodes; and for `vectors_from_edges`
    `node_weights` `(M,)` of the nodes of `logs.graph`, `node_vectors` and `node_inputs` `(M + 1, d)`, the last row for
    what every item has. The note `nodes` has the nodes' names.

    Raises:
        InputError: the dataset has no edges, or no user liked an item that has one.
    """
    graph = _readable(logs)
    relations = relation_weights(graph, logs)
    with threadpool_limits(1):
        holds = _incidence(graph, logs.num_items)
        weights = _node_weights(graph, relations, holds)
        rows = _weighted(holds, weights)
        basis = _basis(rows, seed)
        described = np.diff(holds.indptr) > 0
        features = np.column_stack([rows @ basis, described])
        left, right = _map(features, _likes(logs), settings.factors)
        nodes = np.zeros((len(weights) + 1, features.shape[1]))
        nodes[:-1, :-1], nodes[-1, -1] = weights[:, None] * basis, 1
    tensors = {
        "inputs": features @ left,
        "node_weights": weights,
        "node_inputs": nodes @ left,
        "node_vectors": nodes @ right,
        "low": np.zeros(()),
        "fade": np.full((), FADE),
    }
    extras = {name: torch.from_numpy(np.asarray(value, np.float32)) for name, value in tensors.items()}
    strongest = np.argsort(-relations, kind="stable")[:5]
    facts = {
        "fitted_on": f"{len(graph):,} edges of {int(described.sum()):,} items, {int(_likes(logs).sum()):,} likes",
        "relations": ", ".join(f"{graph.relation_names[each]} {relations[each]:.2f}" for each in strongest),
        "items_without_vector": f"{int((~described).sum()):,} of {logs.num_items:,}",
    }
    vectors = torch.from_numpy((features @ right).astype(np.float32))
    extras |= {"edge_heads": torch.from_numpy(graph.heads), "edge_tails": torch.from_numpy(graph.tails)}
    notes = {"nodes": graph.node_names}
    return calibrated(Tower("knowledge", vectors, "linear", extras, facts, notes=notes), logs)


def vectors_from_edges(tower: Tower, nodes: Tensor) -> tuple[Tensor, Tensor]:
    """The item vectors and `inputs`, `(n, d)` each, of n items that are known by their edges alone.

    Args:
        tower: a knowledge tower.
        nodes: `(n, L)` int64, the nodes that each item has an edge to (`Graph.find`), each once, padded with `PAD`.

    An item of the fit gets the vectors it has, an item without a node that is known zeros.
    """
    present = (nodes != PAD)[:, :, None]
    places = nodes.clamp_min(0)
    size = (tower.extras["node_weights"][places][:, :, None] * present).norm(dim=1)
    scale = torch.where(size > 0, size.clamp_min(1e-12).rsqrt(), 0.0)

    def of(table: Tensor) -> Tensor:
        return (scale * (table[places] * present).sum(1) + table[-1]) * present.any(1)

    return of(tower.extras["node_vectors"]), of(tower.extras["node_inputs"])


def _readable(logs: Logs) -> Graph:
    graph = logs.graph.without(LATE)
    if not len(graph):
        late = " but such as know of the time after the cut (also_bought ...)" if len(logs.graph) else ""
        raise InputError(
            f'the dataset has no edges{late}: the "knowledge" agent has nothing to learn from; ingest it with '
            "--graph, or leave the agent out of agents.names"
        )
    if not np.isin(logs.items[logs.positive], graph.heads).any():
        raise InputError('no user liked an item that has an edge: the "knowledge" agent has nothing to learn from')
    return graph


def _likes(logs: Logs) -> csr_matrix:
    """`(U, N)`: 1 where a user liked an item."""
    cells = (logs.users[logs.positive], logs.items[logs.positive])
    likes = csr_matrix((np.ones(len(cells[0])), cells), shape=(logs.num_users, logs.num_items))
    likes.data[:] = 1
    return likes


def _incidence(graph: Graph, items: int) -> csr_matrix:
    """`(N, M)`: 1 where an item has an edge to a node, or from it; an item linked to items is a node of itself too."""
    linked = graph.tails < items
    heads, tails = graph.heads[linked], graph.tails[linked]
    rows = np.concatenate([graph.heads, tails, heads, tails])
    columns = np.concatenate([graph.tails, heads, heads, tails])
    holds = csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(items, graph.num_nodes))
    holds.data[:] = 1
    return holds


def _node_weights(graph: Graph, relations: Array, holds: csr_matrix) -> Array:
    """`(M,)`: sqrt(r) of the relations that lead to a node, times the logarithm of how rare it is (IDF)."""
    strength = np.sqrt(relations[graph.relations])
    ends = np.concatenate([graph.tails, graph.heads])
    edges = np.maximum(np.bincount(ends, minlength=graph.num_nodes), 1)
    mean = np.bincount(ends, np.tile(strength, 2), minlength=graph.num_nodes) / edges
    held = np.bincount(holds.indices, minlength=graph.num_nodes)
    return mean * np.log(max(int((np.diff(holds.indptr) > 0).sum()), 1) / np.maximum(held, 1)) * (held > 0)


def _weighted(holds: csr_matrix, weights: Array) -> csr_matrix:
    """`(N, M)`: the incidence by weight. Rows have the square root of their length: much known is more, not so much."""
    rows = csr_matrix(holds @ diags(weights))
    sizes = np.sqrt(np.asarray(rows.multiply(rows).sum(1)).ravel())
    scale = np.where(sizes > 0, 1 / np.sqrt(np.maximum(sizes, 1e-12)), 0)
    return csr_matrix(diags(scale) @ rows)


def _basis(rows: csr_matrix, seed: int) -> Array:
    """`(M, k)`: right singular vectors, divided so that features have a root mean square length of 1 together."""
    count = min(FEATURES, *rows.get_shape())
    state = np.random.RandomState(np.random.MT19937(np.random.SeedSequence([seed, *b"knowledge"])))
    _, values, right = randomized_svd(rows, count, n_iter=4, random_state=state)  # pyright: ignore[reportArgumentType]
    kept = values > 1e-6 * max(float(values[0]), 1e-12)
    size = np.sqrt((values[kept] ** 2).sum() / rows.get_shape()[0])
    return right[kept].T / max(float(size), 1e-12)


def _map(features: Array, likes: csr_matrix, factors: int) -> tuple[Array, Array]:
    """The map's factors, left and right, `(k, d)` each.

    With Z = X F, what users like in features, ridge regression of likes on the user's other likes has the map

        (Zt Z + a I)^-1 (Ft (Xt X - diag) F + a p Ft F) (Ft F + b I)^-1

    (X likes, F features, p `PRIOR`): without the diagonal no like is told from itself, and without likes the map is
    p times the identity. Its largest singular values make the factors.
    """
    met = likes @ features
    in_histories, in_catalog = met.T @ met, features.T @ features
    itself = (features * np.asarray(likes.sum(0)).ravel()[:, None]).T @ features
    one = np.eye(len(in_catalog))
    a, b = (PENALTY * max(float(np.trace(matrix)) / len(one), 1e-9) for matrix in (in_histories, in_catalog))
    target = in_histories - itself + a * PRIOR * in_catalog
    likeness = np.linalg.solve(in_histories + a * one, target) @ np.linalg.inv(in_catalog + b * one)
    u, s, v = np.linalg.svd(likeness)
    kept = min(factors, int((s > 1e-9 * max(float(s[0]), 1e-12)).sum()))
    return u[:, :kept] * np.sqrt(s[:kept]), v[:kept].T * np.sqrt(s[:kept])
