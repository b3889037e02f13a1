from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from concertrl.agents.ensemble import CONDUCTOR, CONDUCTOR_GAINS, QUERY_LIMIT, Ensemble, Reading
from concertrl.agents.tower import PAD, History, Tower
from concertrl.agents.traces import CLICK_FADE, TRACE_FADE, Traces
from concertrl.platform.settings import FusionSettings, TrainSettings
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

ITEMS, DIMS, USERS = 40, {"cf": 6, "content": 4, "sentiment": 2}, 9
WEIGHTS = torch.tensor([2.0, 1.0, 1.0])


THEMES = 4
NO_LEAN = [torch.zeros(USERS, THEMES)] * len(DIMS)


def tower(name: str, dim: int) -> Tower:
    noise = torch.Generator().manual_seed(dim)
    extras = {"prior": torch.ones(dim), "gain": torch.tensor(1.0)}
    if name == next(iter(DIMS)):
        extras["themes"] = torch.nn.functional.one_hot(torch.arange(ITEMS) % THEMES, THEMES).float()
    return Tower(name, 0.5 + torch.randn(ITEMS, dim, generator=noise), "mean", extras)


def ensemble_of(**fusion: object) -> Ensemble:
    towers = {name: tower(name, dim) for name, dim in DIMS.items()}
    return Ensemble(towers, FusionSettings.model_validate({"ballot": 8, **fusion}), WEIGHTS)


@pytest.fixture
def ensemble() -> Ensemble:
    return ensemble_of()


def histories() -> History:
    noise = torch.Generator().manual_seed(1)
    items = torch.randint(ITEMS, (USERS, 5), generator=noise)
    items[0], items[1, 2:] = PAD, PAD
    weights = torch.rand(USERS, 5, generator=noise) * (items != PAD)
    return History(items, torch.zeros(USERS, 5), weights)


def some_traces(ensemble: Ensemble) -> Traces:
    noise = torch.Generator().manual_seed(2)
    blank = vars(ensemble.blank(USERS))
    return Traces(**{name: torch.randn(value.shape, generator=noise) for name, value in blank.items()})


def actions_of(ensemble: Ensemble, spread: float = 1.0) -> dict[str, Tensor]:
    noise = torch.Generator().manual_seed(3)
    sizes = {agent: ensemble.action_dim(agent) for agent in ensemble.agents}
    return {agent: spread * torch.randn(USERS, size, generator=noise) for agent, size in sizes.items()}


def scores_of(ensemble: Ensemble, name: str, query: Tensor) -> Tensor:
    vectors = ensemble.towers[name].item_vectors
    return query @ (vectors - vectors.mean(0)).t()


def test_a_reading_has_queries_of_one_size_and_says_how_much_is_known(ensemble: Ensemble) -> None:
    reading = ensemble.read(histories())
    for query, dim in zip(reading.queries, DIMS.values(), strict=True):
        torch.testing.assert_close(query.norm(dim=1), torch.full((USERS,), math.sqrt(dim)))
    assert reading.strengths.shape == (USERS, 3) and bool(((reading.strengths > 0) & (reading.strengths < 1)).all())
    torch.testing.assert_close(reading.known, torch.log1p(torch.tensor([0.0, 2, *[5] * 7])) / 4)
    some = reading.rows(torch.tensor([4, 2]))
    assert torch.equal(some.queries[1], reading.queries[1][[4, 2]]) and torch.equal(some.known, reading.known[[4, 2]])


def test_zero_actions_ask_as_no_actions_to_the_last_bit(ensemble: Ensemble) -> None:
    reading, traces = ensemble.read(histories()), some_traces(ensemble)
    idle = {agent: torch.zeros(USERS, ensemble.action_dim(agent)) for agent in ensemble.agents}
    for mine, static in zip(ensemble.ask(reading, traces, idle), ensemble.ask(reading, traces, {}), strict=True):
        assert torch.equal(mine, static)
    assert torch.equal(ensemble.weigh(traces, idle), ensemble.weigh(traces, {}))


def test_scores_of_the_catalog_are_standardised_whatever_is_asked(ensemble: Ensemble) -> None:
    reading, traces = ensemble.read(histories()), some_traces(ensemble)
    for actions in ({}, actions_of(ensemble)):
        for name, query in zip(DIMS, ensemble.ask(reading, traces, actions), strict=True):
            scores = scores_of(ensemble, name, query)
            torch.testing.assert_close(scores.mean(1), torch.zeros(USERS), atol=1e-5, rtol=0)
            torch.testing.assert_close(scores.var(1, correction=0), torch.ones(USERS))


def test_an_action_is_gains_and_a_residual(ensemble: Ensemble) -> None:
    """(1 + g1) query + 2 g2 clicked + g3 shown / 2 + r / 5, clipped first, scaled last."""
    reading, traces, actions = ensemble.read(histories()), some_traces(ensemble), actions_of(ensemble, spread=2.0)
    start = 0
    for place, (name, dim) in enumerate(DIMS.items()):
        action = actions[name].clamp(-QUERY_LIMIT, QUERY_LIMIT)
        g1, g2, g3 = (action[:, k : k + 1] for k in range(3))
        clicked, shown = (part[:, start : start + dim] * math.sqrt(dim) for part in (traces.clicked, traces.shown))
        start += dim
        wanted = (1 + g1) * reading.queries[place] + 2 * g2 * clicked + g3 * shown / 2 + action[:, 4:] / 5
        found = ensemble.ask(reading, traces, actions)[place]
        torch.testing.assert_close(found, wanted / scores_of(ensemble, name, wanted).std(1, correction=0)[:, None])


def test_an_agent_leans_to_or_from_the_themes_that_were_shown(ensemble: Ensemble) -> None:
    """5 g4 worn, added to the scores of each item of a theme; clipped first."""
    reading, traces, actions = ensemble.read(histories()), some_traces(ensemble), actions_of(ensemble, spread=2.0)
    queries, leans = ensemble.ask(reading, traces, actions), ensemble.lean(traces, actions)
    ballots = ensemble.propose(queries, leans, torch.zeros(USERS, ITEMS))
    theme = torch.arange(ITEMS) % THEMES
    for place, name in enumerate(DIMS):
        gain = actions[name][:, 3:4].clamp(-QUERY_LIMIT, QUERY_LIMIT)
        torch.testing.assert_close(leans[place], 5 * gain * traces.worn)
        expected = (scores_of(ensemble, name, queries[place]) + (5 * gain * traces.worn)[:, theme]).topk(8, dim=1)
        torch.testing.assert_close(ballots.scores[:, place], expected.values)
    assert all(not lean.any() for lean in ensemble.lean(traces, {}))


def test_a_team_without_themes_leans_nowhere() -> None:
    towers = {
        name: replace(tower(name, dim), extras={"prior": torch.ones(dim), "gain": torch.tensor(1.0)})
        for name, dim in DIMS.items()
    }
    ensemble = Ensemble(towers, FusionSettings(ballot=8), WEIGHTS)
    queries = ensemble.ask(ensemble.read(histories()), ensemble.blank(USERS), {})
    leans = ensemble.lean(ensemble.blank(USERS), actions_of(ensemble))
    assert [lean.shape for lean in leans] == [(USERS, 0)] * 3
    assert ensemble.propose(queries, leans, torch.zeros(USERS, ITEMS)).items.shape == (USERS, 3, 8)


def test_one_agents_action_leaves_the_others_as_they_are(ensemble: Ensemble) -> None:
    reading, traces = ensemble.read(histories()), some_traces(ensemble)
    static = ensemble.ask(reading, traces, {})
    for place, name in enumerate(DIMS):
        found = ensemble.ask(reading, traces, {name: actions_of(ensemble)[name]})
        assert [torch.equal(mine, other) for mine, other in zip(found, static, strict=True)] == [
            other != place for other in range(3)
        ]


def test_ballots_hold_the_best_that_may_be_shown(ensemble: Ensemble) -> None:
    queries = ensemble.ask(ensemble.read(histories()), ensemble.blank(USERS), {})
    penalty = -1e4 * (torch.rand(USERS, ITEMS, generator=torch.Generator().manual_seed(4)) < 0.5).float() + 0.0
    ballots = ensemble.propose(queries, NO_LEAN, penalty)
    assert ballots.items.shape == (USERS, 3, 8)
    for place, name in enumerate(DIMS):
        expected = (scores_of(ensemble, name, queries[place]) + penalty).topk(8, dim=1)
        assert torch.equal(ballots.items[:, place], expected.indices)
        torch.testing.assert_close(ballots.scores[:, place], expected.values)
    assert ensemble.propose(queries, NO_LEAN, penalty, at_least=12).items.shape[2] == 12
    assert ensemble.propose(queries, NO_LEAN, penalty, at_least=99).items.shape[2] == ITEMS


def test_the_conductor_moves_the_logarithm_of_the_weights(ensemble: Ensemble) -> None:
    torch.testing.assert_close(ensemble.weigh(ensemble.blank(4), {}), torch.tensor([0.5, 0.25, 0.25]).expand(4, 3))
    action = torch.tensor([[0.0, math.log(2.0), 0.0, *[0.0] * 4], [9.0, -9.0, -9.0, *[0.0] * 4]])
    found = ensemble.weigh(ensemble.blank(2), {CONDUCTOR: action})
    torch.testing.assert_close(found[0], torch.tensor([2.0, 2.0, 1.0]) / 5)
    odds = math.exp(10) * 2  # clipped to 5 either way
    torch.testing.assert_close(found[1], torch.tensor([odds, 1.0, 1.0]) / (odds + 2))


@pytest.mark.parametrize("place", range(4))
def test_the_conductors_gains_are_on_what_a_session_has_shown(ensemble: Ensemble, place: int) -> None:
    traces = some_traces(ensemble)
    action = torch.zeros(USERS, ensemble.action_dim(CONDUCTOR))
    action[:, 3 + place] = 0.5
    name, unit = list(CONDUCTOR_GAINS.items())[place]
    expected = (ensemble.weights.log() + 0.5 * unit * getattr(traces, name)).softmax(1)
    torch.testing.assert_close(ensemble.weigh(traces, {CONDUCTOR: action}), expected)


def test_there_is_no_conductor_where_none_is_wanted() -> None:
    ensemble = ensemble_of(conductor=False)
    assert ensemble.agents == ("cf", "content", "sentiment")
    traces = some_traces(ensemble)
    assert torch.equal(ensemble.weigh(traces, {CONDUCTOR: torch.ones(USERS, 7)}), ensemble.weigh(traces, {}))
    assert ensemble_of().agents == ("cf", "content", "sentiment", CONDUCTOR)


def test_shares_and_slates_follow_the_rule(ensemble: Ensemble) -> None:
    queries = ensemble.ask(ensemble.read(histories()), ensemble.blank(USERS), {})
    ballots = ensemble.propose(queries, NO_LEAN, torch.zeros(USERS, ITEMS))
    weights = ensemble.weigh(ensemble.blank(USERS), {})
    slate = ensemble.fuse(ballots, weights, 5)
    torch.testing.assert_close(ensemble.shares(ballots, weights, slate).sum(2), torch.ones(USERS, 5))
    assert not torch.equal(slate, ensemble_of(method="plurality").fuse(ballots, weights, 5))


def test_observations_are_laid_out_as_documented(ensemble: Ensemble) -> None:
    reading, traces = ensemble.read(histories()), some_traces(ensemble)
    progress = torch.linspace(0, 1, USERS)
    observations = ensemble.observe(reading, traces, progress)
    assert list(observations) == list(ensemble.agents)
    common = torch.cat([progress[:, None], reading.known[:, None], traces.rates], dim=1)
    start = 0
    for place, (name, dim) in enumerate(DIMS.items()):
        seen = observations[name]
        assert seen.shape == (USERS, ensemble.observation_dim(name)) == (USERS, 5 + 3 * dim)
        expected = [reading.queries[place]]
        expected += [part[:, start : start + dim] * math.sqrt(dim) for part in (traces.clicked, traces.shown)]
        start += dim
        torch.testing.assert_close(seen, torch.cat([*expected, common, reading.strengths[:, place : place + 1]], dim=1))
    seen = observations[CONDUCTOR]
    assert seen.shape == (USERS, ensemble.observation_dim(CONDUCTOR)) == (USERS, 23)
    told = [traces.support, traces.hits, traces.trust, traces.agreement, traces.steadiness]
    assert torch.equal(seen[:, :15], torch.cat(told, dim=1))
    shown = traces.shown.split(list(DIMS.values()), dim=1)
    torch.testing.assert_close(seen[:, 15:18], torch.stack([part.norm(dim=1) for part in shown], dim=1))
    torch.testing.assert_close(seen[:, 18:], torch.cat([common, reading.strengths.mean(1, keepdim=True)], dim=1))


def test_traces_remember_what_was_shown_and_clicked_and_fade(ensemble: Ensemble) -> None:
    traces, noise = some_traces(ensemble), torch.Generator().manual_seed(5)
    reading: Reading = ensemble.read(histories())
    queries = ensemble.ask(reading, traces, {})
    slate = torch.stack([torch.randperm(ITEMS, generator=noise)[:4] for _ in range(USERS)])
    click = (torch.rand(USERS, 4, generator=noise) < 0.4).float()
    click[0] = 0
    found = ensemble.remember(traces, queries, slate, click)
    vectors = torch.cat([each.item_vectors - each.item_vectors.mean(0) for each in ensemble.towers.values()], dim=1)
    scores = {name: scores_of(ensemble, name, query) for name, query in zip(DIMS, queries, strict=True)}
    for row in range(USERS):
        shown, clicked = vectors[slate[row]], vectors[slate[row][click[row] == 1]]
        torch.testing.assert_close(found.shown[row], TRACE_FADE * traces.shown[row] + shown.sum(0) / 4)
        torch.testing.assert_close(found.clicked[row], CLICK_FADE * traces.clicked[row] + clicked.sum(0) / 4)
        themes = torch.bincount(slate[row] % THEMES, minlength=THEMES) / 4
        torch.testing.assert_close(found.worn[row], TRACE_FADE * traces.worn[row] + (1 - TRACE_FADE) * themes)
        rate = float(click[row].sum()) / 4
        fading = TRACE_FADE * float(traces.rates[row, 1]) + (1 - TRACE_FADE) * rate
        assert found.rates[row].tolist() == pytest.approx([rate, fading], abs=1e-6)
        for place, name in enumerate(DIMS):
            mine = scores[name][row][slate[row]]
            hit = float(mine[click[row] == 1].mean() - mine.mean()) if click[row].any() else 0.0
            assert float(found.support[row, place]) == pytest.approx(float(mine.mean()), abs=1e-5)
            assert float(found.hits[row, place]) == pytest.approx(hit, abs=1e-5)
            trust = TRACE_FADE * float(traces.trust[row, place]) + (1 - TRACE_FADE) * hit
            assert float(found.trust[row, place]) == pytest.approx(trust, abs=1e-5)
    assert torch.equal(found.asked, torch.cat(queries, dim=1))


def test_agreement_and_steadiness_are_correlations_of_scores(ensemble: Ensemble) -> None:
    reading, noise = ensemble.read(histories()), torch.Generator().manual_seed(5)
    slate = torch.stack([torch.randperm(ITEMS, generator=noise)[:4] for _ in range(USERS)])
    first = ensemble.ask(reading, ensemble.blank(USERS), {})
    second = ensemble.ask(reading, ensemble.blank(USERS), actions_of(ensemble))
    begun = ensemble.remember(ensemble.blank(USERS), first, slate, torch.zeros(USERS, 4))
    found = ensemble.remember(begun, second, slate, torch.zeros(USERS, 4))
    assert not begun.steadiness.any()
    for row in range(USERS):
        before, now = (
            np.stack([scores_of(ensemble, name, query)[row].numpy() for name, query in zip(DIMS, queries, strict=True)])
            for queries in (first, second)
        )
        alike = [(np.corrcoef(scores).sum(1) - 1) / 2 for scores in (before, now)]
        np.testing.assert_allclose(begun.agreement[row], alike[0], atol=1e-4)
        fading = TRACE_FADE * alike[0] + (1 - TRACE_FADE) * alike[1]
        np.testing.assert_allclose(found.agreement[row], fading, atol=1e-4)
        steady = [np.corrcoef(before[k], now[k])[0, 1] for k in range(3)]
        np.testing.assert_allclose(found.steadiness[row], steady, atol=1e-4)


def test_reset_blanks_the_rows_that_begin_again(ensemble: Ensemble) -> None:
    traces, again = some_traces(ensemble), torch.arange(USERS) % 2 == 0
    for name, value in vars(traces.reset(again)).items():
        assert not value[again].any() and torch.equal(value[~again], getattr(traces, name)[~again])


def test_a_policys_spec_is_of_the_agents_spaces(ensemble: Ensemble) -> None:
    train = TrainSettings(initial_std=0.7, hidden=(5,))
    spec = ensemble.policy_spec("content", train)
    assert (spec.observation_dim, spec.hidden, spec.constant, spec.shared) == (17, (5,), 0, 4)
    assert spec.initial_std == (0.7,) * (4 + 4)  # its gains and its tower's dimensions
    conductor = ensemble.policy_spec(CONDUCTOR, train)
    assert (conductor.initial_std, conductor.constant, conductor.shared) == ((0.7,) * 7, 2, 0)


@given(st.lists(st.floats(0.125, 10, width=32), min_size=3, max_size=3))
def test_weights_are_normalised_once(given_weights: list[float]) -> None:
    """To the last bit: teams and stages are saved with normalised weights, and their sum is seldom quite 1."""
    towers = {name: tower(name, dim) for name, dim in DIMS.items()}
    once = Ensemble(towers, FusionSettings(), torch.tensor(given_weights)).weights
    assert float(once.sum()) == pytest.approx(1.0)
    assert torch.equal(Ensemble(towers, FusionSettings(), once).weights, once)


def test_static_weights_are_normalised_and_the_ensemble_moves_whole() -> None:
    ensemble = ensemble_of()
    assert ensemble.weights.tolist() == [0.5, 0.25, 0.25] and ensemble.num_items == ITEMS
    moved = ensemble.to("cpu")
    reading = ensemble.read(histories())
    blank = ensemble.blank(USERS)
    for mine, other in zip(moved.ask(reading, blank, {}), ensemble.ask(reading, blank, {}), strict=True):
        assert torch.equal(mine, other)
