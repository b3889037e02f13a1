"""Random numbers as a pure function of (seed, entity, step): the same session plays the same in any batch.

A counter-based generator: the key of a row is hashed, not advanced, so no call order and no batch size can change what
a session draws. The hash is the finaliser of SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number
generators"), whose output passes BigCrush on consecutive counters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

_WORD = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX2 = 0x94D049BB133111EB - (1 << 64)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift; torch's own is arithmetic."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64, wrapping."""
    x = _shift(x, 30).bitwise_xor_(x).mul_(_MIX1)
    x = _shift(x, 27).bitwise_xor_(x).mul_(_MIX2)
    return _shift(x, 31).bitwise_xor_(x)


def _mix_word(x: int) -> int:
    """The same on one number in [0, 2**64)."""
    x = ((x ^ (x >> 30)) * _MIX1) & _WORD
    x = ((x ^ (x >> 27)) * _MIX2) & _WORD
    return x ^ (x >> 31)


def derive(seed: int, *parts: int) -> int:
    """A seed for an entity: `derive(seed, runner, iteration)`. Distinct parts give unrelated seeds, in [0, 2**63)."""
    key = seed & _WORD
    for part in parts:
        key = _mix_word(_mix_word((key + _GAMMA) & _WORD) ^ (part & _WORD))
    return _mix_word((key + _GAMMA) & _WORD) & ((1 << 63) - 1)


def uniforms(seed: int, sessions: Tensor, steps: Tensor, counts: Mapping[int, int]) -> dict[int, Tensor]:
    """Numbers in [0, 1) of several streams at once, `{stream: (B, counts[stream])}` float32.

    Args:
        seed: of the run or the environment.
        sessions, steps: `(B,)` int64; a row's numbers depend on the seed, its session and its step alone.
        counts: how many of each stream; a stream's first numbers are the same whatever the count.
    """
    device, sizes = sessions.device, list(counts.values())
    seeds = torch.tensor([derive(seed, stream) for stream in counts], device=device)
    key = mix(mix(sessions[:, None] + seeds).bitwise_xor_(mix(steps + _GAMMA)[:, None]))
    lanes = torch.cat([torch.arange(1, count + 1, device=device) for count in sizes]).mul_(_GAMMA)
    owner = torch.cat([torch.full((count,), place, device=device) for place, count in enumerate(sizes)])
    drawn = _shift(mix(key[:, owner].add_(lanes)), 40).to(torch.float32).mul_(2.0**-24)
    return dict(zip(counts, drawn.split(sizes, dim=1), strict=True))


def uniform(seed: int, sessions: Tensor, steps: Tensor, stream: int, count: int) -> Tensor:
    """`(B, count)` float32 in [0, 1), for sessions `(B,)` int64 at steps `(B,)` int64, in one of several streams."""
    return uniforms(seed, sessions, steps, {stream: count})[stream]


def normal(seed: int, sessions: Tensor, steps: Tensor, stream: int, count: int) -> Tensor:
    """`(B, count)` float32 standard normal (Box and Muller 1958)."""
    return gaussian(uniform(seed, sessions, steps, stream, 2 * count))


def gaussian(pairs: Tensor) -> Tensor:
    """`(B, 2 n)` uniform numbers in [0, 1) -> `(B, n)` standard normal ones (Box and Muller 1958)."""
    first, second = pairs.chunk(2, dim=1)
    radius = torch.sqrt(-2.0 * torch.log1p(-first))
    return radius * torch.cos(2.0 * math.pi * second)
