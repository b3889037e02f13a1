"""What every test shares: one thread, no network for models, a clean tracking environment, the folder of real data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Before torch is imported: equal results whatever the machine, and no quarrel over its cores.
for _library in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_library, "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
for _variable in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID"):
    os.environ.pop(_variable, None)

settings.register_profile("house", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("house")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data sets, from CONCERTRL_DATA; the test is skipped where it is not set."""
    folder = os.environ.get("CONCERTRL_DATA")
    if not folder:
        pytest.skip("CONCERTRL_DATA names no folder of real data")
    return Path(folder)
