"""Judges registered teams on the same sessions, and tells the first one's lead over each of the others seed by seed.

python tests/tools/paired.py builtin concertrl-builtin SEEDS VERSION VERSION ...
"""

from __future__ import annotations

import sys
from pathlib import Path

from concertrl.agents.team_files import load_team
from concertrl.envs import BatchedEnv, prepare
from concertrl.envs.yardsticks import play
from concertrl.experiments.judge import JUDGE, team_act
from concertrl.platform.destination import local_uri
from concertrl.platform.draws import derive
from concertrl.platform.experiment import load_experiment
from concertrl.platform.statistics import interval


def main() -> None:
    name, model, seeds, *versions = sys.argv[1:]
    experiment = load_experiment(name)
    env = BatchedEnv(prepare(experiment), sessions=experiment.evaluate.sessions, seed=0, users="judge")
    uri, first = local_uri(Path(experiment.tracking.folder)), list[float]()
    for version in versions:
        act, means = team_act(load_team(f"models:/{model}/{version}", uri)), list[float]()
        for seed in range(int(seeds)):
            env.seed = derive(experiment.train_seed, JUDGE, seed)
            means.append(play(env, act).returns.mean().item())
        first = first or means
        print(version, interval(means), interval([mine - its for mine, its in zip(means, first, strict=True)]))


if __name__ == "__main__":
    main()
