"""`concertrl evaluate --ranking`: how well agents, their static fusion and the field's baselines rank held-out likes.

dataset  ->  split, and the nested split of its train part          platform/ranking_protocol.py
nested   ->  parameters of the baselines, weights of the fusion     experiments/ranking_tuning.py
split    ->  all fitted on the train part  ->  ranked lists         experiments/ranking_contest.py
         ->  the same for cold users and for cold items
lists    ->  metrics, intervals, gains, gaps between groups         experiments/ranking_score.py
         ->  text, MLflow                                           experiments/ranking_report.py
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from ..agents.baselines import Scores
from ..agents.towers import pinned
from ..platform.dataset import load_dataset
from ..platform.errors import InputError
from ..platform.ranking_metrics import Catalog, describe
from ..platform.ranking_protocol import RankingSplit, among, cold_items, cold_users, nested, ranking_split
from ..platform.settings import Experiment
from ..platform.threads import torch_threads
from .ranking_contest import Contest, Fitted, Say, Unseen
from .ranking_score import Scored, gains, group_gaps, row, score
from .ranking_tuning import able, prepare

PLACES = (10, 20)

DRAWS = 10
"""Random orders that the row `random` is the mean of."""

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class RankingResult:
    """What `evaluate --ranking` found.

    Attributes:
        dataset: its folder.
        users, items: how many were ranked for, and ranked.
        unseen: what baselines left out of a list: what the user `liked`, or all that the user `rated`.
        table: a row for each baseline, agent and the team: metrics of all users, with 95 % intervals.
        cold_items: the same of items that were kept from the fit, ranked among themselves; with a row `random`.
        cold_items_in_catalog: the same, ranked among all items.
        cold_users: the same of users whom the fit never saw.
        groups: by attribute, the measure in each group of users, and the gap between the best and the worst.
        weights: of the static fusion.
        gain_over_best_baseline: of each agent and the team, paired, with 95 % intervals.
        gain_when_even: the same with baselines that leave out what the user rated, as the agents do.
        parameters: of each baseline, picked on the nested split.
        agents: what each agent was fitted on and used, in words.
        seconds: that it took.
    """

    dataset: str
    users: int
    items: int
    unseen: str
    table: Rows
    cold_items: Rows
    cold_items_in_catalog: Rows
    cold_users: Rows
    groups: dict[str, dict[str, Any]]
    weights: dict[str, float]
    gain_over_best_baseline: dict[str, Any]
    gain_when_even: dict[str, Any]
    parameters: dict[str, dict[str, float | int]]
    agents: dict[str, dict[str, str]]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


def evaluate_ranking(
    experiment: Experiment,
    *,
    named: bool = False,
    unseen: Unseen = "liked",
    places: Sequence[int] = PLACES,
    cold: bool = True,
    say: Say = lambda line: None,
) -> RankingResult:
    """Ranks the held-out likes of `experiment.dataset`, with everything tuned on the train part.

    Args:
        experiment: `agents`, `fusion.method` and `seed` count.
        named: whether the agents are those of `agents.names`; otherwise all that the dataset supports.
        unseen: what baselines leave out of a user's list; agents always leave out all that the user has met.
        places: depths of the metrics; agents are held against the best baseline at the first.
        cold: whether cold users and cold items are evaluated too, which fits everything twice more.
        say: told, in a line, what is being done.

    Raises:
        InputError: the dataset cannot be used or is too small, or a named agent has nothing to learn from.
    """
    started = time.monotonic()
    if experiment.dataset is None:
        raise InputError("evaluate --ranking: name the folder of a dataset; make one with `concertrl ingest`")
    with threadpool_limits(1), torch_threads(1):
        dataset = load_dataset(experiment.dataset)
        split = ranking_split(dataset.logs())
        inner = nested(split)
        say(
            f"{len(split.users):,} users, {int(split.candidates.sum()):,} items: {split.fit_likes.nnz:,} likes known, "
            f"{split.relevant.nnz:,} held out"
        )
        towers = able(dataset, split, experiment, named, say)
        # What the fits picked, on the likes that the nested split holds out, stands for all the other fits.
        experiment = experiment.model_copy(update={"agents": pinned(experiment.agents, towers)})
        contest = prepare(Contest(dataset, experiment, tuple(towers), unseen, max(places), say), inner)
        say("fitting everything on the whole train part")
        fitted = contest.fit(split)
        evaluation = Evaluation(contest, _catalog(split, fitted), tuple(places))
        scored = evaluation.of(fitted, split)
        even = scored | evaluation.of_baselines(fitted, split, "rated")
        cold_rows = evaluation.cold(split) if cold else {"items": [], "items_in_catalog": [], "users": []}
    measure = f"ndcg@{places[0]}"
    return RankingResult(
        dataset=str(experiment.dataset),
        users=len(split.users),
        items=int(split.candidates.sum()),
        unseen=unseen,
        table=evaluation.rows(scored),
        cold_items=cold_rows["items"],
        cold_items_in_catalog=cold_rows["items_in_catalog"],
        cold_users=cold_rows["users"],
        groups=group_gaps(scored, split, dataset, measure),
        weights={name: round(weight, 4) for name, weight in contest.weights.items()},
        gain_over_best_baseline=gains(scored, measure, experiment.seed),
        gain_when_even=gains(even, measure, experiment.seed),
        parameters=contest.parameters,
        agents={name: tower.facts for name, tower in fitted.towers.items()},
        seconds=round(time.monotonic() - started, 1),
    )


@dataclass(frozen=True)
class Evaluation:
    """A contest, and what the metrics know of the catalog."""

    contest: Contest
    catalog: Catalog
    places: tuple[int, ...]

    def of(self, fitted: Fitted, split: RankingSplit) -> dict[str, Scored]:
        """How everyone did on a split."""
        lists = self.contest.rank(fitted, split)
        catalog = replace(self.catalog, candidates=split.candidates)
        return {name: score(found, split, catalog, self.places) for name, found in lists.items()}

    def of_baselines(self, fitted: Fitted, split: RankingSplit, unseen: Unseen) -> dict[str, Scored]:
        """How the baselines did where they leave that out of a list."""
        contest = replace(self.contest, unseen=unseen)
        lists = {name: contest.baseline_lists(scores, split) for name, scores in fitted.baselines.items()}
        return {name: score(found, split, self.catalog, self.places) for name, found in lists.items()}

    def rows(self, scored: dict[str, Scored]) -> Rows:
        """The table."""
        return [row(name, each, self.contest.experiment.seed) for name, each in scored.items()]

    def cold(self, split: RankingSplit) -> dict[str, Rows]:
        """The tables of cold items and cold users; one is empty where nothing of them is held out."""
        say, tables = self.contest.say, {"items": [], "items_in_catalog": [], "users": []}
        items = cold_items(split, self.contest.experiment.seed)
        if len(items.users):
            say(f"cold items: {int(items.cold.sum()):,} kept from the fit, {items.relevant.nnz:,} held-out likes")
            fitted = self.contest.fit(items)
            for table, cut in (("items", among(items, items.cold)), ("items_in_catalog", items)):
                tables[table] = self.rows({"random": self.at_random(cut)} | self.of(fitted, cut))
        users = cold_users(split)
        say(f"cold users: the {len(users.users):,} who came last kept from the fit")
        tables["users"] = self.rows(self.of(self.contest.fit(users), users))
        return tables

    def at_random(self, split: RankingSplit) -> Scored:
        """Lists in random orders, the mean over `DRAWS` of them."""
        catalog = replace(self.catalog, candidates=split.candidates)
        draws = []
        for draw in range(DRAWS):
            lists = self.contest.baseline_lists(_chance(self.contest.experiment.seed, draw), split)
            draws.append(score(lists, split, catalog, self.places))
        values = {name: np.mean([each.values[name] for each in draws], axis=0) for name in draws[0].values}
        return Scored(values, {name: float(np.mean([each.whole[name] for each in draws])) for name in draws[0].whole})


def _chance(seed: int, draw: int) -> Scores:
    return lambda rows, users: np.random.default_rng([seed, draw, int(users[0])]).random(rows.get_shape())


def _catalog(split: RankingSplit, fitted: Fitted) -> Catalog:
    """Items are alike as the content agent sees them; without one, as they are liked by the same users."""
    content = fitted.towers.get("content")
    features = content.item_vectors.numpy() if content is not None else None
    return describe(split.fit_likes, split.candidates, features)


def run(
    experiment: Experiment, *, track: bool, command: str, say: Say, tell: Callable[[str], None], **options: Any
) -> dict[str, Any]:
    """What the command line does: evaluates, tells the tables, and logs an MLflow run where `track` says so.

    Returns the result as plain values, with `run_id`, which is None without a run.
    """
    from .ranking_report import publish, text

    name = Path(experiment.dataset or "").resolve().name
    result = evaluate_ranking(experiment, say=say, **options)
    tell(text(result))
    run_id = publish(result, experiment, name, command) if track else None
    return result.as_dict() | {"run_id": run_id}
