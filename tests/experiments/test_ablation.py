from __future__ import annotations

import numpy as np
import torch
from concertrl.agents.policy import Policy
from concertrl.cluster.trainer import untrained_team
from concertrl.envs import Stage
from concertrl.experiments.ablation import KINDS, ablate, read_conductor
from concertrl.platform import plots_conductor
from concertrl.platform.settings import TrainSettings


def wilful(stage: Stage) -> dict[str, Policy]:
    """Policies that do something, each its own."""
    policies = {}
    for place, agent in enumerate(stage.ensemble.agents):
        torch.manual_seed(place)
        policies[agent] = Policy(stage.ensemble.policy_spec(agent, TrainSettings(hidden=(8,))))
        torch.nn.init.normal_(policies[agent].head.weight, std=0.3)
    return policies


def test_every_agent_is_dropped_frozen_silenced_and_turned(small_stage: Stage) -> None:
    team = untrained_team(small_stage, wilful(small_stage))
    losses = ablate(small_stage, team)
    names = small_stage.ensemble.recommenders
    assert [(loss.agent, loss.kind) for loss in losses] == [(name, kind) for name in names for kind in KINDS]
    for loss in losses:
        assert loss.low <= loss.lost <= loss.high and 1 <= len(loss.weights) <= small_stage.experiment.env.horizon
    assert all(loss.weights[0] == 0.0 for loss in losses if loss.kind == "dropped")
    assert losses == ablate(small_stage, team)


def test_a_team_that_has_learned_nothing_loses_nothing_by_being_frozen(small_stage: Stage) -> None:
    losses = ablate(small_stage, untrained_team(small_stage))
    assert all(loss.lost == 0.0 for loss in losses if loss.kind == "frozen")
    assert any(loss.lost != 0.0 for loss in losses if loss.kind == "adversarial")


def test_the_conductors_weights_are_told_by_level(small_stage: Stage) -> None:
    readings = read_conductor(small_stage, untrained_team(small_stage, wilful(small_stage)))
    assert [each.name for each in readings] == ["satiation", "log of history length", "agreement of the agents"]
    for each in readings:
        assert bool((np.diff(each.levels) > 0).all()) and len(each.levels) == len(each.weights) <= 5
        np.testing.assert_allclose(each.weights.sum(1), 1.0, atol=1e-5)
    panels = {each.name: (each.levels, each.weights) for each in readings}
    figure = plots_conductor.reading(panels, small_stage.ensemble.recommenders)
    assert [axes.get_xlabel() for axes in figure.axes] == list(panels)


def test_a_failing_agents_weight_is_drawn_beside_its_usual_one() -> None:
    figure = plots_conductor.failing(
        {"cf": [0.4, 0.1], "content": [0.3, 0.2]}, {"cf": [0.4, 0.4], "content": [0.3, 0.3]}
    )
    lines = figure.axes[0].get_lines()
    assert [np.asarray(line.get_ydata()).tolist() for line in lines[:2]] == [[0.4, 0.1], [0.4, 0.4]]
