"""The towers behind one fusion: everything a team does between a user's history and a slate.

    read      history            ->  Reading     each tower's query for the user, and how sure it is
    observe   reading, traces    ->  {agent: observation}
    ask       reading, traces, actions   ->  queries     action = gains on what the agent saw, and a free residual
    lean      traces, actions    ->  what an agent adds to the scores of each theme
    propose   queries, leans     ->  ballots
    weigh     traces, actions    ->  weights     action = residual on the logarithm of the static weights, and gains on
                                                 what each agent has shown to be worth
    fuse      ballots, weights   ->  slate
    remember  traces, what was shown and clicked ->  traces

The simulated sessions and the served team both go through here, so that a team is served as it was trained. B users, A
recommenders, d_k dimensions of tower k, D their sum, N items, n items on a ballot, K places on a slate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..platform.diversity import diversify
from ..platform.fusion import Ballots, fuse, fuse_coalitions, shares
from ..platform.ranking import best_items
from ..platform.settings import FusionSettings, TrainSettings
from .likeness import Likeness
from .policy import PolicySpec
from .profiles import profile
from .themes import themes_of
from .tower import PAD, History, Tower
from .traces import CLICK_FADE, TRACE_FADE, Traces, faded

CONDUCTOR = "conductor"

GAINS, THEME_GAIN, RESIDUAL = (1.0, 2.0, 0.5), 5.0, 0.2
"""Units of a recommender's gains on its query, its click trace and its shown trace; of its gain on the themes that were
shown; and of its free residual."""

LED = len(GAINS) + 1
"""Gains in a recommender's action; the residual follows."""

CONDUCTOR_GAINS = {"hits": 1.0, "trust": 4.0, "agreement": 8.0, "steadiness": 12.0}
"""Units of the conductor's gains on what a session has shown of the agents, in logits of a fusion weight."""

CONSTANT_GAINS = 2
"""The last of these are the same in every state: an agent fails too seldom to learn for each anew whom not to hear."""

QUERY_LIMIT = 3.0
"""Bound of a recommender's action; its tower's own query has about 1 a dimension."""

WEIGHT_LIMIT = 5.0
"""Bound of the conductor's action, in logits of a fusion weight."""

COMMON = 5
"""Entries of an observation that every agent has."""

DIVERSE_FROM = 4
"""Slates' worth of fused items that a less uniform slate is chosen from."""

OF_EACH = ("support", "hits", "trust", "agreement", "steadiness", "breadth")
"""The conductor's observation on each recommender."""


@dataclass(frozen=True)
class Reading:
    """What the towers read in B histories.

    Attributes:
        queries: one `(B, d_k)` a tower, of norm sqrt(d_k).
        strengths: `(B, A)`, norm of the profile over its mean: how much the tower knows of the user.
        known: `(B,)`, logarithm of the history's length, of order 1.
    """

    queries: tuple[Tensor, ...]
    strengths: Tensor
    known: Tensor

    def rows(self, index: Tensor) -> Reading:
        return Reading(tuple(query[index] for query in self.queries), self.strengths[index], self.known[index])


class Ensemble:
    """Towers and fusion settings, with the tables that make a step fast.

    Args:
        towers: the recommenders by name, in the order of the fusion weights.
        fusion: the rule, the ballot's length, and whether a conductor sets the weights.
        weights: `(A,)` static fusion weights, at least 0, with a positive sum.
        start: the gains that recommenders begin to learn from, `LED` of them; none: they begin as their towers.
    """

    def __init__(
        self, towers: Mapping[str, Tower], fusion: FusionSettings, weights: Tensor, start: tuple[float, ...] = ()
    ) -> None:
        self.towers, self.fusion, self.start = dict(towers), fusion, start
        self.recommenders = tuple(towers)
        self.agents = (*self.recommenders, CONDUCTOR) if fusion.conductor else self.recommenders
        self.device = weights.device
        total = float(weights.sum())
        # Normalised weights stay as they are to the last bit, so that a team saved and loaded is the same team.
        self.weights = weights if abs(total - 1.0) < 1e-6 else weights / total
        self.dims = {name: tower.dim for name, tower in self.towers.items()}
        # Centred once, so that a query's scores have mean 0 and a variance that needs no scores.
        centred = [tower.item_vectors - tower.item_vectors.mean(0) for tower in self.towers.values()]
        self.likeness = Likeness(centred)
        self.themes = themes_of(self.towers.values())
        self._columns = [vectors.t().contiguous() for vectors in centred]
        self._reach = [torch.cat([vectors, self.themes], dim=1).t().contiguous() for vectors in centred]
        self._vectors = torch.cat(centred, dim=1)
        self._scale = torch.cat([self._trace_scale(tower) for tower in self.towers.values()])

    def _trace_scale(self, tower: Tower) -> Tensor:
        """`(d_k,)`: what brings a trace of item vectors to the units of a query; 0 where it says nothing of taste."""
        # Where popularity leads the queries, their taste is small, and so must be what is added to it.
        taste = float(tower.extras.get("taste", 1.0))
        scale = torch.full((tower.dim,), taste * math.sqrt(tower.dim), device=self.device)
        scale[tower.dim - tower.common :] = 0.0
        return scale

    def to(self, device: torch.device | str) -> Ensemble:
        moved = {name: tower.to(device) for name, tower in self.towers.items()}
        return Ensemble(moved, self.fusion, self.weights.to(device), self.start)

    @property
    def num_items(self) -> int:
        return self._vectors.shape[0]

    def observation_dim(self, agent: str) -> int:
        return COMMON + (len(OF_EACH) * len(self.recommenders) if agent == CONDUCTOR else 3 * self.dims[agent])

    def action_dim(self, agent: str) -> int:
        if agent == CONDUCTOR:
            return len(self.recommenders) + len(CONDUCTOR_GAINS)
        return LED + self.dims[agent]

    def action_limit(self, agent: str) -> float:
        return WEIGHT_LIMIT if agent == CONDUCTOR else QUERY_LIMIT

    def policy_spec(self, agent: str, train: TrainSettings) -> PolicySpec:
        """The shape of an agent's policy."""
        spread = (train.initial_std,) * self.action_dim(agent)
        if agent == CONDUCTOR:
            return PolicySpec(self.observation_dim(agent), spread, tuple(train.hidden), CONSTANT_GAINS)
        return PolicySpec(self.observation_dim(agent), spread, tuple(train.hidden), shared=LED, start=self.start)

    # --- read and observe

    def read(self, history: History) -> Reading:
        """Each tower's query for B histories."""
        queries, strengths = [], []
        for tower in self.towers.values():
            found = profile(tower, history)
            norm = found.norm(dim=1, keepdim=True)
            queries.append(found / norm.clamp_min(1e-6) * math.sqrt(tower.dim))
            strengths.append((norm / (norm + 1.0)).squeeze(1))
        length = (history.items != PAD).sum(1)
        return Reading(tuple(queries), torch.stack(strengths, dim=1), torch.log1p(length.float()) / 4.0)

    def blank(self, batch: int) -> Traces:
        """The traces of B sessions that have not begun."""
        width, agents = self._vectors.shape[1], len(self.recommenders)
        sizes = {"clicked": width, "shown": width, "asked": width, "rates": 2}
        sizes |= {"worn": self.themes.shape[1], **dict.fromkeys(OF_EACH[:-1], agents)}
        return Traces(**{name: torch.zeros(batch, size, device=self.device) for name, size in sizes.items()})

    def observe(self, reading: Reading, traces: Traces, progress: Tensor) -> dict[str, Tensor]:
        """`{agent: (B, observation_dim)}`; `progress` `(B,)` is step / horizon."""
        clicked, shown = self._scaled(traces)
        common = torch.cat([progress[:, None], reading.known[:, None], traces.rates], dim=1)
        observations = {
            name: torch.cat([reading.queries[k], clicked[k], shown[k], common, reading.strengths[:, k : k + 1]], dim=1)
            for k, name in enumerate(self.recommenders)
        }
        if CONDUCTOR in self.agents:
            breadth = torch.stack([trace.norm(dim=1) / math.sqrt(trace.shape[1]) for trace in shown], dim=1)
            strength = reading.strengths.mean(1, keepdim=True)
            seen = [getattr(traces, name) for name in OF_EACH[:-1]]
            observations[CONDUCTOR] = torch.cat([*seen, breadth, common, strength], dim=1)
        return observations

    def _scaled(self, traces: Traces) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Click and shown traces of each tower, in the units of its query."""
        return self._split(traces.clicked * self._scale), self._split(traces.shown * self._scale)

    def _split(self, rows: Tensor) -> tuple[Tensor, ...]:
        return rows.split(list(self.dims.values()), dim=-1)

    # --- propose and fuse

    def ask(self, reading: Reading, traces: Traces, actions: Mapping[str, Tensor]) -> list[Tensor]:
        """The agents' queries, one `(B, d_k)` a tower, scaled so that the scores of the catalog have variance 1.

        An action `(B, 4 + d_k)` is four gains and a residual r: the agent asks for (1 + g1) query + 2 g2 clicked
        + g3 shown / 2 + r / 5; g4 is for `lean`. An agent that is missing from `actions` asks as its tower does.
        """
        clicked, shown = self._scaled(traces)
        queries = []
        for k, name in enumerate(self.recommenders):
            query = reading.queries[k]
            if name in actions:
                action = actions[name].clamp(-QUERY_LIMIT, QUERY_LIMIT)
                for place, seen in enumerate((query, clicked[k], shown[k])):
                    query = query + GAINS[place] * action[:, place : place + 1] * seen
                query = query + RESIDUAL * action[:, LED:]
            queries.append(self.scaled(k, query))
        return queries

    def lean(self, traces: Traces, actions: Mapping[str, Tensor]) -> list[Tensor]:
        """What each agent adds to the scores of the items of each theme, one `(B, T)` an agent: 5 g4 worn."""
        leans = []
        for name in self.recommenders:
            gain = actions[name][:, LED - 1 : LED].clamp(-QUERY_LIMIT, QUERY_LIMIT) if name in actions else 0.0
            leans.append(THEME_GAIN * gain * traces.worn)
        return leans

    def scaled(self, k: int, query: Tensor) -> Tensor:
        """A query `(B, d_k)` of tower k, so that its scores of the catalog have variance 1."""
        return self.likeness.scaled(k, query)

    def propose(self, queries: list[Tensor], leans: list[Tensor], penalty: Tensor, at_least: int = 0) -> Ballots:
        """Each agent's best items; scores are standard over the catalog; `lean` and `penalty` `(B, N)` add."""
        length = min(max(self.fusion.ballot, at_least), self.num_items)
        asked = [torch.cat(pair, dim=1) for pair in zip(queries, leans, strict=True)]
        pairs = [best_items(query, self._reach[k], penalty, length) for k, query in enumerate(asked)]
        items, scores = zip(*pairs, strict=True)
        return Ballots(torch.stack(items, dim=1), torch.stack(scores, dim=1))

    def nearest(self, k: int, queries: Tensor, penalty: Tensor, number: int) -> Tensor:
        """`(B, number)` items of tower k, the nearest in angle to queries `(B, d_k)`."""
        angles = self._columns[k] / self._columns[k].norm(dim=0).clamp_min(1e-12)
        return best_items(queries, angles, penalty, number)[0]

    def weigh(self, traces: Traces, actions: Mapping[str, Tensor]) -> Tensor:
        """Fusion weights `(B, A)`, summing to 1: the static ones, moved by the conductor where it acts.

        Its action `(B, A + 4)` is a residual r on the logits, and four gains on what the session has shown of each
        agent k: logit_k = log static_k + r_k + g1 hits_k + 4 g2 trust_k + 8 g3 agreement_k + 12 g4 steadiness_k.
        """
        logits = self.weights.clamp_min(1e-6).log().expand(len(traces.rates), -1)
        if CONDUCTOR in self.agents and CONDUCTOR in actions:
            action = actions[CONDUCTOR].clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT)
            residual, gains = action.split([len(self.recommenders), len(CONDUCTOR_GAINS)], dim=1)
            logits = logits + residual
            for place, (name, unit) in enumerate(CONDUCTOR_GAINS.items()):
                logits = logits + unit * gains[:, place : place + 1] * getattr(traces, name)
        return logits.softmax(dim=1)

    def fuse(self, ballots: Ballots, weights: Tensor, slate: int) -> Tensor:
        """The slate `(B, K)`."""
        settings = self.fusion
        if settings.diversity == "none":
            return fuse(ballots, weights, settings.method, slate, settings.normalise).slate
        pool = min(DIVERSE_FROM * slate, ballots.items.shape[1] * ballots.items.shape[2])
        fused = fuse(ballots, weights, settings.method, pool, settings.normalise)
        return diversify(fused, self._vectors, slate, settings.diversity, settings.diversity_weight)

    def coalitions(self, ballots: Ballots, weights: Tensor, slate: int, members: Tensor) -> Tensor:
        """The slates `(M, B, K)` of coalitions of recommenders, `members` `(M, A)` bool; -1 in empty places."""
        settings = self.fusion
        if settings.diversity == "none":
            return fuse_coalitions(ballots, weights, settings.method, slate, members, settings.normalise)
        return torch.stack([self.fuse(ballots, weights * row, slate) for row in members])

    def shares(self, ballots: Ballots, weights: Tensor, slate: Tensor) -> Tensor:
        """Each agent's part of the points of each item on the slate, `(B, K, A)`."""
        return shares(ballots, weights, self.fusion.method, slate, self.fusion.normalise)

    # --- remember

    def remember(self, traces: Traces, queries: list[Tensor], slate: Tensor, click: Tensor) -> Traces:
        """The traces after a slate `(B, K)` and its clicks `(B, K)`."""
        vectors = self._vectors[slate]
        clicks = click.sum(1, keepdim=True)
        rate = clicks / slate.shape[1]
        support, hits = [], []
        for query, part in zip(queries, self._split(vectors), strict=True):
            score = (part * query[:, None, :]).sum(2)
            mean = score.mean(1, keepdim=True)
            support.append(mean)
            hits.append(((score * click).sum(1, keepdim=True) / clicks.clamp_min(1.0) - mean) * (clicks > 0))
        hit = torch.cat(hits, dim=1)
        return Traces(
            clicked=CLICK_FADE * traces.clicked + (vectors * click[:, :, None]).mean(1),
            shown=TRACE_FADE * traces.shown + vectors.mean(1),
            worn=TRACE_FADE * traces.worn + (1 - TRACE_FADE) * self.themes[slate].mean(1),
            rates=torch.cat([rate, TRACE_FADE * traces.rates[:, 1:] + (1 - TRACE_FADE) * rate], dim=1),
            support=torch.cat(support, dim=1),
            hits=hit,
            trust=TRACE_FADE * traces.trust + (1 - TRACE_FADE) * hit,
            agreement=faded(traces, traces.agreement, self.likeness.agreement(queries)),
            steadiness=self.likeness.steadiness(queries, self._split(traces.asked)),
            asked=torch.cat(queries, dim=1),
        )
