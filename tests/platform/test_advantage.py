from __future__ import annotations

import pytest
import torch
from concertrl.platform.advantage import generalised_advantages
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor


def batch(seed: int, rows: int, steps: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rewards, values, values after, ends; a value after is its successor's except at an end and at the edge."""
    draws = torch.Generator().manual_seed(seed)
    rewards, values, after = (torch.randn(rows, steps, generator=draws, dtype=torch.float64) for _ in range(3))
    ends = torch.rand(rows, steps, generator=draws) < 0.25
    carried = torch.cat([~ends[:, :-1], torch.zeros(rows, 1, dtype=torch.bool)], dim=1)
    return rewards, values, torch.where(carried, values.roll(-1, dims=1), after), ends


@given(
    seed=st.integers(0, 999),
    rows=st.integers(1, 4),
    steps=st.integers(1, 12),
    gamma=st.floats(0, 1),
    lambda_=st.floats(0, 1),
)
def test_advantages_are_the_sum_of_discounted_errors(
    seed: int, rows: int, steps: int, gamma: float, lambda_: float
) -> None:
    """Equation 16 of Schulman et al. 2016, written out: A_t = sum of (gamma lambda)^l delta_(t+l), to the end."""
    rewards, values, after, ends = batch(seed, rows, steps)
    advantages, targets = generalised_advantages(rewards, values, after, ends, gamma, lambda_)
    for row in range(rows):
        for start in range(steps):
            total, factor = 0.0, 1.0
            for step in range(start, steps):
                total += factor * float(rewards[row, step] + gamma * after[row, step] - values[row, step])
                factor *= gamma * lambda_
                if ends[row, step]:
                    break
            assert float(advantages[row, start]) == pytest.approx(total, abs=1e-9)
    assert torch.equal(targets, advantages + values)


@given(seed=st.integers(0, 999), gamma=st.floats(0, 1))
def test_lambda_of_one_gives_the_monte_carlo_return(seed: int, gamma: float) -> None:
    """The discounted rewards to the end of the session, and the value of the last state where it was cut off."""
    rewards, values, after, ends = batch(seed, 3, 10)
    _, targets = generalised_advantages(rewards, values, after, ends, gamma, 1.0)
    for row in range(3):
        following = float(after[row, -1])
        for step in range(9, -1, -1):
            following = float(after[row, step]) if ends[row, step] else following
            following = float(rewards[row, step]) + gamma * following
            assert float(targets[row, step]) == pytest.approx(following, abs=1e-9)


def test_lambda_of_zero_gives_the_one_step_error() -> None:
    rewards, values, after, ends = batch(0, 3, 10)
    advantages, _ = generalised_advantages(rewards, values, after, ends, 0.9, 0.0)
    torch.testing.assert_close(advantages, rewards + 0.9 * after - values)


def test_a_cut_off_session_is_worth_what_was_to_come_and_a_finished_one_is_not() -> None:
    """Two rows alike but for the value after their end in step 2 of 3; the third step belongs to the next session."""
    rewards, values = torch.ones(2, 3), torch.zeros(2, 3)
    ends = torch.tensor([[False, True, False]]).expand(2, 3)
    after = torch.tensor([[0.0, 0.0, 5.0], [0.0, 10.0, 5.0]])
    advantages, _ = generalised_advantages(rewards, values, after, ends, 0.5, 1.0)
    assert advantages.tolist() == [[1.5, 1.0, 3.5], [4.0, 6.0, 3.5]]
