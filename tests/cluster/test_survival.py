"""A trainer goes on to the last bit: from a checkpoint, and when a runner or learner dies under it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from concertrl.cluster.algorithms import LostError
from concertrl.cluster.trainer import Trainer
from concertrl.envs import Stage
from concertrl.platform.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from concertrl.platform.errors import ConcertError, InputError

pytestmark = pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\..*")  # Ray's own, about Ray's own

StageUnder = Callable[..., Stage]
TRAIN = {"minibatch": 64, "epochs": 2}

PARTS = [(0, 0), pytest.param((1, 1)), pytest.param((2, 2), marks=[pytest.mark.slow, pytest.mark.timeout(900)])]


def told(trainer: Trainer, iterations: int = 2) -> list[dict[str, float]]:
    """The metrics of the next iterations, without those of time."""
    metrics = [trainer.iterate() for _ in range(iterations)]
    return [{name: value for name, value in one.items() if not name.startswith("throughput/")} for one in metrics]


def under(stage_under: StageUnder, runners: int, learners: int, **more: Any) -> Stage:
    cluster = {"num_env_runners": runners, "num_learners": learners, "num_cpus_per_learner": 1.0}
    return stage_under(cluster=cluster, train=TRAIN | more)


def process_of(actor: Any) -> int:
    return ray.get(actor.__ray_call__.remote(lambda _: os.getpid()))


def actors(group: Any) -> list[Any]:
    return list(group._worker_manager.actors().values())


@pytest.mark.parametrize("parts", PARTS, ids=str)
def test_it_goes_on_to_the_last_bit(
    parts: tuple[int, int], stage_under: StageUnder, ray_cluster: None, tmp_path: Path
) -> None:
    stage, lines = under(stage_under, *parts), []
    with Trainer(stage, lines.append) as trainer:
        told(trainer)
        trainer.save(tmp_path / "kept", {"looks": [1.0]}, score=2.0)
        expected, steps = told(trainer), trainer.env_steps
        trainer.restore(tmp_path / "kept")  # in place, and back in time
        assert trainer.iteration == 2 and trainer.env_steps == steps // 2
        assert told(trainer) == expected and trainer.env_steps == steps
        algorithm: Any = trainer._algorithm
        runners = actors(algorithm.env_runner_group)
        # A process that dies before the iteration, and one that dies in the middle of it.
        victims = [(runners[-1:], "env runner"), (actors(algorithm.learner_group)[:1] if parts[1] else [], "learner")]
        for found, name in victims:
            for actor in found:
                trainer.restore(tmp_path / "kept")
                os.kill(process_of(actor), signal.SIGKILL)
                assert told(trainer) == expected and trainer.env_steps == steps
                assert name in lines[-1] and "iteration 3" in lines[-1]
        assert trainer.recoveries == len(lines) == sum(len(found) for found, _ in victims)
    with Trainer(stage) as trainer:
        trainer.restore(tmp_path / "kept")
        assert told(trainer) == expected
    kept = read_checkpoint(tmp_path / "kept")
    assert kept.words["more"] == {"looks": [1.0]} and kept.about == {"iteration": 2, "score": 2.0}


def test_what_dies_while_a_run_is_taken_up_or_looked_at(
    stage_under: StageUnder, ray_cluster: None, tmp_path: Path
) -> None:
    lines: list[str] = []
    with Trainer(under(stage_under, 1, 1), lines.append) as trainer:
        told(trainer, 1)
        trainer.save(tmp_path / "kept")
        weights, expected = trainer.team().policies["cf"].state_dict(), told(trainer, 1)
        algorithm: Any = trainer._algorithm
        ask = algorithm.ask_runners

        def dies_meanwhile(*asked: Any) -> Any:
            algorithm.ask_runners = ask
            raise LostError("1 of 1 env runners died")

        algorithm.ask_runners = dies_meanwhile
        trainer.restore(tmp_path / "kept")
        assert lines.pop() == "going on: 1 of 1 env runners died; it is done again" and not lines
        assert told(trainer, 1) == expected
        os.kill(process_of(actors(algorithm.learner_group)[0]), signal.SIGKILL)
        trainer.restore(tmp_path / "kept")
        assert lines.pop() == "going on: a learner died; it is done again" and not lines
        assert told(trainer, 1) == expected
        trainer.restore(tmp_path / "kept")
        os.kill(process_of(actors(algorithm.learner_group)[0]), signal.SIGKILL)
        looked = trainer.team().policies["cf"].state_dict()
        assert all(torch.equal(value, weights[name]) for name, value in looked.items()) and not lines
        assert told(trainer, 1) == expected


def test_another_count_of_sessions_goes_on_with_users_who_are_new(
    stage_under: StageUnder, ray_cluster: None, tmp_path: Path
) -> None:
    with Trainer(stage_under(train=TRAIN)) as trainer:
        told(trainer)
        trainer.save(tmp_path / "kept")
        steps, weights = trainer.env_steps, trainer.team().policies["cf"].state_dict()
    with Trainer(stage_under(train=TRAIN, env={"sessions": 8})) as trainer:
        trainer.restore(tmp_path / "kept")
        assert trainer.env_steps == steps
        assert all(
            torch.equal(value, weights[name]) for name, value in trainer.team().policies["cf"].state_dict().items()
        )
        runner: Any = trainer._algorithm.env_runner
        assert int(runner.env.state.session.min()) == 2 << 32
        told(trainer, 1)
        assert trainer.env_steps == steps + steps // 4 and trainer.iteration == 3


def test_learning_rates_are_the_experiments_own(stage_under: StageUnder, ray_cluster: None, tmp_path: Path) -> None:
    with Trainer(stage_under(train=TRAIN)) as trainer:
        told(trainer, 1)
        trainer.save(tmp_path / "kept")
    with Trainer(stage_under(train={**TRAIN, "learning_rate": 0.5})) as trainer:
        trainer.restore(tmp_path / "kept")
        told(trainer, 1)
        [rates] = trainer._algorithm.learner_group.foreach_learner(  # pyright: ignore[reportOptionalMemberAccess]
            lambda learner: {group["lr"] for each in learner._named_optimizers.values() for group in each.param_groups}
        )
        assert rates.get() == {0.5}


def test_a_checkpoint_of_another_team_is_refused(stage_under: StageUnder, ray_cluster: None, tmp_path: Path) -> None:
    with Trainer(stage_under(train=TRAIN)) as trainer:
        trainer.save(tmp_path / "kept")
    with Trainer(under(stage_under, 0, 1, hidden=[8])) as trainer:
        with pytest.raises(InputError, match=r"kept: of a team with other networks .*; give its own experiment"):
            trainer.restore(tmp_path / "kept")
        write_checkpoint(tmp_path / "empty", Checkpoint({}, {}))
        with pytest.raises(InputError, match=r"empty: of a team with other networks"):
            trainer.restore(tmp_path / "empty")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_dies_again_and_again_ends_the_run_in_one_line(stage_under: StageUnder, ray_cluster: None) -> None:
    lines = []
    stage = stage_under(cluster={"num_env_runners": 1, "retries": 1}, train=TRAIN)
    with Trainer(stage, lines.append) as trainer:

        def kill(*_: Any) -> None:
            os._exit(1)

        def kill_all() -> None:
            group: Any = trainer._algorithm.env_runner_group  # another one after each recovery
            group.foreach_env_runner(kill, local_env_runner=False)

        recover = trainer._recover

        def recover_and_die(**options: Any) -> None:
            recover(**options)
            kill_all()

        trainer._recover = recover_and_die
        kill_all()
        with pytest.raises(ConcertError, match=r"iteration 1: .*; resume the run, or see the Ray logs"):
            trainer.iterate()
        assert len(lines) == 2 and lines[0].endswith("it is done again") and "cluster.retries" in lines[1]
