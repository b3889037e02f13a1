"""A response model fitted to logs: how likely each user is to like each item.

    logs --labelled_pairs--> liked 1, low-rated or unseen 0 --fit_response--> ResponseModel --logits--> P(click)

    logit(u, i) = (p_u + G g_u) . (q_i + F f_i) + b_u + h . g_u + c_i + w . f_i + b

with f_i the item's features and g_u the user's (`features.py`): a logistic matrix factorisation (Johnson 2014,
"Logistic matrix factorization for implicit feedback data") whose factors have a regression on features as their mean
(Agarwal and Chen 2009, "Regression-based latent factor models"), so that rare items and new users get sensible ones.
The parameters are the most probable ones under Gaussian priors, found by minibatch Adam.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from ..platform.draws import derive
from ..platform.logs import Logs
from ..platform.threads import torch_threads
from .appeal import of_catalog, of_items
from .features import UserInputs, user_inputs

NEGATIVES = 3
"""Unseen items drawn for each liked one."""

BATCH, LEARNING_RATE = 8192, 0.02
SMALLEST_BATCH, LEAST_STEPS = 256, 16
"""A small log is learned from in smaller batches, so that an epoch still has (about) this many steps."""

EPOCHS, PATIENCE = 60, 3
EPOCH_PAIRS = 500_000
"""Pairs learned from in an epoch, at most."""

FACTOR_STDS = (0.1, 0.25, 0.5)
"""Standard deviations of the factors' prior to choose from: how much an item or user may differ from its features."""

BIAS_STD, MAP_STD = 2.0, 0.5

_REDRAWS = 16
_START, _ORDER, _UNSEEN = 1, 2, 3


@dataclass(frozen=True)
class Pairs:
    """n labelled pairs: `users`, `items` `(n,)` int64 and `labels` `(n,)` float32, 1 liked, 0 not."""

    users: Tensor
    items: Tensor
    labels: Tensor

    def __len__(self) -> int:
        """How many pairs."""
        return len(self.users)

    def rows(self, index: Tensor) -> Pairs:
        """The pairs at `index` `(m,)`."""
        return Pairs(self.users[index], self.items[index], self.labels[index])


@dataclass(frozen=True)
class ResponseModel:
    """Tensors that give a logit for every pair.

    Attributes:
        item_vectors, item_bias: `(N, d)` and `(N,)` float32, the bias in logits.
        user_vectors, user_bias: `(U, M * d)` and `(U,)`; M interests a user, of which an item need suit one.
        temperature: of the interests (`appeal.py`), in logits.
    """

    item_vectors: Tensor
    item_bias: Tensor
    user_vectors: Tensor
    user_bias: Tensor
    temperature: float = 1.0

    def logits(self, users: Tensor, items: Tensor) -> Tensor:
        """`(n,)` logits of n (user, item) pairs."""
        vectors = self.item_vectors[items][:, None, :]
        match = of_items(self.user_vectors[users], vectors, "any", self.temperature)[:, 0]
        return match + self.user_bias[users] + self.item_bias[items]

    def catalog_logits(self, users: Tensor) -> Tensor:
        """`(n, N)` logits of the whole catalog."""
        match = of_catalog(self.user_vectors[users], self.item_vectors, "any", self.temperature)
        return match + self.user_bias[users, None] + self.item_bias

    def rescaled(self, scale: float, shift: float) -> ResponseModel:
        """The model whose logits are `scale * logit + shift`."""
        return ResponseModel(
            self.item_vectors,
            scale * self.item_bias,
            scale * self.user_vectors,
            scale * self.user_bias + shift,
            scale * self.temperature,
        )


@dataclass(frozen=True)
class Fit:
    """A fitted model, what it was fitted with, and its log loss on the validation pairs (NaN without any)."""

    model: ResponseModel
    factor_std: float
    epochs: int
    loss: float


def seen_keys(logs: Logs) -> NDArray[np.int64]:
    """Ascending `user * N + item` of every logged pair, each once."""
    return np.unique(logs.users * logs.num_items + logs.items)


def labelled_pairs(logs: Logs, seen: NDArray[np.int64], seed: int) -> Pairs:
    """The logged pairs in order with their labels, then `NEGATIVES` unseen items for each liked one, labelled 0.

    Args:
        logs: the rows to label.
        seen: `seen_keys` of the rows whose pairs may not be drawn as unseen.
        seed: of the draws.
    """
    liked = logs.positive
    users, items = draw_unseen(np.repeat(logs.users[liked], NEGATIVES), logs.num_items, seen, seed)
    return Pairs(
        torch.from_numpy(np.concatenate([logs.users, users])),
        torch.from_numpy(np.concatenate([logs.items, items])),
        torch.from_numpy(np.concatenate([liked, np.zeros(len(users), bool)])).float(),
    )


def draw_unseen(
    users: NDArray[np.int64], num_items: int, seen: NDArray[np.int64], seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Users and for each an item, uniform over those it has not seen.

    A user who has seen nearly everything may lose some or all of its draws.
    """
    draws = np.random.default_rng(derive(seed, _UNSEEN))
    items = draws.integers(num_items, size=len(users))
    for _ in range(_REDRAWS):
        hits = np.flatnonzero(_contains(seen, users * num_items + items))
        if not len(hits):
            return users, items
        items[hits] = draws.integers(num_items, size=len(hits))
    fresh = ~_contains(seen, users * num_items + items)
    return users[fresh], items[fresh]


def _contains(ascending: NDArray[np.int64], keys: NDArray[np.int64]) -> NDArray[np.bool_]:
    place = np.searchsorted(ascending, keys).clip(max=len(ascending) - 1)
    return ascending[place] == keys


def tune_response(logs: Logs, items: Tensor, factors: int, seed: int, validation: Pairs, *, interests: int = 1) -> Fit:
    """The fit with the prior and the number of epochs that suit `validation` best. Arguments as of `fit_response`."""
    fits = [
        fit_response(logs, items, factors, seed, std, validation=validation, interests=interests) for std in FACTOR_STDS
    ]
    return min(fits, key=lambda fit: fit.loss)


def fit_response(
    logs: Logs,
    items: Tensor,
    factors: int,
    seed: int,
    factor_std: float,
    *,
    validation: Pairs | None = None,
    epochs: int = EPOCHS,
    interests: int = 1,
) -> Fit:
    """Fits the model to `logs`, with unseen items drawn anew each epoch. The same arguments give the same model.

    Args:
        logs: the rows to learn from.
        items: `(N, e)` from `features.item_inputs`.
        factors: d.
        seed: of the start, the order and the unseen items.
        factor_std: of the factors' prior.
        validation: stops once their log loss has not fallen for `PATIENCE` epochs; the best epoch is kept.
        epochs: passes over the logs; at most, with `validation`.
        interests: M; with more than 1 the first term is log mean_m exp((p_um + G_m g_u) . (q_i + F f_i)).
    """
    with one_thread():
        model = _Factorisation(items, user_inputs(logs, items), factors, factor_std, derive(seed, _START), interests)
        seen = seen_keys(logs)
        size = _batch_size(len(logs) + NEGATIVES * int(logs.positive.sum()))
        # Adam's steps are noisier on smaller batches; the root keeps the noise of an epoch the same.
        rate = LEARNING_RATE * math.sqrt(size / BATCH)
        optimizer = torch.optim.Adam(model.parameters(), lr=rate, fused=True)
        best = Fit(model.frozen(), factor_std, 0, float("inf"))
        for epoch in range(1, epochs + 1):
            pairs = labelled_pairs(logs, seen, derive(seed, _UNSEEN, epoch))
            _train_epoch(model, optimizer, pairs, size, derive(seed, _ORDER, epoch))
            if validation is None:
                continue
            current = model.frozen()
            predicted = current.logits(validation.users, validation.items)
            loss = float(binary_cross_entropy_with_logits(predicted, validation.labels))
            if loss < best.loss:
                best = Fit(current, factor_std, epoch, loss)
            elif epoch - best.epochs >= PATIENCE:
                break
        return best if validation is not None else Fit(model.frozen(), factor_std, epochs, float("nan"))


def _batch_size(pairs: int) -> int:
    return min(BATCH, max(SMALLEST_BATCH, pairs // LEAST_STEPS))


def _train_epoch(model: _Factorisation, optimizer: torch.optim.Optimizer, pairs: Pairs, size: int, seed: int) -> None:
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))[:EPOCH_PAIRS]
    for index in order.split(size):
        batch = pairs.rows(index)
        likelihood = binary_cross_entropy_with_logits(model(batch), batch.labels)
        loss = likelihood + model.penalty() / len(pairs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


class _Factorisation(nn.Module):
    """The parameters of a fit, and the features, which are fixed."""

    def __init__(
        self, items: Tensor, users: UserInputs, factors: int, factor_std: float, seed: int, interests: int
    ) -> None:
        super().__init__()
        self.items, self.users, self.factor_std = items, users, factor_std
        noise = torch.Generator().manual_seed(seed)
        self.item_factors = nn.Parameter(0.1 * torch.randn(len(items), factors, generator=noise))
        self.user_factors = nn.Parameter(0.1 * torch.randn(len(users.statistics), interests * factors, generator=noise))
        self.item_map = nn.Parameter(0.1 * torch.randn(items.shape[1], factors, generator=noise))
        self.user_map = nn.Parameter(torch.zeros(users.size, interests * factors))
        self.item_bias = nn.Parameter(torch.zeros(len(items)))
        self.user_bias = nn.Parameter(torch.zeros(len(users.statistics)))
        self.item_bias_map = nn.Parameter(torch.zeros(items.shape[1]))
        self.user_bias_map = nn.Parameter(torch.zeros(users.size))
        self.intercept = nn.Parameter(torch.zeros(()))

    def forward(self, pairs: Pairs) -> Tensor:
        """`(n,)` logits, each without what its own label adds to the user's features."""
        f = self.items[pairs.items]
        g = self.users.rows(pairs.users, without=f, labels=pairs.labels)
        user_vectors = self.user_factors[pairs.users] + g @ self.user_map
        item_vectors = self.item_factors[pairs.items] + f @ self.item_map
        user_bias = self.user_bias[pairs.users] + g @ self.user_bias_map
        item_bias = self.item_bias[pairs.items] + f @ self.item_bias_map
        match = of_items(user_vectors, item_vectors[:, None, :], "any", 1.0)[:, 0]
        return match + user_bias + item_bias + self.intercept

    def penalty(self) -> Tensor:
        """Minus the logarithm of the priors' density, up to a constant."""
        groups = (
            (self.factor_std, (self.item_factors, self.user_factors)),
            (BIAS_STD, (self.item_bias, self.user_bias, self.item_bias_map, self.user_bias_map)),
            (MAP_STD, (self.item_map, self.user_map)),
        )
        return torch.stack([part.square().sum() / (2 * std**2) for std, parts in groups for part in parts]).sum()

    @torch.no_grad()
    def frozen(self) -> ResponseModel:
        g = self.users.rows(torch.arange(len(self.user_bias)))
        return ResponseModel(
            self.item_factors + self.items @ self.item_map,
            self.item_bias + self.items @ self.item_bias_map,
            self.user_factors + g @ self.user_map,
            self.user_bias + g @ self.user_bias_map + self.intercept,
        )


def one_thread() -> AbstractContextManager[None]:
    """Runs torch on one thread, so that sums are added in one order on every machine."""
    return torch_threads(1)
