from __future__ import annotations

import json
from collections import Counter

import pytest
import torch
from concertrl.envs import BatchedEnv, prepare
from concertrl.envs.stage import keep
from concertrl.envs.synthetic import synthetic_stage
from concertrl.experiments.benchmark_throughput import Sizes, measure, report
from concertrl.experiments.plain_torch import PlainTorch
from concertrl.platform.settings import (
    AgentsSettings,
    EncoderSettings,
    EnvSettings,
    Experiment,
    FusionSettings,
    TrainSettings,
    WorldSettings,
)

TINY = Sizes(
    users=40, items=50, dim=4, horizon=5, sessions=(8, 16), stock_envs=2, stock_batch=20, minibatch=20
)  # quick, and no result


@pytest.fixture
def experiment(tmp_path) -> Experiment:
    return Experiment(
        world=WorldSettings(users=40, items=50),
        agents=AgentsSettings(encoder=EncoderSettings(cache=str(tmp_path))),
        fusion=FusionSettings(conductor=False, weights="equal"),
        env=EnvSettings(sessions=16, horizon=5),
        train=TrainSettings(minibatch=20),
    )


def test_every_contender_steps_the_environment_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    stepped: Counter[int] = Counter()
    step = BatchedEnv.step

    def counted(self: BatchedEnv, *args, **kwargs):
        stepped[self.sessions] += self.sessions
        return step(self, *args, **kwargs)

    monkeypatch.setattr(BatchedEnv, "step", counted)
    found = measure(1, sizes=TINY)
    said = {name: sum(parts.values()) for name, parts in found.env_steps.items()}
    assert found.env_steps["stock"] == {"sampling": 20, "training": 20}
    assert found.env_steps["concertrl_16"] == found.env_steps["torch_16"] == {"sampling": 80, "training": 80}
    # Every contender is called in the warm-up too, which is not in what is said.
    assert stepped[1] == 2 * (said["stock"] + said["pettingzoo_alone"])
    assert stepped[8] == 2 * (said["concertrl_8"] + said["torch_8"])
    assert stepped[16] == 2 * (said["concertrl_16"] + said["torch_16"] + said["environment_16"])

    answer = json.loads(json.dumps(found.as_dict()))
    assert answer["rounds"] == 1
    assert answer["machine"]["threads"] == 1
    assert set(answer["ratios"]) == {"sampling_vs_stock", "training_vs_stock", "training_vs_torch"}
    ours, stock, plain = (answer["medians"][name] for name in ("concertrl_16", "stock", "torch_16"))
    expected = {
        "sampling_vs_stock": ours["sampling"] / stock["sampling"],
        "training_vs_stock": ours["training"] / stock["training"],
        "training_vs_torch": ours["training"] / plain["training"],
    }
    assert answer["ratios"] == pytest.approx(expected, rel=0.02)
    assert all(name in report(found) for name in answer["medians"])


def test_a_stage_that_is_kept_is_what_prepare_gives(experiment: Experiment) -> None:
    stage = synthetic_stage(experiment, dim=4)
    keep(stage)
    found = prepare(experiment)
    assert found.world.name == "synthetic"
    assert torch.equal(found.world.user_vectors, stage.world.user_vectors)
    for name, tower in stage.ensemble.towers.items():
        assert torch.equal(found.ensemble.towers[name].item_vectors, tower.item_vectors)


def test_sessions_of_the_synthetic_stage_run_and_end(experiment: Experiment) -> None:
    env = BatchedEnv(synthetic_stage(experiment, dim=4), sessions=256, seed=0)
    lengths = []
    for _ in range(10):
        done = env.step({}).done
        lengths += env.state.step[done].tolist()
        env.renew(done)
    assert 1 < sum(lengths) / len(lengths) < experiment.env.horizon
    assert max(lengths) == experiment.env.horizon


def test_plain_torch_learns_every_agent(experiment: Experiment) -> None:
    plain = PlainTorch(synthetic_stage(experiment, dim=4))
    before = {agent: critic.head.weight.clone() for agent, critic in plain.critics.items()}
    assert plain.train() == 16 * 5
    for agent, policy in plain.policies.items():
        assert policy.head.weight.abs().max() > 0
        assert not torch.equal(plain.critics[agent].head.weight, before[agent])
        assert all(bool(weights.isfinite().all()) for weights in policy.parameters())
