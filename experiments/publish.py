"""What a training run puts into MLflow: settings and data at the start; pictures, report and the team at the end."""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from .. import __version__
from ..agents import serving_path
from ..agents.ensemble import CONDUCTOR
from ..agents.team import Team
from ..cluster.inside_job import run_tags
from ..envs import BatchedEnv, Stage
from ..envs.render import session_start, step_text
from ..platform import plots, plots_conductor
from ..platform.destination import redact
from ..platform.experiment import resolved_yaml
from ..platform.promotion import JUDGED, judged_by
from ..platform.report import ReportInput, build_report, headline, text_table
from ..platform.settings import Experiment, TrackingSettings
from ..platform.tracking import Run, tracking_uri
from .ablation import Loss, read_conductor
from .judge import Judge, Score, team_act

if TYPE_CHECKING:
    from .learning import History

SERVING_NEEDS = ("mlflow", "numpy", "pandas", "pydantic", "safetensors", "torch")
"""What a served team imports, beside this package; Ray is not among it."""


WORLD = {
    "auc": "AUC of the response model, held-out interactions",
    "log_loss": "log loss",
    "log_loss_constant": "log loss of a constant",
    "ece": "calibration error",
    "ece_constant": "calibration error of a constant",
    "brier": "Brier score",
    "brier_constant": "Brier score of a constant",
    "base_rate": "mean click probability of a random item",
    "top10_mean": "mean click probability of a user's ten best new items",
}
"""What the report tells of a world fitted to logs; the run's metrics hold the rest."""


@dataclass(frozen=True)
class Story:
    """Everything that is told of a finished run."""

    stage: Stage
    team: Team
    judge: Judge
    scores: dict[str, Score]
    rows: list[dict[str, Any]]
    history: History
    lost: dict[str, tuple[float, float, float]]
    losses: list[Loss]
    seconds: float
    env_steps: int
    command: str


def tags(experiment: Experiment, digest: str) -> dict[str, str]:
    """Tags to filter runs by; `digest` is the data's."""
    return {
        "concertrl.version": __version__,
        "concertrl.experiment": experiment.name,
        "concertrl.world": experiment.world.kind,
        "concertrl.fusion": experiment.fusion.method,
        "concertrl.algorithm": experiment.train.algorithm,
        "concertrl.data": digest[:16],
        "concertrl.seed": str(experiment.seed),
        "concertrl.agents": ",".join(experiment.agents.names),
        "concertrl.credit": experiment.reward.credit,
        JUDGED: judged_by(experiment),
        **run_tags(),
    }


def inputs(run: Run, stage: Stage, command: str) -> None:
    """Logs every parameter, the resolved config, the data, and what is known of the world and the towers."""
    experiment = stage.experiment
    settings = experiment.model_dump(mode="json")
    settings["tracking"].pop("uri")  # it may hold a password
    run.log_params(settings)
    shown = experiment.model_copy(update={"tracking": experiment.tracking.model_copy(update={"uri": None})})
    run.log_text(resolved_yaml(shown), "config.yaml")
    counts = {name: value for name, value in stage.data.items() if name not in ("name", "digest", "source")}
    run.log_dataset(stage.data["name"], stage.data["digest"], stage.data["source"], counts)
    run.log_metrics({f"world/{name}": value for name, value in stage.world.report.items()}, 0)
    facts = {name: tower.facts for name, tower in stage.ensemble.towers.items()}
    run.log_text(json.dumps(facts, indent=2), "agents.json")
    versions = {name: metadata.version(name) for name in ("ray", "torch", "mlflow", "pettingzoo", "transformers")}
    run.log_text(json.dumps({"python": sys.version.split()[0], **versions}, indent=2), "versions.json")
    if command:
        run.tag(**{"concertrl.command": command})


def outcome(run: Run, story: Story) -> str:
    """Logs the table, the pictures, the report and a session, and registers the team. Returns the model's URI."""
    pictures = draw(story)
    for name, (_, figure) in pictures.items():
        run.log_figure(figure, f"plots/{name}.png")
    run.log_text(json.dumps(story.rows, indent=2), "table.json")
    run.log_text(text_table(story.rows), "table.txt")
    run.log_text(json.dumps([asdict(loss) for loss in story.losses], indent=2), "ablation.json")
    run.log_text(a_session(story), "session.txt")
    run.log_metrics(_final(story), story.env_steps)
    # The UI shows this tag as the run's description, the first thing a person reads.
    experiment = story.stage.experiment
    run.tag(
        **{
            "mlflow.note.content": description(story),
            "concertrl.data": str(story.stage.data["digest"])[
                :16
            ],  # a trial of a sweep does not have them from its start
            JUDGED: judged_by(experiment),
        }
    )
    model_uri = register(run, story)
    run.log_text(build_report(_report(run, story, pictures, model_uri)), "report.html")
    return model_uri


def description(story: Story) -> str:
    """The run in a few lines of Markdown."""
    guide = "Open **Artifacts** for `report.html`, the pictures in `plots`, and one session told in `session.txt`."
    return f"{headline(story.rows)}\n\n```\n{text_table(story.rows)}\n```\n\n{guide}\n"


def draw(story: Story) -> dict[str, tuple[str, Figure]]:
    """The pictures: `{file name: (title, figure)}`."""
    history, names = story.history, story.stage.ensemble.recommenders
    levels = {name: score.returns.mean for name, score in story.scores.items() if name != "team"}
    weights, low, high = story.judge.weights_through_session(team_act(story.team))
    pictures = {
        "learning_curve": (
            "The team while it learns",
            plots.learning_curve(history.steps, history.mean, levels, history.low, history.high),
        ),
        "policies": ("Every policy, on the same sessions", plots.forest(story.rows)),
        "fusion_weights": ("Fusion weights through a session", plots.session_weights(weights, names, low, high)),
    }
    pictures |= _of_failing(story)
    if story.lost:
        values = np.array(list(story.lost.values()))
        figure = plots.contributions(list(story.lost), values[:, 0], values[:, 1], values[:, 2])
        pictures["contributions"] = ("What each agent adds", figure)
    return pictures


def _of_failing(story: Story) -> dict[str, tuple[str, Figure]]:
    """How the conductor reads a session, and what it does about an agent that fails."""
    names, pictures = story.stage.ensemble.recommenders, {}
    if CONDUCTOR in story.team.policies:
        panels = {each.name: (each.levels, each.weights) for each in read_conductor(story.stage, story.team)}
        pictures["conductor"] = ("What the conductor listens to, and when", plots_conductor.reading(panels, names))
    wild = {loss.agent: loss.weights for loss in story.losses if loss.kind == "adversarial"}
    if wild and CONDUCTOR in story.team.policies:
        # A frozen agent's weight is what the conductor gives it when nothing is wrong.
        usual = {loss.agent: loss.weights for loss in story.losses if loss.kind == "frozen"}
        pictures["failing"] = ("An agent that votes at random loses its say", plots_conductor.failing(wild, usual))
    return pictures


def a_session(story: Story) -> str:
    """One judged session of the trained team, in words."""
    env = BatchedEnv(story.stage, sessions=1, seed=story.stage.experiment.seed, users="judge")
    observations, lines = env.observe(), [session_start(env)]
    for _ in range(env.horizon):
        step = env.step(story.team.act(observations))
        lines.append(step_text(env, step))
        observations = step.observations
        if bool(step.done.all()):
            break
    return "\n\n".join(lines) + "\n"


def how_to_look(tracking: TrackingSettings) -> str:
    """Where a person sees the runs: a command, or the address of the server they went to."""
    if tracking.uri is None:
        return f"concertrl ui{_folder(tracking)}"
    address = redact(tracking.uri)
    return address if address.startswith("http") else f"MLFLOW_TRACKING_URI={shlex.quote(address)} concertrl ui"


def how_to_deliver(tracking: TrackingSettings) -> str:
    """The command that delivers what the server did not take."""
    uri = f" --uri {shlex.quote(redact(tracking.uri))}" if tracking.uri else ""
    return f"concertrl deliver{_folder(tracking)}{uri}"


def how_to_load(model_uri: str, tracking: TrackingSettings) -> str:
    """The Python that loads the team, from wherever it is run."""
    default = tracking.uri is None and _folder(tracking) == ""
    where = "" if default or not model_uri.startswith("models:") else f", {redact(tracking_uri(tracking))!r}"
    return f"concertrl.load_team({model_uri!r}{where})"


def _folder(tracking: TrackingSettings) -> str:
    return "" if tracking.folder == TrackingSettings().folder else f" --folder {shlex.quote(tracking.folder)}"


def register(run: Run, story: Story) -> str:
    """Saves the team, registers it under the experiment's model name and points the alias at it."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array

    experiment = story.stage.experiment
    world = story.stage.world
    known = [item for item in world.history.items[0].tolist() if item >= 0][-5:] or [0]
    example = {"history": [world.item_ids[item] for item in known]}
    signature = ModelSignature(
        inputs=Schema(
            [ColSpec(Array(DataType.string), "history", required=False), ColSpec("string", "user_id", required=False)]
        ),
        outputs=Schema([ColSpec(Array(DataType.string), "slate")]),
        params=ParamSchema([ParamSpec("k", DataType.long, experiment.env.slate)]),
    )
    with tempfile.TemporaryDirectory() as place:
        story.team.save(Path(place) / "team")
        return run.log_team(
            Path(place) / "team",
            code_path=serving_path(),
            signature=signature,
            input_example=[example],
            registered_name=experiment.tracking.model or f"concertrl-{experiment.name}",
            alias=experiment.tracking.alias,
            pip_requirements=[
                f"concertrl=={__version__}",
                *(f"{name}=={metadata.version(name).partition('+')[0]}" for name in SERVING_NEEDS),
            ],
            step=story.env_steps,
        )


def _final(story: Story) -> dict[str, float]:
    """The table as metrics, so that runs can be compared by it."""
    metrics = {
        f"final/{row['policy']}/{key}": float(row[key])
        for row in story.rows
        for key in ("return", "low", "high", "normalised")
    }
    team, static = story.scores["team"], story.scores["best_static"]
    metrics |= {f"final/lost_without_{name}": lost for name, (lost, _, _) in story.lost.items()}
    metrics |= {f"final/lost/{loss.kind}/{loss.agent}": loss.lost for loss in story.losses}
    metrics["final/gain_over_best_static"] = (
        team.returns.mean / static.returns.mean - 1.0 if static.returns.mean else 0.0
    )
    metrics["final/team/length"], metrics["final/team/clicks"] = team.length, team.clicks
    return {**metrics, "seconds": story.seconds}


def _report(run: Run, story: Story, pictures: dict[str, tuple[str, Figure]], model_uri: str) -> ReportInput:
    stage, experiment = story.stage, story.stage.experiment
    weights = zip(stage.ensemble.recommenders, stage.ensemble.weights.tolist(), strict=True)
    team = story.scores["team"]
    facts = {
        "MLflow run": run.run_id,
        "seconds": story.seconds,
        "env_steps": story.env_steps,
        "seed": experiment.seed,
        "static weights": ", ".join(f"{name} {weight:.2f}" for name, weight in weights),
        **{
            f"lost where {loss.agent} is {loss.kind}": f"{loss.lost:.2f} [{loss.low:.2f}, {loss.high:.2f}]"
            for loss in story.losses
        },
        "mean session of the team": f"{team.length:.1f} slates, {team.clicks:.1f} clicks",
        "version": __version__,
    }
    return ReportInput(
        name=experiment.name,
        rows=story.rows,
        pictures={title: figure for title, figure in pictures.values()},
        agents={name: tower.facts for name, tower in stage.ensemble.towers.items()},
        world={words: stage.world.report[name] for name, words in WORLD.items() if name in stage.world.report},
        dataset={name: value for name, value in stage.data.items() if name != "source"},
        command=story.command,
        sessions=experiment.evaluate.seeds * experiment.evaluate.sessions,
        seeds=experiment.evaluate.seeds,
        look={
            "the run's curves": how_to_look(experiment.tracking),
            "the team": how_to_load(model_uri, experiment.tracking),
            "one session, step by step": "session.txt, beside this report",
            "all settings": "config.yaml, beside this report",
        },
        facts=facts,
    )
