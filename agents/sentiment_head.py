"""Reviews to polarity: what a text says, learned from those whose stars are clear.

    reviews, stars  ->  clear ones: praise (>= 4 stars) or blame (<= 2)
        meaning: embeddings, or the transformer's own last layers fine-tuned   ->  logit
        wording: words, pairs of words, ! and ?, by TF-IDF                     ->  logit
    polarity = 2 * sigmoid(weighted sum of both) - 1, each review judged by a head that was not taught with it

The transformer reads the beginning of a text and what it is about; the words read it all and know each "returned" and
"not worth". The two are wrong about different reviews, so their sum ranks praise above blame better than either; the
weights are fitted to their answers (Wolpert 1992, "Stacked generalization").
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.special import expit
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from ..platform.draws import derive
from ..platform.encoder import EncodeProgress, Encoder
from ..platform.errors import InputError
from ..platform.finetune import Recipe, finetune
from ..platform.logs import LIKED_STARS
from ..platform.settings import SentimentSettings

DISLIKED_STARS = 2.0
"""A review with a rating up to here teaches the head what blame is; above it and below `LIKED_STARS` it does not."""

LEAST_REVIEWS = 20
"""Reviews of praise, and of blame, below which no head is trained."""

FOLDS = {"logistic": 5, "finetuned": 2}
"""Parts of the reviews, by the kind of head; a review is judged by the head that the other parts taught."""

MEANING_PENALTY, WORDING_PENALTY = 1.0, 5.0
"""`C` of the logistic regressions, on unit vectors both."""

FEWEST_REVIEWS = 3
"""A word or pair of words that fewer reviews have is not read."""

SENTENCES = Recipe(max_tokens=64)
"""How a transformer learns from single sentences."""

_STREAM = int.from_bytes(b"sentimnt", "big")
_WORD = r"(?u)\b\w[\w']*\b|[!?]"


@dataclass(frozen=True)
class Judged:
    """What a head makes of n reviews.

    Attributes:
        polarity: `(n,)` in [-1, 1]; 0 is undecided, however rare blame is.
        auc: ROC AUC of praise against blame, each review judged by a head that was not taught with it.
        taught: reviews that taught it.
        embeddings: `(n, m)` float32 of the frozen encoder.
    """

    polarity: NDArray[np.float64]
    auc: float
    taught: int
    embeddings: NDArray[np.float32]


class Wording:
    """Praise or blame by words alone: quick enough for single sentences.

    TF-IDF of words and pairs of words, and logistic regression (Wang and Manning 2012, "Baselines and bigrams").
    """

    def __init__(self, texts: Sequence[str], praise: NDArray[np.bool_]) -> None:
        fewest = min(FEWEST_REVIEWS, max(1, len(texts) // 100))
        self._vectorizer = TfidfVectorizer(ngram_range=(1, 2), min_df=fewest, sublinear_tf=True, token_pattern=_WORD)
        self._head = _logistic(csr_matrix(self._vectorizer.fit_transform(texts)), praise, WORDING_PENALTY)

    def logits(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """`(n,)`, above 0 for praise."""
        return self._head.decision_function(self._vectorizer.transform(texts)) if texts else np.zeros(0)


def judge(
    reviews: Sequence[str],
    stars: NDArray[np.float32],
    settings: SentimentSettings,
    encoder: Encoder,
    seed: int,
    progress: EncodeProgress | None = None,
) -> Judged | None:
    """What n reviews with `stars` `(n,)` (NaN where none) say; None where too few are clear to teach a head.

    Raises:
        InputError: the encoder or its cache cannot be used.
    """
    clear, _ = clear_reviews(stars)
    if not len(clear):
        return None
    praise = stars >= LIKED_STARS
    embeddings = encoder.encode(reviews, progress)
    found, folds = np.zeros((len(reviews), 2)), FOLDS[settings.head]
    parts = _parts(praise, clear, folds, seed)
    for part in range(folds):
        taught, judged = clear[parts[clear] != part], np.flatnonzero(parts == part)
        texts, asked = ([reviews[int(row)] for row in rows] for rows in (taught, judged))
        if settings.head == "finetuned":
            recipe = Recipe(settings.layers, settings.epochs, max_tokens=encoder.settings.max_tokens)
            tuned = finetune(encoder, texts, praise[taught], recipe, derive(seed, part), progress)
            found[judged, 0] = tuned.logits(asked)
        else:
            head = _logistic(embeddings[taught], praise[taught], MEANING_PENALTY)
            found[judged, 0] = head.decision_function(embeddings[judged])
        found[judged, 1] = Wording(texts, praise[taught]).logits(asked)
    # Two weights and a shift, for all reviews: how far each of the two can be believed.
    logits = _logistic(found[clear], praise[clear], MEANING_PENALTY).decision_function(found)
    auc = float(roc_auc_score(praise[clear], logits[clear]))
    return Judged(polarity_of(logits), auc, len(clear), embeddings)


def clear_reviews(stars: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Which of n reviews teach a head, `(c,)`, and whether they praise, `(c,)`: none where they are too few."""
    clear = np.flatnonzero((stars >= LIKED_STARS) | (stars <= DISLIKED_STARS))
    praise = stars[clear] >= LIKED_STARS
    if min(praise.sum(), (~praise).sum()) < LEAST_REVIEWS:
        return np.zeros(0, np.int64), np.zeros(0, bool)
    return clear, praise


def polarity_of(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """In [-1, 1]: the probability of praise less that of blame."""
    return 2 * expit(logits) - 1


def _parts(praise: NDArray[np.bool_], clear: NDArray[np.int64], folds: int, seed: int) -> NDArray[np.int64]:
    """`(n,)` which part each review is in; each part has its share of the praise, of the blame and of the rest."""
    kind = np.full(len(praise), 2)
    kind[clear] = praise[clear]
    order = np.random.default_rng(derive(seed, _STREAM)).permutation(len(praise))
    parts = np.empty(len(praise), np.int64)
    parts[order[np.argsort(kind[order], kind="stable")]] = np.arange(len(praise)) % folds
    return parts


def _logistic(features: NDArray[np.floating] | csr_matrix, praise: NDArray[np.bool_], c: float) -> LogisticRegression:
    """Praise and blame count the same, however rare one is, so that a logit of 0 is undecided."""
    return LogisticRegression(C=c, class_weight="balanced", max_iter=2000).fit(features, praise)


def rt_polarity(
    folder: Path,
    encoder: Encoder,
    seed: int,
    recipe: Recipe = SENTENCES,
    share: float = 0.1,
    progress: EncodeProgress | None = None,
) -> float:
    """Accuracy on a random held-out share of the film review sentences of Pang and Lee 2005, after fine-tuning.

    Args:
        folder: holds `rt-polarity.pos.gz` and `rt-polarity.neg.gz`, a sentence a line.
        encoder: whose copy is fine-tuned.
        seed: of the split and of the learning.
        recipe: how it is learned.
        share: part of the sentences that is held out.
        progress: told of sentences read.

    Raises:
        InputError: a file is missing or cannot be read.
    """
    praise, blame = (_lines(folder / f"rt-polarity.{name}.gz") for name in ("pos", "neg"))
    texts, labels = praise + blame, np.arange(len(praise) + len(blame)) < len(praise)
    order = np.random.default_rng(derive(seed, _STREAM)).permutation(len(texts))
    held, taught = np.split(order, [int(share * len(order))])
    classifier = finetune(encoder, [texts[row] for row in taught], labels[taught], recipe, seed, progress)
    return float(np.mean((classifier.logits([texts[row] for row in held]) > 0) == labels[held]))


def _lines(path: Path) -> list[str]:
    try:
        with gzip.open(path, "rt", encoding="latin-1") as file:
            return file.read().rstrip("\n").split("\n")
    except (OSError, EOFError) as error:
        raise InputError(f"{path}: cannot be read ({error.__class__.__name__}); get the data set again") from None
