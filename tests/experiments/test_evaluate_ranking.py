"""`concertrl evaluate --ranking` from the command to the run in MLflow, on a small dataset whose structure is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from concertrl.__main__ import main
from concertrl.agents.tower import Tower
from concertrl.agents.towers import FITTERS
from concertrl.experiments import ranking_tuning
from concertrl.experiments.evaluate_ranking import RankingResult, evaluate_ranking
from concertrl.experiments.ranking_contest import Contest
from concertrl.experiments.ranking_report import picture, text
from concertrl.platform.dataset import load_dataset
from concertrl.platform.destination import local_uri
from concertrl.platform.errors import InputError
from concertrl.platform.experiment import load_experiment
from concertrl.platform.ingest import ingest
from concertrl.platform.ranking_protocol import ranking_split

USERS, MOVIES = 90, 96
GENRES = ("Comedy", "Horror", "Western")
BASELINES = ["popular", "item_knn", "bpr", "als", "ease"]
AGENTS = ["cf", "content"]
CHEAP = ("agents.cf.method=als", "agents.cf.factors=8", "agents.cf.regularization=1.0", "agents.content.factors=8")


@pytest.fixture(scope="session")
def movies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user likes movies of one genre, and meets some of another that they do not like; three movies in a hundred are
    liked by everyone. Women like what they like more reliably."""
    folder, draw = tmp_path_factory.mktemp("movies"), np.random.default_rng(0)
    lines = []
    for user in range(USERS):
        own = [movie for movie in range(MOVIES) if movie % 3 == user % 3]
        liked = draw.permutation(own)[: draw.integers(6, 14)]
        other = draw.permutation(MOVIES)[:4]
        met = [(movie, 5) for movie in liked] + [(movie, 2) for movie in other if movie not in liked]
        for step, place in enumerate(draw.permutation(len(met))):
            movie, stars = met[place]
            lines.append(f"{user}::{movie}::{stars}::{978300000 + 1000 * user + step}")
    files = {
        "ratings.dat": lines,
        "movies.dat": [
            f"{movie}::{GENRES[movie % 3]} story {movie} (1990)::{GENRES[movie % 3]}" for movie in range(MOVIES)
        ],
        "users.dat": [f"{user}::{'FM'[user % 2]}::25::{user % 4}::{10000 + user}" for user in range(USERS)],
    }
    (folder / "raw").mkdir()
    for name, rows in files.items():
        (folder / "raw" / name).write_text("\n".join(rows) + "\n")
    ingest("movielens", folder / "raw", folder / "d")
    return folder / "d"


@pytest.fixture(scope="session")
def run(movies: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Result]:
    """The command in this process; towers are kept from call to call."""
    cache = tmp_path_factory.mktemp("cache")

    def call(*words: str, dataset: Path = movies) -> Result:
        settings = (*CHEAP, f"agents.encoder.cache={cache}")
        return CliRunner().invoke(main, ["evaluate", "--ranking", str(dataset), *words, *settings])

    return call


@pytest.fixture(scope="session")
def told(run: Callable[..., Result], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Result, Path]:
    folder = tmp_path_factory.mktemp("tracked") / "runs"
    result = run("--agents", ",".join(AGENTS), "--json", f"tracking.folder={folder}", "tracking.system_metrics=false")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1]), result, folder


def by_name(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in rows}


def test_the_table_has_every_row_and_metric_with_its_interval(told: Any) -> None:
    answer, result, _ = told
    assert len(result.stdout.splitlines()) == 1 and (answer["users"], answer["unseen"]) == (USERS, "liked")
    rows = by_name(answer["table"])
    assert list(rows) == [*BASELINES, *AGENTS, "team_static"]
    for row in rows.values():
        for name in ("ndcg", "recall", "precision", "mrr", "hit_rate"):
            for k in (10, 20):
                key = f"{name}@{k}"
                assert 0 <= row[f"{key}_low"] <= row[key] <= row[f"{key}_high"] <= 1
        assert {f"{name}@10" for name in ("coverage", "gini", "novelty", "diversity", "popularity")} <= set(row)
    assert all(rows[name]["ndcg@10"] > 2 * rows["popular"]["ndcg@10"] for name in ("als", "ease", *AGENTS))
    assert rows["popular"]["gini@10"] > rows["cf"]["gini@10"]
    assert rows["popular"]["coverage@10"] < 0.7 < rows["cf"]["coverage@10"]


def test_weights_and_gains(told: Any) -> None:
    answer, _, _ = told
    assert list(answer["weights"]) == AGENTS and sum(answer["weights"].values()) == pytest.approx(1.0, abs=1e-3)
    gains, rows = answer["gain_over_best_baseline"], by_name(answer["table"])
    best = max(BASELINES, key=lambda name: rows[name]["ndcg@10"])
    assert gains["baseline"] == best and list(gains["of"]) == [*AGENTS, "team_static"]
    gain = gains["of"]["team_static"]
    assert gain["difference"] == pytest.approx(rows["team_static"]["ndcg@10"] - rows[best]["ndcg@10"], abs=2e-6)
    assert gain["low"] <= gain["difference"] <= gain["high"] and gain["relative_low"] <= gain["relative"]


def test_the_gain_on_even_terms_is_over_baselines_that_leave_out_what_was_rated(told: Any, run: Any) -> None:
    answer, _, _ = told
    again = run("--agents", ",".join(AGENTS), "--json", "--no-cold", "--no-track", "--unseen", "rated")
    rated = json.loads(again.stdout)
    assert answer["parameters"]["ease"] == rated["parameters"]["ease"]  # or the figures could not be compared
    even = answer["gain_when_even"]
    assert even["baseline"] == rated["gain_over_best_baseline"]["baseline"]
    assert even[even["baseline"]] > answer["gain_over_best_baseline"][even["baseline"]]
    assert even["of"] == rated["gain_over_best_baseline"]["of"] == rated["gain_when_even"]["of"]


def test_content_finds_cold_items_and_likes_alone_cannot(told: Any) -> None:
    answer, _, _ = told
    for table in ("cold_items", "cold_items_in_catalog"):
        rows = by_name(answer[table])
        assert list(rows) == ["random", *BASELINES, *AGENTS, "team_static"]
    among_all = by_name(answer["cold_items_in_catalog"])
    assert among_all["content"]["recall@20"] > 2 * among_all["random"]["recall@20"] > 0
    assert all(among_all["content"]["recall@20"] > among_all[name]["recall@20"] for name in (*BASELINES, "cf"))


def test_cold_users_are_served_from_their_histories(told: Any) -> None:
    rows = by_name(told[0]["cold_users"])
    assert list(rows) == [*BASELINES, *AGENTS, "team_static"]
    assert all(rows[name]["recall@20"] > rows["popular"]["recall@20"] for name in ("als", "ease", "cf", "content"))


def test_groups_by_activity_and_by_every_attribute_that_has_large_groups(told: Any) -> None:
    groups = told[0]["groups"]
    assert set(groups) == {"activity", "gender", "occupation"}  # one age, and a postcode for each
    assert [group["group"] for group in groups["gender"]["groups"]] == ["F", "M"]
    for found in groups.values():
        assert sum(group["users"] for group in found["groups"]) == USERS
        for name, gap in found["gap"].items():
            levels = [group["ndcg@10"][name] for group in found["groups"]]
            assert gap == pytest.approx(max(levels) - min(levels), abs=2e-6)


def test_the_run_in_mlflow_has_numbers_tables_and_a_picture(told: Any) -> None:
    from mlflow import MlflowClient

    answer, _, folder = told
    client: Any = MlflowClient(local_uri(folder))
    found = client.get_run(answer["run_id"])
    assert found.info.run_name == "ranking-d" and found.data.tags["concertrl.evaluation"] == "ranking"
    assert found.data.metrics["ranking/ease/ndcg_at_10"] == by_name(answer["table"])["ease"]["ndcg@10"]
    assert found.data.params["agents.cf.factors"] == "8" and "baselines.ease.penalty" in found.data.params
    names = {item.path for item in client.list_artifacts(answer["run_id"])}
    assert names == {"plots", "ranking.json", "ranking.txt", "agents.json", "config.yaml"}
    assert found.inputs.dataset_inputs[0].dataset.name == "d"


def test_without_json_a_person_reads_tables_and_what_was_left_out(run: Any, movies: Path) -> None:
    words = ("--agents", "cf", "--no-track", "--no-cold", "--at", "5")
    liked, rated = run(*words), run(*words, "--unseen", "rated")
    assert (liked.exit_code, rated.exit_code) == (0, 0), liked.output + rated.output
    assert "→ team_static" in liked.stdout and "ndcg@5 by gender (users)" in liked.stdout
    assert "and they may list what the user disliked" in liked.stdout
    assert "by everyone: all that the user rated before" in rated.stdout
    assert "Cold items" not in liked.stdout and "MLflow" not in liked.stdout
    assert liked.stderr.count("in validation") == len(BASELINES) + 2


def evaluated(movies: Path, cache: Path, *overrides: str, **options: Any) -> RankingResult:
    settings = (*CHEAP, f"agents.encoder.cache={cache}", *overrides)
    experiment = load_experiment("movielens", settings).model_copy(update={"dataset": str(movies)})
    return evaluate_ranking(experiment, cold=False, **options)


def test_twice_the_same_run_is_the_same_but_for_the_time(movies: Path, tmp_path: Path) -> None:
    first, second = (evaluated(movies, tmp_path, 'agents.names=["cf"]', named=True) for _ in range(2))
    assert replace(first, seconds=0.0) == replace(second, seconds=0.0)
    assert "95 % interval" in text(first) and picture(first.table, "ndcg@10").axes


def test_under_rated_nobody_lists_what_was_rated(movies: Path, tmp_path: Path) -> None:
    """And under `liked` the agents leave it out all the same, while baselines may list what was disliked."""
    dataset = load_dataset(movies)
    split = ranking_split(dataset.logs())
    experiment = load_experiment("movielens", (*CHEAP, 'agents.names=["cf"]', f"agents.encoder.cache={tmp_path}"))
    liked = Contest(dataset, experiment, ("cf",), "liked", 20, lambda line: None, {"popular": {}}, {"cf": 1.0})
    fitted = liked.fit(split)
    seen, known = split.seen[split.users].toarray() > 0, split.liked[split.users].toarray() > 0
    users = np.arange(len(split.users))[:, None]
    for contest, disliked in ((liked, True), (replace(liked, unseen="rated"), False)):
        lists = contest.rank(fitted, split)
        assert not seen[users, lists["cf"]].any() and not seen[users, lists["team_static"]].any()
        assert seen[users, lists["popular"]].any() == disliked and not known[users, lists["popular"]].any()
        assert np.array_equal(lists["cf"], lists["team_static"])


def test_equal_scores_are_in_another_order_for_each_user(movies: Path, tmp_path: Path) -> None:
    dataset = load_dataset(movies)
    split = ranking_split(dataset.logs())
    contest = Contest(dataset, load_experiment("movielens"), (), "liked", 5, lambda line: None)
    lists = contest.baseline_lists(lambda rows, users: np.zeros(rows.get_shape()), split)
    exposure = np.bincount(lists.ravel(), minlength=MOVIES)
    assert len(np.unique(lists[:, 0])) > 20 and exposure.max() < 3 * exposure.mean()


def test_an_agent_with_nothing_to_learn_from_is_left_out_unless_it_was_named(
    movies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Tower:
        raise InputError("there is nothing here for content")

    monkeypatch.setattr(ranking_tuning, "RECOMMENDERS", ("cf", "content"))
    monkeypatch.setitem(FITTERS, "content", replace(FITTERS["content"], fit=refuse))
    lines: list[str] = []
    found = evaluated(movies, tmp_path, say=lines.append)
    assert list(found.weights) == ["cf"] and "content is left out: there is nothing here for content" in lines
    with pytest.raises(InputError, match="nothing here for content"):
        evaluated(movies, tmp_path, 'agents.names=["cf", "content"]', named=True)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--ranking", "nowhere"], "nowhere: no such dataset folder; make one with `concertrl ingest`"),
        (["--ranking", "d", "--agents", "cf,contents"], 'no agent "contents"; did you mean "content"?'),
        (["--ranking", "d", "--agents", ","], "--agents: name at least one, such as --agents cf,content"),
        (["--ranking", "d", "--unseen", "all"], "'all' is not one of 'liked', 'rated'"),
        (["--ranking", "d", "agents.cf.factor=3"], 'unknown key "agents.cf.factor"'),
        (["--ranking", "d", "nothing"], 'no experiment "nothing"'),
        ([], "Missing option '--ranking'"),
    ],
)
def test_a_mistake_is_told_in_one_line(words: list[str], told: str) -> None:
    result = CliRunner().invoke(main, ["evaluate", *words])
    assert result.exit_code == 2 and told in result.stderr and result.stdout == ""
    assert len(result.stderr.splitlines()) == 1


def test_a_fusion_without_points_is_refused(run: Any) -> None:
    result = run("--agents", "cf", "--no-track", "fusion.method=plurality")
    assert result.exit_code == 2 and "fusion.method=plurality: a ranking is fused by points" in result.stderr
