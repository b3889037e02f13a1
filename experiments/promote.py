"""`concertrl promote`: reads two versions' judged scores from their runs, and moves the aliases as the rule says."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..platform.destination import CHALLENGER, Destination, quiet, reason, redact
from ..platform.errors import ConcertError, InputError
from ..platform.promotion import CHAMPION, JUDGED, PREVIOUS, Contender, Verdict, decide
from ..platform.promotion_settings import PromotionSettings
from ..platform.report import STATIC, TEAM

DECISION = "concertrl.promotion"
"""Tag of a version with what was decided about it, and why."""


@dataclass(frozen=True)
class Promotion:
    """What `promote` decided.

    Attributes:
        name: of the registered model.
        version: the challenger.
        champion: the champion after it, None while there is none.
        previous: the version that was champion before, where that changed.
        promoted: whether the challenger is the champion now (or would be, in a dry run).
        reason: why, in one line.
    """

    name: str
    version: str
    champion: str | None
    previous: str | None
    promoted: bool
    reason: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def promote(destination: Destination, name: str, settings: PromotionSettings, *, dry_run: bool = False) -> Promotion:
    """Decides between the challenger and the champion of a registered team.

    While there is no champion, the best static fusion judged in the challenger's own run stands in for it.

    Raises:
        InputError: no such model, or it has no challenger.
        ConcertError: the registry does not answer.
    """
    from mlflow.exceptions import MlflowException

    if not destination.reachable():
        raise ConcertError(f"{redact(destination.uri)} does not answer")
    try:
        with quiet():
            return _promote(destination.client, name, settings, dry_run=dry_run)
    except MlflowException as error:
        raise ConcertError(f"MLflow at {redact(destination.uri)}: {reason(error)}") from None


def _promote(client: Any, name: str, settings: PromotionSettings, *, dry_run: bool) -> Promotion:
    known = client.search_registered_models(f"name = '{name}'") if "'" not in name else []
    if not known:
        raise InputError(f'no registered model "{name}"; `concertrl train` registers concertrl-NAME')
    aliases = {alias: str(version) for alias, version in known[0].aliases.items()}
    version, champion = aliases.get(CHALLENGER), aliases.get(CHAMPION)
    if version is None:
        stands = f"; version {champion} is its champion" if champion else ""
        raise InputError(f"{name}: no version has the alias {CHALLENGER}{stands}; train another")
    if version == champion:
        if not dry_run:  # what a promotion that was killed had left to do
            client.delete_registered_model_alias(name, CHALLENGER)
        return Promotion(name, version, champion, None, True, f"version {version} is the champion already")
    challenger = _contender(client, name, version)
    holder = _contender(client, name, champion) if champion else _contender(client, name, version, STATIC)
    verdict = decide(challenger, holder, settings)
    if not dry_run:
        _write(client, name, version, champion, verdict)
    return Promotion(
        name,
        version,
        champion=version if verdict.promoted else champion,
        previous=champion if verdict.promoted else None,
        promoted=verdict.promoted,
        reason=verdict.reason,
    )


def _write(client: Any, name: str, version: str, champion: str | None, verdict: Verdict) -> None:
    """The reason first, the champion in one call, the tidying last: killed anywhere, it can be run again."""
    word = "promoted" if verdict.promoted else "not promoted"
    client.set_model_version_tag(name, version, DECISION, f"{word}: {verdict.reason}")
    if not verdict.promoted:
        return
    if champion:
        client.set_model_version_tag(name, champion, DECISION, f"gave way to version {version}: {verdict.reason}")
        client.set_registered_model_alias(name, PREVIOUS, champion)
    client.set_registered_model_alias(name, CHAMPION, version)
    client.delete_registered_model_alias(name, CHALLENGER)


def _contender(client: Any, name: str, version: str, policy: str = TEAM) -> Contender:
    run = client.get_run(client.get_model_version(name, version).run_id)
    values = [run.data.metrics.get(f"final/{policy}/{key}") for key in ("return", "low", "high")]
    called = f"version {version}" if policy == TEAM else f"the best static fusion of version {version}"
    return Contender(called, *values, data=run.data.tags.get("concertrl.data"), judged=run.data.tags.get(JUDGED))
