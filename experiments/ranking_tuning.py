"""What is found out before `evaluate --ranking` tests anything, all on the nested cut of the train part.

nested split  ->  each baseline's grid   ->  parameters
              ->  towers, their ballots  ->  weights of the static fusion  ->  Contest, ready
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import torch

from ..agents.baselines import BASELINES, Parameters, Scores, tune
from ..agents.selection import bagged_weights, points_of
from ..agents.tower import Tower
from ..agents.towers import FITTERS, fit_towers
from ..agents.validation import ndcg
from ..platform.dataset import Dataset
from ..platform.encoder import Encoder
from ..platform.errors import ConcertError, InputError
from ..platform.fusion import additive_rules
from ..platform.ranking_protocol import RankingSplit
from ..platform.settings import RECOMMENDERS, Experiment
from .ranking_contest import Contest, Say, telling

SEARCH_NUMBERS = 1 << 28
"""Scores held at once: 1 GiB; where there are many users, some of them are looked at."""


def able(dataset: Dataset, split: RankingSplit, experiment: Experiment, named: bool, say: Say) -> dict[str, Tower]:
    """The towers, fitted on the split, of the agents that rank: `agents.names` where they are `named`, otherwise all
    that learn something from the dataset.

    Raises:
        InputError: an agent that was named has nothing to learn from, none has, or the encoder or the cache fails.
    """
    _ = Encoder(experiment.agents.encoder).fingerprint  # a model that is not there is a mistake, not a dataset's lack
    names = experiment.agents.names if named else tuple(name for name in RECOMMENDERS if name in FITTERS)
    logs, found = split.train_logs(dataset), {}
    for name in names:
        settings = experiment.agents.model_copy(update={"names": (name,)})
        started = time.monotonic()
        try:
            found |= fit_towers(logs, settings, experiment.seed, telling(say))
        except InputError as error:
            if named:
                raise
            say(f"{name} is left out: {error}")
            continue
        say(f"{name}: fitted in {time.monotonic() - started:.0f} s")
    if not found:
        raise InputError(f"{dataset.path}: no agent has anything to learn from here; the lines above say why")
    return found


def prepare(contest: Contest, inner: RankingSplit) -> Contest:
    """The contest with the parameters and weights that rank the held-out likes of the nested split best.

    Raises:
        InputError: the fusion is not one of points, which can be weighed.
    """
    rule = contest.experiment.fusion.method
    if rule not in (known := additive_rules()):
        raise InputError(f"fusion.method={rule}: a ranking is fused by points; take one of {', '.join(known)}")
    contest, towers = replace(contest, parameters=_tuned(contest, inner)), contest.fit_agents(inner)
    some = _thinned(inner, SEARCH_NUMBERS // (len(towers) * inner.logs.num_items))
    parts = [points_of(ballots, rule, inner.logs.num_items) for ballots in contest.ballots(towers, some)]
    points, liked = torch.cat(parts, dim=1), _liked(some)
    for name, alone in zip(towers, points, strict=True):
        contest.say(f"{name}: NDCG@10 {float(ndcg(alone, liked).mean()):.4f} in validation")
    weights, reached = bagged_weights(points, liked, contest.experiment.seed)
    found = dict(zip(towers, weights.tolist(), strict=True))
    told = ", ".join(f"{name} {weight:.2f}" for name, weight in found.items())
    contest.say(f"static fusion: {told}; NDCG@10 {reached:.4f} in validation")
    return replace(contest, weights=found)


def _tuned(contest: Contest, inner: RankingSplit) -> dict[str, Parameters]:
    """The parameters of the baselines; one that cannot be fitted is left out, with a line."""
    some = _thinned(inner, SEARCH_NUMBERS // inner.logs.num_items)
    users, liked = some.users, _liked(some)
    left_out = (some.liked if contest.unseen == "liked" else some.seen)[users].nonzero()

    def judge(scores: Scores) -> float:
        values = np.array(scores(some.liked[users], users), np.float32)
        values[left_out] = -np.inf
        values[:, ~some.candidates] = -np.inf
        return float(ndcg(torch.from_numpy(values), liked).mean())

    parameters = {}
    for name in BASELINES:
        started = time.monotonic()
        try:
            parameters[name], reached = tune(name, inner.fit_likes, judge, contest.experiment.seed)
        except ConcertError as error:
            contest.say(f"{name} is left out: {error}")
            continue
        told = ", ".join(f"{key} {value:g}" for key, value in parameters[name].items()) or "nothing to tune"
        contest.say(f"{name}: {told}; NDCG@10 {reached:.4f} in validation, {time.monotonic() - started:.0f} s")
    return parameters


def _liked(split: RankingSplit) -> torch.Tensor:
    """`(V, N)` bool, what is to be found."""
    return torch.from_numpy(split.relevant[split.users].toarray() > 0)


def _thinned(split: RankingSplit, most: int) -> RankingSplit:
    """The same with something to be found for at most so many users, spread over all."""
    kept = split.users[np.linspace(0, len(split.users) - 1, max(1, min(len(split.users), most))).astype(np.int64)]
    return replace(split, held_out=split.held_out & np.isin(split.logs.users, kept))
