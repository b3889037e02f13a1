"""A run's runners and learners have places of their own on a cluster that was joined, or the run does not start."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from concertrl.cluster.trainer import Trainer
from concertrl.envs import Stage
from concertrl.platform.errors import ConcertError

pytestmark = pytest.mark.slow

JOINED = {"address": "auto", "placement": "PACK", "num_env_runners": 2, "num_learners": 2}
SHORT = {"iterations": 1, "minibatch": 64, "epochs": 1}


def test_runners_and_learners_stand_in_the_bundles_of_one_group(
    ray_cluster: None, stage_under: Callable[..., Stage]
) -> None:
    import ray
    from ray.util import placement_group_table

    told: list[str] = []
    free = ray.available_resources()["CPU"]
    with Trainer(stage_under(cluster=JOINED, train=SHORT), told.append) as trainer:
        group = placement_group_table(trainer._placed)
        assert (group["state"], group["strategy"]) == ("CREATED", "PACK")
        assert list(group["bundles"].values()) == [{"CPU": 1.0}] * 4
        left = [amount for name, amount in ray.available_resources().items() if name.startswith("CPU_group_")]
        assert not any(left)  # every bundle is taken by the one that it was made for
        assert trainer.iterate()["team/return"] > 0
        [line] = told
        assert line.startswith("env runners: 2 on ") and "learners: 2 on " in line
    assert placement_group_table(group_of(group))["state"] == "REMOVED"
    assert ray.cluster_resources()["CPU"] >= free


def group_of(table: dict[str, str]) -> object:
    import ray
    from ray.util.placement_group import PlacementGroup

    return PlacementGroup(ray.PlacementGroupID.from_hex(table["placement_group_id"]))


def test_a_run_without_room_says_what_is_free(ray_cluster: None, stage_under: Callable[..., Stage]) -> None:
    cluster = JOINED | {"num_gpus_per_learner": 1, "placement_timeout_s": 0.5}
    with pytest.raises(ConcertError) as raised:
        Trainer(stage_under(cluster=cluster))
    said = str(raised.value)
    assert "no room for 2 env runners (1 CPU each) and 2 learners (1 CPU, 1 GPU each) in 0.5 s (free: " in said
    assert "\n" not in said
