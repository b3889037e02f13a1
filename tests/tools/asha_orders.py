"""Replays ASHA and random search over the looks of a sweep in which every trial went to its end, in many orders.

    python tests/tools/asha_orders.py runs/sweeps/builtin-random

A trial's looks do not depend on the scheduler, but what ASHA stops depends on who comes by first.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
from concertrl.platform.sweep_ledger import Ledger

ORDERS, AT_ONCE, GRACE, REDUCTION = 2000, 2, 1, 3

Replay = tuple[int, int | None, float]
"""Looks in all, looks until the best score there is was seen, the best score that was seen."""


def replay(scores: list[list[float]], order: list[int], *, halving: bool) -> Replay:
    """One sweep with the trials in this order, `AT_ONCE` at a time; `halving`: stopped as Tune's ASHA stops."""
    best, longest = max(map(max, scores)), len(scores[0])
    rungs: dict[int, list[float]] = {}
    rung = GRACE
    while rung < longest:
        rungs[rung], rung = [], rung * REDUCTION
    waiting, going, looks, top, reached = list(order), dict[int, int](), 0, -np.inf, None
    while waiting or going:
        while waiting and len(going) < AT_ONCE:
            going[waiting.pop(0)] = 0
        for trial in list(going):
            going[trial] += 1
            looks, look = looks + 1, going[trial]
            score = scores[trial][look - 1]
            top = max(top, score)
            reached = looks if reached is None and score >= best else reached
            poor = False
            if halving and look in rungs:
                poor = bool(rungs[look]) and score < np.percentile(rungs[look], 100 * (1 - 1 / REDUCTION))
                rungs[look].append(score)
            if poor or look == longest:
                del going[trial]
    return looks, reached, float(top)


def main() -> None:
    ledger = Ledger(Path(sys.argv[1]))
    metric = ledger.sweep.first.metric
    scores = [[look.scores[metric] for look in ledger.looks(number)] for number in sorted(ledger.candidates())]
    chance, found = random.Random(0), {"asha": list[Replay](), "random": list[Replay]()}
    for _ in range(ORDERS):
        order = [0, *chance.sample(range(1, len(scores)), len(scores) - 1)]
        for name, replays in found.items():
            replays.append(replay(scores, order, halving=name == "asha"))
    for name, replays in found.items():
        looks = np.array([each[0] for each in replays])
        reached = np.array([each[1] for each in replays if each[1] is not None])
        low, high = np.percentile(looks, [5, 95])
        worst, share = min(each[2] for each in replays), len(reached) / ORDERS
        print(
            f"{name}: {looks.mean():.1f} looks [{low:.0f}, {high:.0f}]; the best score in {share:.0%} of the orders, "
            f"after {reached.mean():.1f} and at most {reached.max()}; at worst {worst:.2f}"
        )


if __name__ == "__main__":
    main()
