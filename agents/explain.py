"""Why a team would show an item: which agents argue for it, and by what evidence.

queries, weights  ->  each agent's score and rank of the item, and its part of the team's say
history without one item at a time  ->  what that item added to the agent's score: the neighbours that speak for it
notes  ->  what reviewers praise and blame, what is written of the item, and what it has in common with those
           neighbours in words and in the graph
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from .ensemble import Ensemble
from .profiles import profile
from .tower import PAD, History, Tower

NEIGHBOURS = 3
"""Items of the history that are named for an agent."""

ASPECTS = 3
"""Aspects that are told of, the most mentioned."""

WORDS, LONG, COMMON = 5, 4, 0.4
"""Words that two texts share: how many are told, of how many letters at least, in what share of all texts at most."""

READ = 100
"""Items of the history that are tried, the latest."""


@dataclass(frozen=True)
class Names:
    """Item ids and titles, N each."""

    ids: tuple[str, ...]
    titles: tuple[str, ...]

    def of(self, item: int) -> str:
        return self.titles[item] or self.ids[item]


@dataclass(frozen=True)
class Argument:
    """One agent's case.

    Attributes:
        agent: its name.
        weight: its fusion weight, the team's sum to 1.
        score: in standard deviations over the catalog.
        rank: 1 is its favourite.
        share: its part of what speaks for the item, in [0, 1]; 0 where it speaks against it.
        because: items of the history that speak most for it: (item id, title, what it adds to the score).
        evidence: in words.
    """

    agent: str
    weight: float
    score: float
    rank: int
    share: float
    because: tuple[tuple[str, str, float], ...]
    evidence: tuple[str, ...]


@dataclass(frozen=True)
class Explanation:
    """Why an item: the agents' cases, the strongest first. `str()` tells it in lines, `as_dict` for machines."""

    item: str
    title: str
    score: float
    arguments: tuple[Argument, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        name = f"{self.title} ({self.item})" if self.title else self.item
        lines = [f"{name}: score {self.score:.2f}"]
        for each in self.arguments:
            lines.append(
                f"  {each.agent}: {each.share:.0%} of what speaks for it "
                f"(score {each.score:+.2f}, rank {each.rank:,}, weight {each.weight:.2f})"
            )
            lines += [f"    because of {title or item} ({amount:+.2f})" for item, title, amount in each.because]
            lines += [f"    {line}" for line in each.evidence]
        return "\n".join(lines)


def explained(
    ensemble: Ensemble,
    history: History,
    queries: list[Tensor],
    leans: list[Tensor],
    weights: Tensor,
    item: int,
    names: Names,
) -> Explanation:
    """The case for `item` for one user.

    Args:
        history: of one user, `(1, L)`.
        queries: `(1, d_k)` each, scaled so that an agent's scores have variance 1 over the catalog.
        leans: `(1, T)` each, what an agent adds to the scores of each theme.
        weights: `(A,)` fusion weights.
    """
    found = []
    for place, (name, tower) in enumerate(ensemble.towers.items()):
        scores = (tower.item_vectors - tower.item_vectors.mean(0)) @ queries[place][0] + ensemble.themes @ leans[place][
            0
        ]
        because = _neighbours(tower, history, item)
        found.append(
            (
                name,
                float(weights[place]),
                float(scores[item]),
                1 + int((scores > scores[item]).sum()),
                because,
                _evidence(tower, item, because, names),
            )
        )
    for_it = sum(weight * max(score, 0.0) for _, weight, score, *_ in found) or 1.0
    arguments = [
        Argument(
            agent=name,
            weight=weight,
            score=score,
            rank=rank,
            share=weight * max(score, 0.0) / for_it,
            because=tuple((names.ids[each], names.titles[each], amount) for each, amount in because),
            evidence=evidence,
        )
        for name, weight, score, rank, because, evidence in found
    ]
    arguments.sort(key=lambda each: (-each.share, -each.weight * each.score))
    total = sum(each.weight * each.score for each in arguments)
    return Explanation(names.ids[item], names.titles[item], total, tuple(arguments))


def _neighbours(tower: Tower, history: History, item: int) -> list[tuple[int, float]]:
    """The items of the history without which the tower's score would fall most, and by how much.

    In standard deviations of the tower's scores over the catalog. What an agent does with its tower's query in a
    session is left aside.
    """
    places = torch.nonzero(history.items[0] != PAD).flatten()[-READ:]
    if not len(places):
        return []
    rows = torch.arange(len(places))
    without = History(*(part.expand(len(places), -1).clone() for part in vars(history).values()))
    without.items[rows, places] = PAD
    without.weights[rows, places] = 0.0
    without.ratings[rows, places] = 0.0
    vectors = tower.item_vectors - tower.item_vectors.mean(0)
    whole = (profile(tower, history) @ vectors.T)[0]
    deviation = whole.std().clamp_min(1e-9)
    lost = (whole[item] - profile(tower, without) @ vectors[item]) / deviation
    best = lost.topk(min(NEIGHBOURS, len(lost)))
    pairs = zip(history.items[0, places[best.indices]].tolist(), best.values.tolist(), strict=True)
    return [(neighbour, amount) for neighbour, amount in pairs if amount > 0]


def _evidence(tower: Tower, item: int, because: list[tuple[int, float]], names: Names) -> tuple[str, ...]:
    return (*_reviews(tower, item), *_words(tower, item, because, names), *_paths(tower, item, because, names))


def _reviews(tower: Tower, item: int) -> list[str]:
    """What reviewers say of the item."""
    said = []
    for kind in ("praise", "blame"):
        words = tower.notes.get(kind, ())
        if item < len(words) and words[item]:
            said.append(f'{kind}: "{words[item]}"')
    aspects = tower.notes.get("aspects", ())
    if item < len(aspects) and aspects[item]:
        said += [f"reviewers on {each}" for each in aspects[item].split("; ")[:ASPECTS]]
    return said


def _words(tower: Tower, item: int, because: list[tuple[int, float]], names: Names) -> list[str]:
    """What is written of the item, and the words that its neighbours' texts have too, the rarest first."""
    texts = tower.notes.get("text", ())
    if item >= len(texts) or not texts[item]:
        return []
    lines, mine = [f'text: "{texts[item]}"'], _told(texts[item])
    shared = {neighbour: mine & _told(texts[neighbour]) for neighbour, _ in because if neighbour < len(texts)}
    wanted = set[str]().union(*shared.values())
    spread = Counter(word for text in texts for word in wanted & _told(text)) if wanted else Counter[str]()
    for neighbour, words in shared.items():
        if telling := sorted(word for word in words if spread[word] <= COMMON * len(texts)):
            rarest = sorted(telling, key=lambda word: spread[word])[:WORDS]
            lines.append(f"shares the words {', '.join(rarest)} with {names.of(neighbour)}")
    return lines


def _told(text: str) -> set[str]:
    return {word for word in re.findall(r"\w+", text.lower()) if len(word) >= LONG}


def _paths(tower: Tower, item: int, because: list[tuple[int, float]], names: Names) -> list[str]:
    """What the item has in common with its neighbours in the graph."""
    if "edge_heads" not in tower.extras:
        return []
    heads, tails = tower.extras["edge_heads"], tower.extras["edge_tails"]
    mine = set(tails[heads == item].tolist())
    lines = []
    for neighbour, _ in because:
        theirs = set(tails[heads == neighbour].tolist())
        shared = sorted(tower.notes["nodes"][node] for node in mine & theirs)
        if neighbour in mine or item in theirs:
            shared.insert(0, "an edge between them")
        if shared:
            lines.append(f"shares {', '.join(shared[:5])} with {names.of(neighbour)}")
    return lines
