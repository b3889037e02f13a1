"""What a fusion rule is, and where rules are registered.

    points     ballots -> points of every place (B, A, n), added up over the agents    most rules
    table      candidates of a user, side by side -> points (B, C)                     pairwise votes
    election   one election a place of the slate                                      plurality, instant run-off

A rule is one function under one of the three decorators here, in this package or in another one that names it as an
entry point of the group `concertrl.fusion`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from .errors import InputError, suggestion

GROUP = "concertrl.fusion"
"""Entry points of other packages: `name = "module:function"`, the function under one of the decorators."""


@dataclass(frozen=True)
class Ballots:
    """What A agents propose to B users.

    Attributes:
        items: `(B, A, n)` int64, best first, no item twice on a ballot; -1 where a ballot is shorter, and all through
            where an agent is silent.
        scores: `(B, A, n)` float32, not ascending along n; ignored where `items` is -1.
    """

    items: Tensor
    scores: Tensor

    @property
    def present(self) -> Tensor:
        """`(B, A, n)` bool, the places that are filled."""
        return self.items >= 0


class Fused(NamedTuple):
    """The slate.

    Attributes:
        slate: `(B, K)` int64, best first, ties to the lower item index; -1 where the ballots name fewer items.
        points: `(B, K)` float32, the fused score of each item; -inf where there is none.
    """

    slate: Tensor
    points: Tensor


class Table(NamedTuple):
    """The C candidates of each user side by side.

    Attributes:
        items: `(B, C)` int64 ascending, -1 in the places left over, which come first.
        ranks: `(B, A, C)` float32, from 1; infinite where an agent does not name the item.
        weights: `(B, A)` float32 >= 0.
    """

    items: Tensor
    ranks: Tensor
    weights: Tensor


Finish = Callable[[Tensor, Tensor], Tensor]
"""The points of an item from their sum over the agents and from how many agents name it."""


@dataclass(frozen=True)
class Rule:
    """A registered rule.

    Attributes:
        kind: which of the three it is.
        function: `points(ballots)`, `table(table)` or `election(ballots, weights, slate)`.
        scored: it reads the scores, not the ranks alone, so that `normalise` matters.
        weighted: points are multiplied by the agents' weights; otherwise a weight only says whether there is a vote.
        finish: of the points of an item, for kind `points`.
    """

    kind: Literal["points", "table", "election"]
    function: Callable[..., Any]
    scored: bool = False
    weighted: bool = True
    finish: Finish | None = None


RULES: dict[str, Rule] = {}
"""The rules by name."""

_looked_up: list[bool] = []


def register(name: str, rule: Rule) -> None:
    """Adds a rule.

    Raises:
        InputError: there is one of that name already.
    """
    if name in RULES and RULES[name].function is not rule.function:
        raise InputError(f'fusion "{name}" is registered twice, by {_origin(RULES[name])} and {_origin(rule)}')
    RULES[name] = rule


def _origin(rule: Rule) -> str:
    return f"{rule.function.__module__}.{rule.function.__qualname__}"


def points_rule(
    name: str, *, scored: bool = False, weighted: bool = True, finish: Finish | None = None
) -> Callable[[Callable[[Ballots], Tensor]], Callable[[Ballots], Tensor]]:
    """Registers a function from ballots to points `(B, A, n)`."""

    def add(function: Callable[[Ballots], Tensor]) -> Callable[[Ballots], Tensor]:
        register(name, Rule("points", function, scored, weighted, finish))
        return function

    return add


def table_rule(name: str) -> Callable[[Callable[[Table], Tensor]], Callable[[Table], Tensor]]:
    """Registers a function from a table of candidates to points `(B, C)`."""

    def add(function: Callable[[Table], Tensor]) -> Callable[[Table], Tensor]:
        register(name, Rule("table", function))
        return function

    return add


Election = Callable[[Ballots, Tensor, int], Fused]


def election_rule(name: str) -> Callable[[Election], Election]:
    """Registers a function from ballots, weights `(B, A)` and K to a slate."""

    def add(function: Election) -> Election:
        register(name, Rule("election", function))
        return function

    return add


def known_rules() -> tuple[str, ...]:
    """The names of all rules, those of other packages included.

    Raises:
        InputError: another package's rule cannot be loaded, or has the name of one that is there.
    """
    _load_entry_points()
    return tuple(RULES)


def additive_rules() -> tuple[str, ...]:
    """The names of the rules whose points are a weighted sum over the agents, and nothing more."""
    rules = ((name, RULES[name]) for name in known_rules())
    return tuple(name for name, rule in rules if rule.kind == "points" and rule.weighted and rule.finish is None)


def rule_of(name: str) -> Rule:
    """A rule by its name.

    Raises:
        InputError: there is none, or one of another package cannot be loaded.
    """
    if name not in RULES:
        _load_entry_points()
    if name not in RULES:
        raise InputError(f'no fusion "{name}"{suggestion(name, RULES)} (known: {", ".join(RULES)})')
    return RULES[name]


def _load_entry_points() -> None:
    if _looked_up:
        return
    for point in entry_points(group=GROUP):
        before = set(RULES)
        try:
            point.load()  # the decorator registers it
        except InputError:
            raise
        except Exception as error:
            raise InputError(f'fusion "{point.name}" of {point.value} cannot be loaded: {error}') from None
        if point.name not in set(RULES) - before and point.name not in RULES:
            raise InputError(
                f'{point.value} registers no fusion "{point.name}"; put a decorator of fusion_rules on it, by that name'
            )
    _looked_up.append(True)


def places(ballots: Ballots) -> Tensor:
    """`(n,)` float32: the ranks 1 to n."""
    length = ballots.items.shape[2]
    return torch.arange(1, length + 1, device=ballots.items.device, dtype=torch.float32)
