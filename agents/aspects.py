"""What reviewers talk about, found without labels: aspects with a polarity for each item, and the words that show it.

    reviews  ->  sentences  ->  polarity of each, by its words (`sentiment_head.Wording`)
    words that stand like nouns, on many items  ->  embeddings  ->  groups of near ones: the aspects, named by them
    sentences that name an aspect  ->  for each item and aspect, posterior mean and deviation, and a count
    the sentence that praises an item most, and the one that blames it most  ->  snippets

After Hu and Liu 2004, "Mining and summarizing customer reviews": frequent nouns are what opinions are about. Read the
train part only, like a tower.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from ..platform.encoder import Encoder
from ..platform.logs import LIKED_STARS, Logs
from ..platform.settings import SentimentSettings
from .reviews import rows_to_read, sentences
from .sentiment_head import Wording, clear_reviews, polarity_of

TERMS = 120
"""Words that aspects are made of, at most."""

LEAST_NOUN = 0.2
"""Share of a word's places that are a noun's, from which on it counts as one."""

NEAR = 0.6
"""Cosine distance, on average, up to which words make one aspect."""

LEAST_MENTIONS = 10
"""Sentences that a word must be in."""

NAMED_BY = 3
"""Words that name an aspect."""

SNIPPET = (20, 160)
"""Characters of a snippet, at least and at most."""

CLEAR = 0.2
"""Polarity from which on a sentence praises, or below whose negative it blames."""

_TOKEN = re.compile(r"[a-z][a-z']+|[.,;:!?()]")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_OPENS = _words(
    "the a an this that these those my your his her its our their no any some great good nice bad poor cheap better "
    "best excellent perfect decent solid awesome terrible low high"
)
_CLOSES = _words(". , ; : ! ? ( ) is are was were and or of for in on with to but has had at from as")
_NO_ASPECT = ENGLISH_STOP_WORDS | _words(
    "thing things lot lots bit way ways time times day days week weeks month months year years one ones kind sort "
    "reason point end product products item items stuff unit piece review reviews stars opinion idea problem problems "
    "issue issues complaint complaints trouble difference came job"
)


@dataclass(frozen=True)
class Spoken:
    """s sentences of reviews: their texts, `(s,)` item and polarity in [-1, 1] each, `(s,)` stars of the review."""

    texts: tuple[str, ...]
    items: NDArray[np.int64]
    polarity: NDArray[np.float64]
    stars: NDArray[np.float32]
    num_items: int


@dataclass(frozen=True)
class Aspects:
    """A aspects of the reviews of N items.

    Attributes:
        names: A, such as "sound, tone, volume".
        terms: the words of each, the commonest first.
        polarity, deviation: `(N, A)` float32, posterior of how well an item does in it: mean in [-1, 1], and deviation.
        counts: `(N, A)` int64, sentences.
    """

    names: tuple[str, ...]
    terms: tuple[tuple[str, ...], ...]
    polarity: NDArray[np.float32]
    deviation: NDArray[np.float32]
    counts: NDArray[np.int64]

    def words(self, item: int) -> list[str]:
        """What is said of an item, the most mentioned aspect first: `sound, tone: +0.62 +- 0.10 in 34 sentences`."""
        counts, order = self.counts[item], np.argsort(-self.counts[item], kind="stable")
        return [
            f"{self.names[place]}: {self.polarity[item, place]:+.2f} +- {self.deviation[item, place]:.2f} in "
            f"{counts[place]:,} sentence{'' if counts[place] == 1 else 's'}"
            for place in order
            if counts[place]
        ]


@dataclass(frozen=True)
class Snippet:
    """What one reviewer says for an item and one against it, a sentence each; empty where nobody does."""

    praise: str
    blame: str


def spoken(logs: Logs, settings: SentimentSettings) -> Spoken:
    """The sentences of the reviews and what each says; as the stars of its review say where no head can be taught."""
    rows = rows_to_read(logs, settings.max_reviews)
    reviews, stars = [logs.reviews[row] for row in rows], logs.ratings[rows]
    said = sentences(reviews)
    clear, praise = clear_reviews(stars)
    if len(clear):
        wording = Wording([reviews[row] for row in clear], praise)
        polarity = polarity_of(wording.logits(said.texts))
    else:
        polarity = np.clip((np.nan_to_num(stars, nan=LIKED_STARS - 1) - (LIKED_STARS - 1)) / 2, -1, 1)[said.rows]
    return Spoken(said.texts, logs.items[rows][said.rows], polarity, stars[said.rows], logs.num_items)


def aspects(said: Spoken, settings: SentimentSettings, encoder: Encoder) -> Aspects:
    """The aspects of the reviews, those of most items first; none where too little is said.

    Raises:
        InputError: the encoder or its cache cannot be used.
    """
    terms, mentions = _terms([_TOKEN.findall(text.lower()) for text in said.texts], said)
    if len(terms) < 2 or not settings.aspects:
        nothing = np.zeros((said.num_items, 0), np.float32)
        return Aspects((), (), nothing, nothing, nothing.astype(np.int64))
    group = fcluster(linkage(encoder.encode(terms), "average", metric="cosine"), NEAR, criterion="distance") - 1
    sentence, term = mentions.nonzero()
    named = np.unique(np.stack([sentence, group[term]], 1), axis=0)
    spoken_of = _matrix(named, (len(said.texts), int(group.max()) + 1))
    spread = _by_item(spoken_of, said).getnnz(axis=0)
    order = np.argsort(-spread, kind="stable")[: settings.aspects]
    groups = tuple(tuple(terms[place] for place in np.flatnonzero(group == one)) for one in order)
    names = tuple(", ".join(words[:NAMED_BY]) for words in groups)
    return Aspects(names, groups, *_posterior(said, spoken_of[:, order], len(order), settings.prior_reviews))


def snippets(said: Spoken) -> list[Snippet]:
    """For each of N items the sentence that praises it most and the one that blames it most, within `SNIPPET`
    characters. A sentence counts for more in a review whose stars agree with it.
    """
    lengths = np.fromiter(map(len, said.texts), np.int64, len(said.texts))
    fits = np.flatnonzero((lengths >= SNIPPET[0]) & (lengths <= SNIPPET[1]))
    overall = np.nan_to_num((said.stars[fits] - (LIKED_STARS - 1)) / 2)
    items, polarity = said.items[fits], said.polarity[fits]
    found = {}
    for name, sign in (("praise", 1), ("blame", -1)):
        order = np.lexsort((sign * (polarity + overall), items))
        last = np.append(items[order][1:] != items[order][:-1], True) if len(order) else np.zeros(0, bool)
        best = order[last]
        clear = best[sign * polarity[best] >= CLEAR]
        found[name] = {int(items[place]): said.texts[fits[place]] for place in clear}
    return [Snippet(found["praise"].get(item, ""), found["blame"].get(item, "")) for item in range(said.num_items)]


def _terms(tokens: Sequence[list[str]], said: Spoken) -> tuple[list[str], csr_matrix]:
    """Words that stand like nouns, those of most items first, and which sentences have them `(s, t)`.

    A word stands like a noun between an article or the like and a word or a mark that ends the phrase.
    """
    everywhere, like_noun = Counter[str](), Counter[str]()
    for sentence in tokens:
        for last, word, after in zip([".", *sentence], sentence, [*sentence[1:], "."], strict=False):
            everywhere[word] += 1
            like_noun[word] += last in _OPENS and after in _CLOSES
    nouns = sorted(
        word
        for word in everywhere.keys() - _NO_ASPECT - _OPENS
        if len(word) > 2 and everywhere[word] >= LEAST_MENTIONS and like_noun[word] >= LEAST_NOUN * everywhere[word]
    )
    place = {word: index for index, word in enumerate(nouns)}
    pairs = sorted({(row, place[word]) for row, sentence in enumerate(tokens) for word in sentence if word in place})
    mentions = _matrix(np.array(pairs, np.int64).reshape(-1, 2), (len(tokens), len(nouns)))
    common = np.argsort(-_by_item(mentions, said).getnnz(axis=0), kind="stable")[:TERMS]
    return [nouns[index] for index in common], mentions[:, common]


def _matrix(cells: NDArray[np.int64], shape: tuple[int, int]) -> csr_matrix:
    """Ones at the `cells` `(n, 2)`."""
    return csr_matrix((np.ones(len(cells)), (cells[:, 0], cells[:, 1])), shape=shape)


def _by_item(of_sentences: csr_matrix, said: Spoken) -> csr_matrix:
    """`(N, t)`: how many of an item's sentences have each of t things, from which sentences do, `(s, t)`."""
    ones = np.ones(len(said.items))
    return (
        csr_matrix((ones, (said.items, np.arange(len(said.items)))), shape=(said.num_items, len(ones))) @ of_sentences
    )


def _posterior(
    said: Spoken, spoken_of: csr_matrix, width: int, prior: float
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """Mean, deviation and count `(N, A)`: an item's aspect starts from the aspect's mean, by `prior` sentences."""
    sentence, aspect = spoken_of.nonzero()
    shape = (said.num_items, width)
    cell = said.items[sentence] * width + aspect
    polarity = said.polarity[sentence]
    counts = np.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape)
    sums = np.bincount(cell, polarity, minlength=counts.size).reshape(shape)
    usual = sums.sum(0) / counts.sum(0)
    mean = (sums + max(prior, 1) * usual) / (counts + max(prior, 1))
    noise = np.bincount(aspect, (polarity - mean.ravel()[cell]) ** 2, minlength=width) / counts.sum(0)
    deviation = np.sqrt(noise / (counts + max(prior, 1)))
    return mean.astype(np.float32), deviation.astype(np.float32), counts.astype(np.int64)
