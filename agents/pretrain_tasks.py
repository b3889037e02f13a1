"""The tasks of pretraining: what each learns from, its loss, and what it is judged by on rows held out.

click     who acts on what          cross-entropy with sampled negatives          AUC over all other items
rating    stars                     squared error                                 RMSE
ranking   likes before the rest     pairwise (Rendle et al. 2009, "BPR-Opt")      NDCG@10
polarity  a review: praise, blame   cross-entropy                                 ROC AUC
masked    a hidden item of a user   cross-entropy over the sampled catalog        recall@20
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, softplus

from ..platform.logs import LIKED_STARS
from .pretrain_data import Known, Material
from .pretrain_model import Model, Seen
from .sentiment import DISLIKED_STARS
from .validation import ndcg

PLACES = 20
"""A hidden item is found when it is among so many."""

CHUNK = 512
"""Users, or rows, that the whole catalog is scored for at once."""


@dataclass(frozen=True)
class Question:
    """A task's measure asked of a model: about the rows `held` `(n,)` bool, by the histories `known`."""

    material: Material
    known: Known
    held: Tensor


@dataclass(frozen=True)
class Task:
    """One task. `rows` marks those it learns from or is judged on, `(n,)` bool; `loss` reads a batch of them.

    Attributes:
        loss: `(model, material, seen, rows (B,), negatives (M,)) -> scalar`.
        measure: `(model, question) -> figure`, over the rows that are both held out and the task's own.
        figure: the measure's name.
        sign: 1 where more is better, -1 where less is.
        enough: whether such rows `(n,)` bool, all of the task, make a problem.
    """

    rows: Callable[[Material], Tensor]
    loss: Callable[[Model, Material, Seen, Tensor, Tensor], Tensor]
    measure: Callable[[Model, Question], float]
    figure: str
    sign: int = 1
    enough: Callable[[Material, Tensor], bool] = lambda material, rows: bool(rows.any())


def _liked(material: Material) -> Tensor:
    return material.acted & material.liked


def _rated(material: Material) -> Tensor:
    return material.stars > 0


def _praise_or_blame(material: Material) -> Tensor:
    clear = (material.stars >= LIKED_STARS) | (material.stars <= DISLIKED_STARS)
    return (material.read >= 0) & (material.stars > 0) & clear


def _both(material: Material, rows: Tensor) -> bool:
    liked = material.liked[rows]
    return bool(liked.any() and not liked.all())


def _contrast(
    model: Model, material: Material, seen: Seen, task: str, rows: Tensor, negatives: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of the rows' own items `(B,)`, of the negatives `(B, M)`, and which of these the user has not met."""
    users = seen.users(material.users[rows], seen.known.slot[rows])
    others = model.logits(seen, task, users, negatives)
    unmet = ~seen.known.holds(material.users[rows], negatives)
    return model.target_logits(material, task, users, rows), others, unmet


def _click_loss(model: Model, material: Material, seen: Seen, rows: Tensor, negatives: Tensor) -> Tensor:
    own, others, unmet = _contrast(model, material, seen, "click", rows, negatives)
    return (softplus(-own).mean() + (softplus(others) * unmet).sum() / unmet.sum().clamp_min(1)) / 2


def _ranking_loss(model: Model, material: Material, seen: Seen, rows: Tensor, negatives: Tensor) -> Tensor:
    own, others, unmet = _contrast(model, material, seen, "ranking", rows, negatives)
    return (softplus(others - own[:, None]) * unmet).sum() / unmet.sum().clamp_min(1)


def _masked_loss(model: Model, material: Material, seen: Seen, rows: Tensor, negatives: Tensor) -> Tensor:
    own, others, unmet = _contrast(model, material, seen, "masked", rows, negatives)
    logits = torch.cat([own[:, None], others.masked_fill(~unmet, -torch.inf)], dim=1)
    return cross_entropy(logits, torch.zeros(len(rows), dtype=torch.int64))


def _rating_loss(model: Model, material: Material, seen: Seen, rows: Tensor, negatives: Tensor) -> Tensor:
    return (model.rating(material, seen, rows) - material.stars[rows]).square().mean()


def _polarity_loss(model: Model, material: Material, seen: Seen, rows: Tensor, negatives: Tensor) -> Tensor:
    praise = (material.stars[rows] >= LIKED_STARS).float()
    return binary_cross_entropy_with_logits(model.review(material, seen, rows), praise)


def _rmse(model: Model, question: Question) -> float:
    material = question.material
    rows = torch.nonzero(question.held & _rated(material))[:, 0]
    stars = model.rating(material, model.see(material, question.known), rows)
    return float((stars - material.stars[rows]).square().mean().sqrt())


def _polarity_auc(model: Model, question: Question) -> float:
    rows = torch.nonzero(question.held & _praise_or_blame(question.material))[:, 0]
    praise = question.material.stars[rows] >= LIKED_STARS
    logits = model.review(question.material, model.see(question.material, question.known), rows)
    return float(roc_auc_score(praise.numpy(), logits.numpy()))


def _ranked(model: Model, question: Question, task: str, rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Chunks of users with such a row: logits `(B, N)`, -inf where the item is known, and which items are wanted."""
    material, seen = question.material, model.see(question.material, question.known)
    wanted = Known(material, rows)
    for users in torch.unique(wanted.users).split(CHUNK):
        met = question.known.seen(users)
        want = wanted.seen(users) & ~met
        some = want.any(1)
        logits = model.logits(seen, task, seen.users(users))
        yield logits.masked_fill(met, -torch.inf)[some], want[some]


def _ndcg(model: Model, question: Question) -> float:
    rows = question.held & _liked(question.material)
    return float(torch.cat([ndcg(*found) for found in _ranked(model, question, "ranking", rows)]).mean())


def _click_auc(model: Model, question: Question) -> float:
    return float(torch.cat([auc(*found) for found in _ranked(model, question, "click", question.held)]).mean())


def auc(logits: Tensor, wanted: Tensor) -> Tensor:
    """`(B,)` in [0, 1]: how often a wanted item is above one that is not, -inf logits left out; both `(B, N)`."""
    places = torch.empty_like(logits, dtype=torch.int64)
    places.scatter_(1, logits.argsort(dim=1), torch.arange(logits.shape[1]).expand_as(places))
    places = places - (logits == -torch.inf).sum(1, keepdim=True)
    hits = wanted.sum(1)
    others = logits.shape[1] - (logits == -torch.inf).sum(1) - hits
    below = (places * wanted).sum(1) - hits * (hits - 1) // 2
    return torch.where(hits * others > 0, below / (hits * others).clamp_min(1), 0.5)


def _masked_recall(model: Model, question: Question) -> float:
    """Each held item is hidden alone: the rest of its user's history is known, and left out of the ranking."""
    material = question.material
    rest = Known(material, question.held | question.known.rows)
    seen, found = model.see(material, rest), []
    for rows in torch.nonzero(question.held & material.acted)[:, 0].split(CHUNK):
        users, items = material.users[rows], material.items[rows]
        logits = model.logits(seen, "masked", seen.users(users, rest.slot[rows]))
        own = logits.gather(1, items[:, None])
        better = (logits > own) & ~rest.seen(users)
        found.append(better.sum(1) < PLACES)
    return float(torch.cat(found).float().mean())


TASKS: dict[str, Task] = {
    "click": Task(lambda material: material.acted, _click_loss, _click_auc, "AUC"),
    "rating": Task(_rated, _rating_loss, _rmse, "RMSE", -1),
    "ranking": Task(_liked, _ranking_loss, _ndcg, "NDCG@10"),
    "polarity": Task(_praise_or_blame, _polarity_loss, _polarity_auc, "ROC AUC", enough=_both),
    "masked": Task(lambda material: material.acted, _masked_loss, _masked_recall, "recall@20"),
}
"""By the names that `pretrain.tasks` may hold."""
