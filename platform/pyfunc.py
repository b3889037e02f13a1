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
        from mlflow import MlflowClient
        from mlflow.artifacts import download_artifacts

        target = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or local_uri(Path(TrackingSettings().folder))
        try:
            place = _place(MlflowClient(target), uri)
            return Path(download_artifacts(artifact_uri=place, tracking_uri=target, registry_uri=target))
        except Exception as error:  # MLflow raises of many kinds, its own and its stores'
            raise InputError(f"{uri}: not found in MLflow at {redact(target)}: {reason(error)}") from None


def _place(client: Any, uri: str) -> str:
    """Where a model's files are. MLflow's own download asks the process's server for that, whatever URI it is given."""
    from mlflow.store.artifact.utils.models import get_model_name_and_version

    if uri.startswith("runs:"):
        run_id, _, name = uri.removeprefix("runs:").strip("/").partition("/")
        outputs = client.get_run(run_id).outputs.model_outputs
        models = [client.get_logged_model(output.model_id) for output in outputs]
        return next((model.artifact_location for model in reversed(models) if model.name == name), uri)
    if not uri.startswith("models:"):
        return uri
    known = get_model_name_and_version(client, uri)
    if len(known) == 1:
        return client.get_logged_model(*known).artifact_location
    return client.get_model_version_download_uri(*known)
