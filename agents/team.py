"""The trained team: towers, policies and fusion in one folder of plain files, asked for slates without Ray.

    user ids or histories, and what this session has shown
        ->  read, observe, act, ask, propose, weigh, fuse  ->  slates

The folder holds `team.json`, `towers/`, `policies.safetensors` and `users.safetensors`. Users are there under a keyed
hash of their id; nothing in the folder is executable.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from ..platform.errors import InputError
from ..platform.settings import FusionSettings
from .ensemble import Ensemble, Reading, Traces
from .policy import Policy, PolicySpec
from .tower import PAD, History
from .towers import load_towers, save_towers

FORMAT = 1
INDEX = "team.json"
FILES = ("policies.safetensors", "users.safetensors", "towers/towers.json")
MASK = -1e4
"""Added to the score of an item that is not to be recommended: it comes back only when nothing else is left."""

LIKED = 0.6
"""Weight of an item in a history given as ids alone; as of a click without a rating."""

SessionSoFar = Sequence[tuple[Sequence[str], Sequence[str]]]
"""The slates of a session with what was clicked of each, oldest first: `[(shown ids, clicked ids), ...]`."""


@dataclass(frozen=True)
class Catalog:
    """What a team can recommend, and to whom it can do so by id."""

    item_ids: tuple[str, ...]
    item_titles: tuple[str, ...]
    user_hashes: Tensor
    histories: History
    salt: str


class Team:
    """A trained team.

    Args:
        ensemble: towers, fusion rule and static weights.
        policies: of the agents that learned; without one an agent plays its tower.
        catalog: items, and known users' histories.
        slate: places of the slates it was trained on.
        horizon: steps of the sessions it was trained on.
        name: of the experiment.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        policies: Mapping[str, Policy],
        catalog: Catalog,
        *,
        slate: int,
        horizon: int,
        name: str,
    ) -> None:
        self.ensemble, self.policies, self.catalog = ensemble, dict(policies), catalog
        self.slate, self.horizon, self.name = slate, horizon, name
        self._items = {item: place for place, item in enumerate(catalog.item_ids)}
        self._users = {key: place for place, key in enumerate(catalog.user_hashes.tolist())}

    @torch.no_grad()
    def act(self, observations: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The agents' actions without exploration, `{agent: (B, d_action)}`."""
        return {agent: policy.mean(observations[agent]) for agent, policy in self.policies.items()}

    @torch.no_grad()
    def recommend(
        self,
        users: Sequence[str] | Sequence[Sequence[str]],
        k: int | None = None,
        *,
        sessions: Sequence[SessionSoFar] | None = None,
        exclude_history: bool = True,
    ) -> list[list[str]]:
        """A slate for each user, best first.

        Args:
            users: user ids, or histories as lists of item ids, oldest first. A user who is not known, and items that
                are not in the catalog, count as no history.
            k: items on a slate; as in training by default.
            sessions: what each user has been shown and clicked so far in this session; such items are not shown again.
            exclude_history: leave out what is in the user's history.

        Raises:
            InputError: k is not between 1 and the number of items, or `sessions` is not one for each user.
        """
        places = self.slate if k is None else k
        if not 1 <= places <= len(self._items):
            raise InputError(f"k={places}: a slate has 1 to {len(self._items)} items here")
        if isinstance(users, str):
            raise InputError(f'users="{users}": give a list of user ids or of histories, such as ["{users}"]')
        if sessions is not None and len(sessions) != len(users):
            raise InputError(
                f"sessions: {len(sessions)} given for {len(users)} users; give one each, [] for a new session"
            )
        if not users:
            return []
        history = self._histories(users)
        reading = self.ensemble.read(history)
        penalty = torch.zeros(len(users), len(self._items))
        if exclude_history:
            mask_items(penalty, history.items)
        traces, progress = self._replay(reading, sessions, penalty)
        actions = self.act(self.ensemble.observe(reading, traces, progress))
        ballots = self.ensemble.propose(self.ensemble.ask(reading, traces, actions), penalty, at_least=places)
        slates = self.ensemble.fuse(ballots, self.ensemble.weigh(actions, len(users)), places)
        return [[self.catalog.item_ids[item] for item in slate] for slate in slates.tolist()]

    def _histories(self, users: Sequence[str] | Sequence[Sequence[str]]) -> History:
        """The histories of known users, or those given; a row of `PAD` for a stranger."""
        if all(isinstance(user, str) for user in users):
            rows = torch.tensor([self._users.get(hash_user(str(user), self.catalog.salt), -1) for user in users])
            known = self.catalog.histories.rows(rows.clamp_min(0))
            stranger = (rows < 0)[:, None]
            return History(
                known.items.masked_fill(stranger, PAD),
                known.ratings.masked_fill(stranger, 0.0),
                known.weights.masked_fill(stranger, 0.0),
            )
        found = [[self._items[item] for item in user if item in self._items] for user in users]
        items = torch.full((len(found), max(1, *map(len, found))), PAD)
        for row, seen in enumerate(found):
            items[row, : len(seen)] = torch.tensor(seen, dtype=torch.int64)
        return History(items, torch.zeros(items.shape), LIKED * (items != PAD))

    def _replay(
        self, reading: Reading, sessions: Sequence[SessionSoFar] | None, penalty: Tensor
    ) -> tuple[Traces, Tensor]:
        """Traces and progress of the sessions so far; marks what they have shown in `penalty`."""
        batch = len(penalty)
        traces, progress = self.ensemble.blank(batch), torch.zeros(batch)
        for row, steps in enumerate(sessions or ()):
            one, mine, slates = reading.rows(torch.tensor([row])), self.ensemble.blank(1), 0
            for shown, clicked in steps:
                slate = torch.tensor([[self._items[item] for item in shown if item in self._items]], dtype=torch.int64)
                if slate.numel() == 0:
                    continue
                chosen = {self._items.get(item, -1) for item in clicked}
                click = torch.tensor([[float(item in chosen) for item in slate[0].tolist()]])
                queries = self.ensemble.ask(
                    one, mine, self.act(self.ensemble.observe(one, mine, progress[row : row + 1]))
                )
                mine = self.ensemble.remember(mine, queries, slate, click)
                penalty[row, slate[0]] = MASK
                slates += 1
                progress[row] = min(1.0, slates / self.horizon)
            for name, trace in vars(traces).items():
                trace[row] = getattr(mine, name)[0]
        return traces, progress

    # --- files

    def save(self, folder: Path) -> None:
        """Writes the team's files into `folder`; `team.json` comes last, so that a torn folder is known as one."""
        folder.mkdir(parents=True, exist_ok=True)
        save_towers(self.ensemble.towers, folder / "towers")
        policies = {
            f"{agent}/{key}": value
            for agent, policy in self.policies.items()
            for key, value in policy.state_dict().items()
        }
        users = {
            "hashes": self.catalog.user_hashes,
            **{f"history.{k}": v for k, v in vars(self.catalog.histories).items()},
        }
        for name, tensors in (("policies", policies), ("users", users)):
            path = folder / f"{name}.safetensors"
            save_file({key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}, path)
        words: dict[str, object] = {
            "format": FORMAT,
            "name": self.name,
            "fusion": self.ensemble.fusion.model_dump(mode="json"),
            "weights": self.ensemble.weights.tolist(),
            "slate": self.slate,
            "horizon": self.horizon,
            "policies": {agent: vars(policy.spec) for agent, policy in self.policies.items()},
            "item_ids": self.catalog.item_ids,
            "item_titles": self.catalog.item_titles,
            "salt": self.catalog.salt,
            "sha256": {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES},
        }
        words["check"] = hashlib.sha256(_plain(words)).hexdigest()
        draft = folder / f"{INDEX}.part"
        draft.write_text(json.dumps(words), "utf-8")
        draft.replace(folder / INDEX)


def mask_items(penalty: Tensor, items: Tensor) -> None:
    """Adds `MASK` in place to `penalty` `(B, N)` at `items` `(B, L)`, those that are not `PAD`."""
    missing = items == PAD
    amounts = torch.full(items.shape, MASK, device=items.device).masked_fill(missing, 0.0)
    penalty.scatter_reduce_(1, items.clamp_min(0), amounts, reduce="amin")


def hash_user(user: str, salt: str) -> int:
    """A user's id under a keyed hash, 63 bits (BLAKE2b, RFC 7693)."""
    digest = hashlib.blake2b(user.encode(), digest_size=8, key=salt.encode()[:64]).digest()
    return int.from_bytes(digest, "big") >> 1


def read_team(folder: str | Path) -> Team:
    """Loads a team's folder.

    Raises:
        InputError: a file is missing, damaged, or not a team's.
    """
    folder = Path(folder)
    try:
        words = json.loads((folder / INDEX).read_text("utf-8"))
        if words["format"] != FORMAT:
            raise InputError(f"{folder / INDEX}: format {words['format']} is not {FORMAT}; save it with this version")
        check = words.pop("check")
        _verified(folder / INDEX, _plain(words), check)
        paths = {name: folder / name for name in words["sha256"]}
        files = {name: _verified(path, path.read_bytes(), words["sha256"][name]) for name, path in paths.items()}
        users = load(files["users.safetensors"])
        histories = History(**{name: users[f"history.{name}"] for name in ("items", "ratings", "weights")})
        catalog = Catalog(
            tuple(words["item_ids"]), tuple(words["item_titles"]), users["hashes"], histories, words["salt"]
        )
        fusion = FusionSettings.model_validate(words["fusion"])
        ensemble = Ensemble(load_towers(folder / "towers"), fusion, torch.tensor(words["weights"]))
        specs = {agent: _spec(shape) for agent, shape in words["policies"].items()}
        weights = load(files["policies.safetensors"])
        policies = {agent: _policy(spec, agent, weights) for agent, spec in specs.items()}
    except FileNotFoundError as error:
        raise InputError(f"{error.filename}: no such file; a team's folder is what a run saves as its model") from None
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"{folder}: not a team that can serve ({reason}); save the team again") from None
    return Team(ensemble, policies, catalog, slate=words["slate"], horizon=words["horizon"], name=words["name"])


def _verified(path: Path, content: bytes, digest: str) -> bytes:
    if hashlib.sha256(content).hexdigest() != digest:
        raise InputError(f"{path}: damaged, not the bytes that were saved; save the team again")
    return content


def _plain(words: Mapping[str, object]) -> bytes:
    """The index as bytes to hash, whatever the order of its words."""
    return json.dumps(words, sort_keys=True).encode()


def _spec(shape: dict[str, Any]) -> PolicySpec:
    return PolicySpec(shape["observation_dim"], tuple(shape["initial_std"]), tuple(shape["hidden"]))


def _policy(spec: PolicySpec, agent: str, tensors: Mapping[str, Tensor]) -> Policy:
    policy = Policy(spec)
    mine = {key.removeprefix(f"{agent}/"): value for key, value in tensors.items() if key.startswith(f"{agent}/")}
    policy.load_state_dict(mine)
    return policy.eval()


def load_team(uri_or_path: str | Path, tracking_uri: str | None = None) -> Team:
    """Loads a team from a folder, or from MLflow: `models:/NAME@ALIAS`, `models:/NAME/VERSION`, `runs:/RUN/team`.

    Args:
        uri_or_path: a folder that holds `team.json` or an MLflow model of a team, or an MLflow model's URI.
        tracking_uri: MLflow's; default `MLFLOW_TRACKING_URI`, or the database that runs write to by default.

    Raises:
        InputError: there is no such team.
    """
    text = str(uri_or_path)
    if text.startswith(("models:", "runs:", "mlflow-artifacts:", "http:", "https:")):
        from ..platform.pyfunc import download_model

        folder = download_model(text, tracking_uri)
    else:
        folder = Path(text)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give a team's folder, or models:/NAME@ALIAS")
    found = sorted(folder.glob(f"**/{INDEX}"))
    if not found:
        raise InputError(f"{folder}: holds no {INDEX}; a team's folder is what a run saves as its model")
    return read_team(found[0].parent)
