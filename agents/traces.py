"""What a session has shown so far, as the agents remember it: running sums and means that fade."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

TRACE_FADE = 0.8
"""Share of a trace that is left after a step."""

CLICK_FADE = 0.95
"""The same of what was clicked: what a user is after today lasts longer than being tired of what was shown."""


@dataclass(frozen=True)
class Traces:
    """What B sessions have shown so far, fading by `TRACE_FADE` a step, the clicks by `CLICK_FADE`.

    Attributes:
        clicked, shown: `(B, D)`, sums of the items' vectors.
        worn: `(B, T)`, fading share of each theme in what was shown; sums to 1 in a long session.
        rates: `(B, 2)`, click rate of the last slate, and the fading one.
        support, hits: `(B, A)`, how high each agent's query put the last slate, and how much higher what was clicked.
        trust: `(B, A)`, the fading mean of the hits.
        agreement: `(B, A)`, correlation of the agent's scores with the other agents', over the catalog; fading mean.
        steadiness: `(B, A)`, the same of its scores with those of its slate before.
        asked: `(B, D)`, the last queries.
    """

    clicked: Tensor
    shown: Tensor
    worn: Tensor
    rates: Tensor
    support: Tensor
    hits: Tensor
    trust: Tensor
    agreement: Tensor
    steadiness: Tensor
    asked: Tensor

    def reset(self, rows: Tensor) -> Traces:
        """The traces with the rows where `rows` `(B,)` holds set back to the start of a session."""
        keep = (~rows)[:, None]
        return Traces(**{name: trace * keep for name, trace in vars(self).items()})


def faded(traces: Traces, before: Tensor, now: Tensor) -> Tensor:
    """The fading mean, which begins with the first value."""
    first = (traces.asked == 0).all(1, keepdim=True)
    return torch.where(first, now, TRACE_FADE * before + (1 - TRACE_FADE) * now)
