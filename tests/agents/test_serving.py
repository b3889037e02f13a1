from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from concertrl.agents import serving_path
from concertrl.agents.policy import Policy
from concertrl.agents.team import Catalog, Team, hash_user
from concertrl.envs import Stage
from concertrl.platform.pyfunc import save_team
from concertrl.platform.settings import TrainSettings
from mlflow.models import ModelSignature, infer_signature
from mlflow.types.schema import ParamSchema, ParamSpec

SALT = "pepper"


@pytest.fixture(scope="module")
def team(small_stage: Stage) -> Team:
    ensemble, world = small_stage.ensemble, small_stage.world
    policies = {agent: Policy(ensemble.policy_spec(agent, TrainSettings())) for agent in ensemble.agents}
    for policy in policies.values():
        torch.nn.init.normal_(policy.head.weight, std=0.3)
    hashes = torch.tensor([hash_user(user, SALT) for user in world.user_ids])
    catalog = Catalog(world.item_ids, world.item_titles, hashes, world.history, SALT)
    return Team(ensemble, policies, catalog, slate=5, horizon=8, name="mine")


@pytest.fixture(scope="module")
def model(team: Team, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The team as an MLflow model on disk."""
    folder = tmp_path_factory.mktemp("model")
    team.save(folder / "team")
    example = pd.DataFrame({"user_id": ["u00001", "u00002"]})
    inferred = infer_signature(example, pd.DataFrame({"slate": team.recommend(list(example["user_id"]))}))
    signature = ModelSignature(inferred.inputs, inferred.outputs, ParamSchema([ParamSpec("k", "integer", 0)]))
    save_team(folder / "saved", folder / "team", serving_path(), signature, example, ["torch"])
    return folder / "saved"


ASK = """
import json, sys
import mlflow.pyfunc, pandas
model = mlflow.pyfunc.load_model(sys.argv[1])
users = pandas.DataFrame({"user_id": ["u00003", "a stranger"]})
slates = [list(model.predict(users)["slate"]), list(model.predict(users, params={"k": 3})["slate"])]
print(json.dumps([slates, "ray" in sys.modules]))
"""


def test_mlflow_serves_the_team_in_a_fresh_process_without_ray(team: Team, model: Path, tmp_path: Path) -> None:
    asked = subprocess.run(
        [sys.executable, "-c", ASK, str(model)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert asked.returncode == 0, asked.stderr
    slates, ray = json.loads(asked.stdout.splitlines()[-1])
    users = ["u00003", "a stranger"]
    assert slates == [team.recommend(users), team.recommend(users, k=3)] and not ray


def test_histories_are_served_too(team: Team, model: Path, small_stage: Stage) -> None:
    from concertrl.agents.serving import TeamModel
    from mlflow.pyfunc.model import PythonModelContext

    served = TeamModel()
    served.load_context(PythonModelContext({"team": str(model / "artifacts" / "team")}, {}))
    items = small_stage.world.item_ids
    table = pd.DataFrame({"history": [np.array([items[4], items[9]]), []]})
    found = served.predict(None, table)
    assert list(found["slate"]) == team.recommend([[items[4], items[9]], []])
    assert list(served.predict(None, pd.DataFrame({"user_id": ["u00001"]}), {"k": 2})["slate"]) == team.recommend(
        ["u00001"], k=2
    )
