"""Random numbers as a pure function of (seed, entity, step): the same session plays the same in any batch.

A counter-based generator: the key of a row is hashed, not advanced, so no call order and no batch size can change what a
session draws. The hash is the finaliser of SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number
generators"), whose output passes BigCrush on consecutive counters.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX2 = 0x94D049BB133111EB - (1 << 64)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift; torch's own is arithmetic."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64, wrapping."""
    x = (x ^ _shift(x, 30)) * _MIX1
    x = (x ^ _shift(x, 27)) * _MIX2
    return x ^ _shift(x, 31)


def derive(seed: int, *parts: int) -> int:
    """A seed for an entity: `derive(seed, runner, iteration)`. Distinct parts give unrelated seeds, in [0, 2**63)."""
    key = torch.tensor(seed, dtype=torch.int64)
    for part in parts:
        key = mix(mix(key + _GAMMA) ^ torch.tensor(part, dtype=torch.int64))
    return int(mix(key + _GAMMA)) & ((1 << 63) - 1)


def uniform(seed: int, sessions: Tensor, steps: Tensor, stream: int, count: int) -> Tensor:
    """`(B, count)` float32 in [0, 1), for sessions `(B,)` int64 at steps `(B,)` int64, in one of several streams."""
    key = mix(sessions + derive(seed, stream))
    key = mix(key ^ mix(steps + _GAMMA))
    lanes = torch.arange(1, count + 1, device=sessions.device) * _GAMMA
    bits = _shift(mix(key[:, None] + lanes), 40)
    return bits.to(torch.float32) * 2.0**-24


def normal(seed: int, sessions: Tensor, steps: Tensor, stream: int, count: int) -> Tensor:
    """`(B, count)` float32 standard normal (Box and Muller 1958)."""
    first, second = uniform(seed, sessions, steps, stream, 2 * count).split(count, dim=1)
    radius = torch.sqrt(-2.0 * torch.log1p(-first))
    return radius * torch.cos(2.0 * math.pi * second)
