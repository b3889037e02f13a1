"""Speaking to a Ray cluster's dashboard over HTTP: is it there, does it take our token, what nodes does it have.

Ray asks for a token where its cluster was started with one, which is its default. It is looked for where Ray looks,
sent only to a cluster that asks for it, and never told.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..platform.destination import redact
from ..platform.errors import ConcertError, InputError

TIMEOUT_S = 15.0
"""A dashboard under load takes seconds; one that takes longer is of no use."""

RAY = "2.60"
"""The Ray of the clusters that we submit to: what the driver is tested with."""


def checked_address(address: str) -> str:
    """The address without a closing slash.

    Raises:
        InputError: it is not `http://HOST:PORT`, or holds a password.
    """
    parts = urlsplit(address)
    if parts.username or parts.password:
        raise InputError(
            "--address: leave user and password out; Ray's token comes from RAY_AUTH_TOKEN or ~/.ray/auth_token"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"--address {redact(address)}: write http://HOST:PORT, such as http://127.0.0.1:8265")
    return address.rstrip("/")


def find_token() -> str:
    """Ray's token, from where Ray takes it: RAY_AUTH_TOKEN, the file RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token; or ''."""
    if told := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return told
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    try:
        return file.expanduser().read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


class NotThereError(ConcertError):
    """The dashboard answers, and has no such page."""


@dataclass(frozen=True)
class Node:
    """A node of a cluster: its resources in all, by Ray's names; memory in bytes."""

    node_id: str
    host: str
    ip: str
    head: bool
    total: dict[str, float]


@dataclass
class Dashboard:
    """A dashboard that answers.

    Raises:
        InputError: the address cannot be one.
        ConcertError: nothing answers there, it is not Ray's or not of our version, or the token is missing or wrong.
    """

    address: str
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    ray_version: str = ""

    def __post_init__(self) -> None:
        self.address = checked_address(self.address)
        try:
            version = self._get("/api/version")
        except urllib.error.HTTPError as error:
            if error.code != 401:
                raise self._told(error) from None
            version = self._with_token()
        self.ray_version = str(version.get("ray_version", "")) if isinstance(version, dict) else ""
        if not self.ray_version:
            raise ConcertError(f"{self.address}: no Ray dashboard answers there; `ray start --head` names its address")
        if self.ray_version.split(".")[:2] != RAY.split("."):
            raise ConcertError(f"{self.address}: runs Ray {self.ray_version}; concertrl needs Ray {RAY}.x there")

    def get(self, path: str, method: str = "GET") -> Any:
        """The answer of one of its pages, as JSON.

        Raises:
            NotThereError: there is no such page.
            ConcertError: it does not answer, or not with what was asked for.
        """
        try:
            return self._get(path, method)
        except urllib.error.HTTPError as error:
            raise self._told(error) from None

    @cached_property
    def nodes(self) -> list[Node]:
        """The nodes that are alive, the head first."""
        found = []
        for seen in self.get("/nodes?view=summary")["data"]["summary"]:
            raylet = seen["raylet"]
            if raylet.get("state", "ALIVE") == "ALIVE":
                total = {_name(key): float(value) for key, value in raylet["resourcesTotal"].items()}
                head = bool(raylet.get("isHeadNode"))
                found.append(Node(raylet["nodeId"], seen["hostname"], seen["ip"], head, total))
        return sorted(found, key=lambda node: (not node.head, node.node_id))

    def _with_token(self) -> Any:
        if not (token := find_token()):
            raise ConcertError(
                f"{self.address}: asks for a token; set RAY_AUTH_TOKEN, or copy the head node's ~/.ray/auth_token here"
            )
        self.headers = {"Authorization": f"Bearer {token}"}
        return self.get("/api/version")

    def _told(self, error: urllib.error.HTTPError) -> ConcertError:
        if error.code in (401, 403):
            return ConcertError(
                f"{self.address}: does not take our token; RAY_AUTH_TOKEN or ~/.ray/auth_token must be the head node's"
            )
        kind = NotThereError if error.code == 404 else ConcertError
        return kind(f"{self.address}: answers {error.code} {error.reason}; is it a Ray dashboard?")

    def _get(self, path: str, method: str = "GET") -> Any:
        request = urllib.request.Request(self.address + path, headers=self.headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError:
            raise
        except ValueError:
            raise ConcertError(
                f"{self.address}: no Ray dashboard answers there; `ray start --head` names its address"
            ) from None
        except OSError as error:
            reason = getattr(error, "reason", error)
            raise ConcertError(f"no Ray cluster at {self.address}: {reason}; `ray start --head` starts one") from None


def _name(key: str) -> str:
    return {"objectStoreMemory": "object_store_memory"}.get(key, key)
