"""A plan: what goes where on nodes as given, by every strategy, and what is short."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from concertrl.__main__ import main
from concertrl.cluster.dashboard import Node
from concertrl.cluster.placement import parts
from concertrl.cluster.plan import Plan, make_plan, plan_text
from concertrl.platform.experiment import load_experiment

HEAD = Node("head" + "0" * 20, "h", "10.0.0.1", True, {"CPU": 2.0, "memory": 8.0 * 2**30, "node:10.0.0.1": 1.0})
GPUS = Node("gpus" + "0" * 20, "g", "10.0.0.2", False, {"CPU": 8.0, "GPU": 2.0})
CPUS = Node("cpus" + "0" * 20, "c", "10.0.0.3", False, {"CPU": 4.0, "runner": 4.0})


def plan_of(*words: str, nodes: tuple[Node, ...] = (HEAD, GPUS, CPUS)) -> Plan:
    return make_plan(load_experiment("builtin", ["cluster.address=auto", "cluster.placement=PACK", *words]), nodes)


def hosts(plan: Plan, what: str) -> list[str | None]:
    return [one.node and one.node.host for one in plan.placed if one.what.startswith(what)]


def test_learners_go_to_gpus_and_runners_where_their_resource_is() -> None:
    runners = ("cluster.num_env_runners=4", "cluster.resources_per_env_runner={runner: 1}")
    plan = plan_of(*runners, "cluster.num_learners=2", "cluster.num_gpus_per_learner=1")
    assert plan.fits and plan.short == ""
    assert hosts(plan, "driver") == ["h"] and hosts(plan, "learner") == ["g", "g"]
    assert hosts(plan, "env runner") == ["c"] * 4
    text = plan_text(plan)
    assert "learner 1       1 CPU, 1 GPU              gpus00000000 (10.0.0.2)" in text
    assert "head00000000    2 CPU, 8 GiB memory (head)" in text


def test_fractions_of_a_gpu_share_it() -> None:
    words = ("cluster.num_env_runners=4", "cluster.num_gpus_per_env_runner=0.5", "cluster.num_cpus_per_env_runner=1")
    assert hosts(plan_of(*words), "env runner") == ["g"] * 4
    short = plan_of(*words, "cluster.num_env_runners=5")
    assert not short.fits and "2.5 GPU wanted, 2 there" in short.short
    assert hosts(short, "env runner").count(None) == 1


@pytest.mark.parametrize(
    ("strategy", "runners", "distinct"),
    [("PACK", 3, 1), ("SPREAD", 3, 3), ("STRICT_SPREAD", 3, 3), ("STRICT_PACK", 7, 1)],
)
def test_strategies(strategy: str, runners: int, distinct: int) -> None:
    plan = plan_of(f"cluster.num_env_runners={runners}", f"cluster.placement={strategy}", nodes=(GPUS, HEAD, CPUS))
    assert plan.fits and len(set(hosts(plan, "env runner"))) == distinct


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cluster.num_env_runners=15"], "15 CPU wanted, 14 there"),
        (
            ["cluster.num_env_runners=9", "cluster.placement=STRICT_PACK"],
            "not on single nodes (cluster.placement=STRICT",
        ),
        (["cluster.num_env_runners=4", "cluster.placement=STRICT_SPREAD"], "no room for 1 of 6 processes"),
        (["cluster.num_env_runners=1", "cluster.resources_per_env_runner={tpu: 1}"], "1 tpu wanted, 0 there"),
        (["cluster.num_learners=2", "cluster.num_cpus_per_learner=6"], "enough in all, but not on single nodes"),
        (["cluster.num_gpus_driver=3"], "such as driver (3 GPU): 3 GPU wanted, 2 there"),
    ],
)
def test_what_cannot_be_placed_is_told(words: list[str], said: str) -> None:
    plan = plan_of(*words)
    assert not plan.fits and said in plan.short and "\n" not in plan.short


def test_parts_are_the_bundles_runners_first() -> None:
    cluster = load_experiment("builtin", ["cluster.num_env_runners=2", "cluster.num_learners=1"]).cluster
    assert [part.what for part in parts(cluster)] == ["env runner 1", "env runner 2", "learner 1"]


def test_plan_on_this_machine_ends_with_its_status() -> None:
    ran = CliRunner().invoke(main, ["plan", "cluster.num_env_runners=3", "--json"])
    assert ran.exit_code == 0, ran.output
    answer = json.loads(ran.stdout)
    assert answer["fits"] and answer["placed"][0]["what"] == "driver"
    ran = CliRunner().invoke(main, ["plan", "builtin", "cluster.num_learners=1", "cluster.num_gpus_per_learner=999"])
    assert ran.exit_code == 1
    [line] = ran.stderr.splitlines()
    assert line.startswith(
        "concertrl: builtin cannot be placed: no room for 1 of 2 processes, such as learner 1 (1 CPU, 999 G"
    )
