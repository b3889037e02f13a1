"""Runs training runs and breaks what is under them, at moments of chance, for a while; then looks whether all is there.

    PYTHONPATH=build/src python -m tests.chaos --minutes 30 --seed 0 --out chaos

A run that was never disturbed is made first; each disturbed run must have its metrics, number by number.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from .checks import known_to, markdown, points, rows, wrong
from .faults import DECK, SIGNS, Chaos, Fault, mounted, unmounted
from .supervisor import Server, Training

TINY = """
    world.users=120 world.items=150 world.topics=6 env.slate=5 env.horizon=8 fusion.ballot=20 env.sessions=32
    agents.content.factors=8 agents.sentiment.max_reviews=500 agents.encoder.max_tokens=16
    train.minibatch=64 train.epochs=2 train.checkpoint.every=3 train.checkpoint.keep_every=20
    evaluate.seeds=2 evaluate.sessions=32 evaluate.every=1 cluster.num_env_runners=1 cluster.num_learners=1
    cluster.retries=5
"""
DISK_MB = 24
OPEN = 3
"""Faults that a run may have to get over at once."""

LONGEST_S = 1200.0
"""A run that is not done by then, after the last fault, will never be."""


class Trial:
    """Runs, one after the other, and what happened to them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.chance = options, random.Random(options.seed)
        self.home = Path(tempfile.mkdtemp(prefix="chaos-"))
        self.kept = self.home / "kept"
        self.server = Server(self.home)
        reason = mounted(self.kept / "checkpoints", DISK_MB)
        self.left_out = [f"no full disk: {reason}"] if reason else []
        self.chaos = Chaos(self.server, None if reason else self.kept / "checkpoints", self.chance)
        self.faults: list[Fault] = []
        self.trainings: list[Training] = []
        self.deck: list[str] = []

    def training(self) -> Training:
        words = [*TINY.split(), f"train.iterations={self.options.iterations}", f"tracking.folder={self.kept}"]
        environment = {**os.environ, "RAY_TMPDIR": str(self.home), "OMP_NUM_THREADS": "1"}
        environment["RAY_worker_niceness"] = "0"  # or a busy machine would not let the workers start
        return Training([*words, f"tracking.uri={self.server.uri}"], self.kept, environment)

    def undisturbed(self) -> Training:
        """A run to its end."""
        training = self.training()
        self.trainings.append(training)
        training.start()
        while training.status is None:
            training.tree()
            time.sleep(0.5)
        if training.status != 0:
            raise SystemExit("\n".join(line for _, line in training.lines[-20:]))
        shutil.rmtree(self.kept / "checkpoints" / str(training.run_id))
        self.trainings.clear()
        return training

    def disturbed(self, until: float) -> Training:
        """A run to its end, with faults up to a time; it is resumed whenever its command ends otherwise."""
        training, number = self.training(), len(self.trainings) + 1
        self.trainings.append(training)
        training.start()
        last = time.monotonic()
        due = last + self.chance.uniform(*self.options.gap)
        while training.status != 0:
            time.sleep(0.25)
            training.tree()
            self._recovered(training, number)
            now = time.monotonic()
            if now > max(until, last) + LONGEST_S:
                say("given up: " + " / ".join(line for _, line in training.lines[-5:]))
                break
            if training.status is not None and training.status != 0:
                training.start()
            elif due < now < until and training.iteration and self._open() < OPEN and self._hit(training, number):
                last, due = now, now + self.chance.uniform(*self.options.gap)
        self._recovered(training, number)
        shutil.rmtree(self.kept / "checkpoints" / str(training.run_id), True)  # the small disk is for the next run
        return training

    def _hit(self, training: Training, number: int) -> bool:
        self.deck = self.deck or self.chance.sample(DECK, len(DECK))
        for kind in (*self.deck, *DECK):  # what needs something that is not there now waits its turn
            fault = Fault(kind, number, time.monotonic(), training.iteration)
            if self.chaos.do(kind, training):
                if kind in self.deck:
                    self.deck.remove(kind)
                self.faults.append(fault)
                say(f"fault {len(self.faults)}: {fault.kind}, run {number}, iteration {fault.iteration}")
                return True
        return False

    def _open(self) -> int:
        return sum(fault.lost_s is None for fault in self.faults)

    def _recovered(self, training: Training, number: int) -> None:
        """Closes the faults that the run has got over: it is beyond where it was, or at its end."""
        now = time.monotonic()
        for fault in self.faults:
            if fault.run != number or fault.lost_s is not None:
                continue
            if training.iteration > fault.iteration or training.status == 0:
                fault.lost_s = now - fault.at_s
                said = [line for at, line in training.lines if fault.at_s <= at <= now and SIGNS[fault.kind] in line]
                fault.how = (said or [""])[0].replace(f"{self.kept}/", "").strip()

    def summary(self, reference: Training, minutes: float) -> dict[str, Any]:
        from mlflow import MlflowClient

        self.server.wait()
        client = MlflowClient(self.server.uri)
        wanted = points(client, str(reference.run_id))
        runs = []
        for number, training in enumerate(self.trainings, 1):
            mine = [fault for fault in self.faults if fault.run == number]
            run_id = known_to(client, str(training.run_id))
            status = client.get_run(run_id).info.status
            told = {"number": number, "run_id": run_id, "faults": len(mine), "commands": training.commands}
            runs.append({**told, "status": status, "wrong": wrong(client, run_id, wanted)})
        known = {reference.run_id, *(run["run_id"] for run in runs)}
        strange = [run.info.run_id for run in client.search_runs(["0", "1"]) if run.info.run_id not in known]
        return {
            "seed": self.options.seed,
            "minutes": minutes,
            "iterations": self.options.iterations,
            "faults": len(self.faults),
            "table": rows(self.faults),
            "runs": runs,
            "runs_beyond": strange,
            "compared": len(runs) * sum(len(each) for each in wanted.values()),
            "orphans": sum(len(training.orphans()) for training in [reference, *self.trainings]),
            "torn_read": self.chaos.torn_read,
            "left_out": self.left_out,
            "each": [fault.as_dict() for fault in self.faults],
        }

    def close(self) -> None:
        for training in self.trainings:
            if training.status is None and training.process:
                training.process.kill()
        self.chaos.settle()
        self.server.kill()
        unmounted(self.kept / "checkpoints")
        shutil.rmtree(self.home, ignore_errors=True)


def say(line: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')}  {line}\n")


def _end(*_: Any) -> None:
    raise KeyboardInterrupt


def tried(options: argparse.Namespace) -> dict[str, Any]:
    """The whole trial, and what came of it."""
    trial = Trial(options)
    try:
        trial.server.start()
        trial.server.wait()
        say("a run that is not disturbed")
        reference = trial.undisturbed()
        started = time.monotonic()
        until = started + 60.0 * options.minutes
        while time.monotonic() < until and len(trial.trainings) < options.runs:
            say(f"run {len(trial.trainings) + 1}")
            trial.disturbed(until)
        minutes = (time.monotonic() - started) / 60.0
        trial.chaos.settle()
        time.sleep(10.0)  # what ends by itself has done so by then
        logs = {number: [line for _, line in each.lines] for number, each in enumerate(trial.trainings, 1)}
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "lines.json").write_text(json.dumps(logs, indent=1), "utf-8")
        shutil.copy(trial.home / "server.db", options.out)
        summary = trial.summary(reference, minutes)
        (options.out / "chaos.json").write_text(json.dumps(summary, indent=1), "utf-8")
        (options.out / "chaos.md").write_text(markdown(summary), "utf-8")
        return summary
    finally:
        trial.close()


def whole(summary: dict[str, Any]) -> bool:
    """Whether every run came through."""
    runs = all(not run["wrong"] for run in summary["runs"])
    return runs and not summary["orphans"] and not summary["torn_read"] and not summary["runs_beyond"]


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m tests.chaos", description="Training under chaos.")
    options.add_argument("--minutes", type=float, default=30.0)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--iterations", type=int, default=60, help="of each run")
    options.add_argument("--runs", type=int, default=1000, help="at most")
    options.add_argument(
        "--gap", type=float, nargs=2, default=(5.0, 35.0), help="least and most seconds between faults"
    )
    options.add_argument("--out", type=Path, default=Path("chaos"))
    signal.signal(signal.SIGTERM, _end)
    summary = tried(options.parse_args())
    sys.stdout.write(markdown(summary))
    sys.exit(0 if whole(summary) else 1)


if __name__ == "__main__":
    main()
