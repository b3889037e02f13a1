"""The team's folder: plain files, nothing in them executable.

    Team  <->  team.json, towers/, policies.safetensors, users.safetensors

Users are there under a keyed hash of their id. `team.json` holds the hashes of the other files and its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from ..platform.errors import InputError
from ..platform.settings import EncoderSettings, FusionSettings
from .ensemble import Ensemble
from .policy import Policy, PolicySpec
from .team import Catalog, Team
from .tower import History
from .towers import load_towers, save_towers

FORMAT = 2
"""2: actions have a gain on themes."""
INDEX = "team.json"
FILES = ("policies.safetensors", "users.safetensors", "towers/towers.json")


def save_team(team: Team, folder: Path) -> None:
    """Writes the team's files into `folder`; `team.json` comes last, so that a torn folder is known as one."""
    folder.mkdir(parents=True, exist_ok=True)
    save_towers(team.ensemble.towers, folder / "towers")
    policies = {
        f"{agent}/{key}": value for agent, policy in team.policies.items() for key, value in policy.state_dict().items()
    }
    users = {
        "hashes": team.catalog.user_hashes,
        **{f"history.{k}": v for k, v in vars(team.catalog.histories).items()},
    }
    for name, tensors in (("policies", policies), ("users", users)):
        path = folder / f"{name}.safetensors"
        save_file({key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}, path)
    words: dict[str, object] = {
        "format": FORMAT,
        "name": team.name,
        "fusion": team.ensemble.fusion.model_dump(mode="json"),
        "weights": team.ensemble.weights.tolist(),
        "slate": team.slate,
        "horizon": team.horizon,
        "encoder": team.encoder.model_dump(mode="json", exclude={"cache"}),
        "policies": {agent: vars(policy.spec) for agent, policy in team.policies.items()},
        "item_ids": team.catalog.item_ids,
        "item_titles": team.catalog.item_titles,
        "salt": team.catalog.salt,
        "sha256": {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES},
    }
    words["check"] = hashlib.sha256(_plain(words)).hexdigest()
    draft = folder / f"{INDEX}.part"
    draft.write_text(json.dumps(words), "utf-8")
    draft.replace(folder / INDEX)


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
        encoder = EncoderSettings.model_validate(words.get("encoder", {}))
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
    names: dict[str, Any] = {name: words[name] for name in ("slate", "horizon", "name")}
    return Team(ensemble, policies, catalog, encoder=encoder, **names)


def _verified(path: Path, content: bytes, digest: str) -> bytes:
    if hashlib.sha256(content).hexdigest() != digest:
        raise InputError(f"{path}: damaged, not the bytes that were saved; save the team again")
    return content


def _plain(words: Mapping[str, object]) -> bytes:
    """The index as bytes to hash, whatever the order of its words."""
    return json.dumps(words, sort_keys=True).encode()


def _spec(shape: dict[str, Any]) -> PolicySpec:
    plain: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in shape.items()}
    return PolicySpec(**plain)


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
