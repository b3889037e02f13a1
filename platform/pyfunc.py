"""A team as an MLflow model: a folder of plain files, and a Python file that serves it ("models from code")."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .destination import local_uri, quiet, reason, redact
from .errors import ConcertError, InputError
from .settings import TrackingSettings

if TYPE_CHECKING:
    from mlflow.models import ModelSignature


def save_team(
    place: Path, folder: Path, code: Path, signature: ModelSignature, example: Any, requirements: Sequence[str]
) -> None:
    """Saves the team in `folder` under `place`, and serves it the example once.

    Raises:
        ConcertError: the model does not save, load or serve its own example.
    """
    try:
        with quiet():
            from mlflow import pyfunc

            pyfunc.save_model(
                str(place),
                python_model=str(code),
                artifacts={"team": str(folder.resolve())},
                signature=signature,
                input_example=example,
                pip_requirements=list(requirements),
            )
            pyfunc.load_model(str(place)).predict(example)
    except Exception as error:  # anything at all in the model's code
        raise ConcertError(f"the team in {folder} cannot be saved as an MLflow model: {reason(error)}") from error


def download_model(uri: str, tracking_uri: str | None) -> Path:
    """The local folder of an MLflow model, fetched where it is not on this machine.

    Raises:
        InputError: MLflow has no such model, or does not answer.
    """
    with quiet():
        from mlflow.artifacts import download_artifacts

        target = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or local_uri(Path(TrackingSettings().folder))
        try:
            return Path(download_artifacts(artifact_uri=uri, tracking_uri=target, registry_uri=target))
        except Exception as error:  # MLflow raises of many kinds, its own and its stores'
            raise InputError(f"{uri}: not found in MLflow at {redact(target)}: {reason(error)}") from None
