"""The team as an MLflow model. MLflow runs this file when the model is loaded; it needs neither Ray nor a GPU.

Input: a table with `user_id` (text) or `history` (list of item ids, oldest first); parameter `k`. Output: `slate`.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from concertrl.agents.team_files import load_team
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel


class TeamModel(PythonModel):
    """Answers a table of users with a table of slates."""

    def load_context(self, context: Any) -> None:
        self.team = load_team(context.artifacts["team"])

    def predict(  # pyright: ignore[reportIncompatibleMethodOverride] - the type of the table is our own
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """One row for each user: `slate`, a list of item ids, best first."""
        k = (params or {}).get("k") or None
        if "history" in model_input:
            users: list[Any] = [list(history) for history in model_input["history"]]
        else:
            users = [str(user) for user in model_input["user_id"]]
        return pd.DataFrame({"slate": self.team.recommend(users, k)})


set_model(TeamModel())
