"""What a process that Ray started as a job knows of that job. Imports no Ray."""

from __future__ import annotations

import json
import os

from ..platform.code_version import code_version

CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Where Ray leaves a job's metadata for its driver; that is the variable's whole name."""

COMMAND, CODE, NAME = "concertrl.command", "concertrl.code", "concertrl.experiment"
"""The metadata of a job of ours."""


def job_metadata() -> dict[str, str]:
    """The metadata of the job that this process is the driver of; empty outside a job."""
    try:
        found = json.loads(os.environ.get(CONFIG, "{}"))["metadata"]
    except (ValueError, KeyError, TypeError):
        return {}
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def run_tags() -> dict[str, str]:
    """Tags of a run: the code it is made with and, in a job, the job's submission id."""
    job = job_metadata()
    tags = {CODE: job.get(CODE) or code_version()}
    return tags | ({"concertrl.job": job["job_submission_id"]} if "job_submission_id" in job else {})
