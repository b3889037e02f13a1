"""What holds of every fusion rule, on ballots that are written down; and rules of other packages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from concertrl.platform import fusion_rules
from concertrl.platform.errors import InputError
from concertrl.platform.experiment import load_experiment
from concertrl.platform.fusion import Ballots, fuse, known_rules
from concertrl.platform.fusion_points import NORMALISE
from concertrl.platform.settings import METHODS as NAMED

METHODS = list(known_rules())


def test_log_isr_gives_nothing_to_what_one_agent_alone_names() -> None:
    items = torch.tensor([[[1, 2, 3], [4, 2, 5]]])
    fused = fuse(Ballots(items, torch.zeros(1, 2, 3)), torch.ones(1, 2), "log_isr", 5)
    assert fused.slate.tolist() == [[2, 1, 3, 4, 5]]
    torch.testing.assert_close(fused.points[0, 0], torch.tensor(2 / 4).mul(2.0).log() + torch.tensor(2.0).log() / 2)


@pytest.mark.parametrize("method", METHODS)
def test_places_that_nobody_fills_stay_empty(method: str) -> None:
    items = torch.tensor([[[4, 2, -1], [-1, -1, -1]], [[-1, -1, -1], [-1, -1, -1]]])
    fused = fuse(Ballots(items, torch.ones(2, 2, 3)), torch.ones(2, 2), method, 4)
    assert sorted(fused.slate[0].tolist()) == [-1, -1, 2, 4] and fused.slate[1].tolist() == [-1] * 4
    assert bool((fused.points[fused.slate < 0] == -torch.inf).all())


def test_the_settings_name_every_rule_of_the_package() -> None:
    assert set(NAMED) == set(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_ties_go_to_the_lower_item(method: str) -> None:
    """Three agents, three items, each once in each place."""
    items = torch.tensor([[[7, 3, 5], [3, 5, 7], [5, 7, 3]]])
    scores = torch.tensor([3.0, 2.0, 1.0]).expand(1, 3, 3)
    assert fuse(Ballots(items, scores), torch.full((1, 3), 1 / 3), method, 3).slate.tolist() == [[3, 5, 7]]


@pytest.mark.parametrize("method", METHODS)
def test_work_does_not_grow_with_the_catalog(method: str) -> None:
    """Item numbers so large that a table of the catalog would take gigabytes a user."""
    small = torch.tensor([[[1, 2, 3, 4], [2, 5, 1, 6]]]).expand(64, 2, 4)
    scores = torch.tensor([4.0, 3.0, 2.0, 1.0]).expand(64, 2, 4)
    weights = torch.tensor([1.0, 0.5]).expand(64, 2)
    large = 2**31 - 10
    found = fuse(Ballots(small + large, scores), weights, method, 4).slate
    assert torch.equal(found - large, fuse(Ballots(small, scores), weights, method, 4).slate)


def test_an_unknown_rule_is_named_with_the_nearest_known() -> None:
    one = Ballots(torch.zeros(1, 1, 1, dtype=torch.int64), torch.zeros(1, 1, 1))
    with pytest.raises(InputError, match=r'no fusion "bordas"; did you mean "borda"\?'):
        fuse(one, torch.ones(1, 1), "bordas", 1)


@pytest.mark.parametrize("scale", NORMALISE)
def test_a_scale_keeps_the_order_and_reads_filled_places_alone(scale: str) -> None:
    noise = torch.Generator().manual_seed(1)
    items = torch.rand(30, 3, 9, generator=noise).argsort(2)
    items = items.masked_fill(torch.arange(9) >= torch.randint(0, 10, (30, 3, 1), generator=noise), -1)
    given_ballots = Ballots(items, torch.randn(30, 3, 9, generator=noise).sort(2, descending=True).values)
    garbage = given_ballots.scores.masked_fill(given_ballots.items < 0, -1e30)
    found, other = (NORMALISE[scale](Ballots(given_ballots.items, each)) for each in (given_ballots.scores, garbage))
    there = given_ballots.present
    assert torch.equal(found[there], other[there])
    falling = (found[:, :, :-1] >= found[:, :, 1:] - 1e-6) | ~there[:, :, 1:]
    assert bool(falling.all())
    if scale in ("min_max", "rank", "sigmoid"):
        assert bool(((found[there] >= 0) & (found[there] <= 1)).all())


PLUGIN = """
from concertrl.platform.fusion_rules import points_rule
import torch

@points_rule("last_first")
def last_first(ballots):
    return torch.arange(ballots.items.shape[2], dtype=torch.float32).expand(ballots.items.shape)
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path in which another package can be installed; forgotten afterwards."""
    before = dict(fusion_rules.RULES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(fusion_rules, "_looked_up", [])
    yield tmp_path
    fusion_rules.RULES.clear()
    fusion_rules.RULES.update(before)


def install(folder: Path, name: str, points: str, code: str = "") -> None:
    (folder / f"{name}.py").write_text(code, "utf-8")
    facts = folder / f"{name}-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", "utf-8")
    (facts / "entry_points.txt").write_text(f"[concertrl.fusion]\n{points}\n", "utf-8")


def test_a_rule_of_another_package_is_known_by_its_entry_point(installed: Path) -> None:
    install(installed, "ranker_one", "last_first = ranker_one:last_first", PLUGIN)
    assert load_experiment("builtin", ["fusion.method=last_first"]).fusion.method == "last_first"
    ballots = Ballots(torch.tensor([[[1, 2, 3]]]), torch.tensor([[[3.0, 2.0, 1.0]]]))
    assert fuse(ballots, torch.ones(1, 1), "last_first", 3).slate.tolist() == [[3, 2, 1]]


@pytest.mark.parametrize(
    ("name", "points", "code", "reason"),
    [
        ("ranker_two", "other = ranker_two:missing", "", 'fusion "other" of ranker_two:missing cannot be loaded'),
        ("ranker_three", "other = ranker_three:last_first", PLUGIN, 'registers no fusion "other"'),
        (
            "ranker_four",
            "borda = ranker_four:borda",
            PLUGIN.replace("last_first", "borda"),
            'fusion "borda" is registered twice',
        ),
    ],
)
def test_a_rule_that_cannot_be_had_is_told_in_a_line(
    installed: Path, name: str, points: str, code: str, reason: str
) -> None:
    install(installed, name, points, code)
    with pytest.raises(InputError, match=reason):
        known_rules()
