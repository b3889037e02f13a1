"""Towers are fitted by other processes, and found where the stage looks for them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from concertrl.agents.towers import fit_towers
from concertrl.cluster.fits import fit_on_cluster
from concertrl.envs.stage import tower_logs
from concertrl.platform.errors import InputError
from concertrl.platform.experiment import load_experiment
from concertrl.platform.settings import Experiment


def small(cache: Path, *changes: str) -> Experiment:
    words = ["world.users=60", "world.items=50", "world.topics=5", f"agents.encoder.cache={cache}", *changes]
    return load_experiment("builtin", words)


def test_towers_come_from_the_cluster_and_are_found(ray_cluster: None, tmp_path: Path) -> None:
    experiment, said = small(tmp_path), []
    assert fit_on_cluster(experiment, said.append) == ("cf", "content", "sentiment")
    assert said[0] == "fitting cf, content, sentiment on the Ray cluster" and len(said) == 4
    assert fit_on_cluster(experiment) == ()  # all in the cache
    logs = tower_logs(experiment)
    found = fit_towers(logs, experiment.agents, experiment.seed)
    here = small(tmp_path / "here").agents
    for name, tower in fit_towers(logs, here, experiment.seed).items():
        assert torch.allclose(tower.item_vectors, found[name].item_vectors, atol=1e-5)


def test_a_users_mistake_stays_one(ray_cluster: None, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has fewer candidates"):
        fit_on_cluster(small(tmp_path, "agents.names=[cf]", "agents.cf.method=ease", "agents.cf.candidate=9999"))
