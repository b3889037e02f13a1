"""Jobs on a real cluster of two nodes on this machine: sent, followed, failed, stopped, asked after.

The cluster asks for a token, listens on 127.0.0.1 alone, and ends with its process groups.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from concertrl.platform.destination import local_uri

RAY = Path(sys.executable).with_name("ray")
LOOPBACK = Path(__file__).with_name("loopback_ray.py")
PASSWORD = "s3cret-pass"

SMALL = (
    "world.users=120", "world.items=150", "world.topics=6", "env.slate=5", "env.horizon=8", "fusion.ballot=20",
    "agents.content.factors=8", "agents.sentiment.max_reviews=500", "agents.encoder.max_tokens=16",
)  # fmt: skip
SHORT = (
    "env.sessions=32", "train.iterations=2", "train.minibatch=64", "train.epochs=1", "evaluate.seeds=2",
    "evaluate.sessions=32", "evaluate.every=1",
)  # fmt: skip

Ran = subprocess.CompletedProcess[str]


class Cluster:
    """A head, and on request a second node, whose resource `runner` draws env runners."""

    def __init__(self, home: Path) -> None:
        self.home, self._groups = home, []
        self.token = secrets.token_hex(16)
        self.gcs, self.dashboard, client, agent = free_ports(4)
        self.address = f"http://127.0.0.1:{self.dashboard}"
        # Without the second switch Ray listens on every interface.
        switches = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
        self._start(
            [str(RAY), "start", "--head", f"--port={self.gcs}", f"--dashboard-port={self.dashboard}"],
            [f"--temp-dir={home / 'ray'}", f"--ray-client-server-port={client}"],
            agent,
            switches,
        )

    def join(self) -> None:
        (agent,) = free_ports(1)
        words = [sys.executable, str(LOOPBACK), "start", f"--address=127.0.0.1:{self.gcs}"]
        self._start(words, ['--resources={"runner": 2}'], agent, {})
        self.wait_for(2)

    def _start(self, words: list[str], more: list[str], agent: int, switches: dict[str, str]) -> None:
        common = ["--node-ip-address=127.0.0.1", f"--dashboard-agent-listen-port={agent}", "--num-cpus=2", "--block"]
        common += ["--min-worker-port=0", "--max-worker-port=0", "--object-store-memory=100000000"]
        environment = {**self.environment, **switches, "RAY_TMPDIR": str(self.home), "RAY_AUTH_MODE": "token"}
        with (self.home / "cluster.log").open("ab") as log:
            process = subprocess.Popen(
                [*words, *more, *common], env=environment, stdout=log, stderr=log, start_new_session=True
            )
        self._groups.append(process)

    @property
    def environment(self) -> dict[str, str]:
        path = f"{RAY.parent}{os.pathsep}{os.environ['PATH']}"
        kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "RAY_ADDRESS")}
        return {**kept, "PATH": path, "RAY_AUTH_TOKEN": self.token}

    def wait_for(self, nodes: int) -> None:
        words = [sys.executable, "-m", "concertrl", "plan", "--address", self.address, "--json"]
        until = time.monotonic() + 300
        while time.monotonic() < until:
            ran = subprocess.run(words, env=os.environ | self.environment, text=True, capture_output=True, check=False)
            if ran.returncode == 0 and len(json.loads(ran.stdout)["nodes"]) == nodes:
                return
            time.sleep(1)
        raise AssertionError((self.home / "cluster.log").read_text())

    def cli(self, *words: str, cwd: Path, **environment: str) -> Ran:
        return subprocess.run(
            [sys.executable, "-m", "concertrl", *words, "--address", self.address],
            cwd=cwd,
            env={**os.environ, "RAY_AUTH_TOKEN": self.token, **environment},
            text=True,
            capture_output=True,
            check=False,
            timeout=600,
        )

    def stop(self) -> None:
        for process in self._groups:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    # The paths of Ray's sockets have 107 characters at most, too few for pytest's own folders under xdist.
    with tempfile.TemporaryDirectory(prefix="c-", ignore_cleanup_errors=True) as home:
        found = Cluster(Path(home))
        try:
            found.wait_for(1)
            yield found
        finally:
            found.stop()


@pytest.fixture(scope="module")
def two_nodes(cluster: Cluster) -> Cluster:
    cluster.join()
    return cluster


def answer(ran: Ran) -> dict[str, Any]:
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def history(folder: Path, run_id: str) -> dict[str, list[tuple[int, float]]]:
    from mlflow import MlflowClient

    client = MlflowClient(local_uri(folder))
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    names = [name for name in run.data.metrics if not name.startswith(("system/", "throughput/", "seconds"))]
    return {name: [(one.step, one.value) for one in client.get_metric_history(run_id, name)] for name in names}


def history_here(home: Path, *words: str) -> dict[str, list[tuple[int, float]]]:
    """The history of the same run on this machine alone."""
    command = [sys.executable, "-m", "concertrl", "train", *words, "tracking.folder=here"]
    ran = subprocess.run(command, cwd=home, text=True, capture_output=True, check=False)
    return history(home / "here", answer(ran)["run_id"])


@pytest.mark.timeout(600)
def test_a_job_that_cannot_run_ends_with_its_status_and_its_reason(cluster: Cluster, tmp_path: Path) -> None:
    """The experiment names a dataset that the cluster lacks; the password in its tracking URI is told nowhere."""
    uri = f"tracking.uri=http://me:{PASSWORD}@127.0.0.1:9"
    ran = cluster.cli("submit", "movielens", "dataset=/nowhere/ml", uri, cwd=tmp_path)
    assert ran.returncode == 2, ran.stderr
    last = ran.stderr.splitlines()[-1]
    assert re.match(r"concertrl: movielens-\d{8}-\d{6}-\w{4}: /nowhere/ml: no such dataset folder", last)
    job = ran.stdout.partition(":")[0]
    listed = answer(cluster.cli("list", "--json", cwd=tmp_path))["jobs"]
    assert listed[0] == {"job": job, "status": "FAILED", "experiment": "movielens"}
    status = cluster.cli("status", job, cwd=tmp_path)
    assert status.returncode == 2 and "failed after" in status.stdout
    told = ran.stdout + ran.stderr + cluster.cli("logs", job, cwd=tmp_path).stdout
    from urllib.request import Request, urlopen

    request = Request(f"{cluster.address}/api/jobs/", headers={"Authorization": f"Bearer {cluster.token}"})
    with urlopen(request, timeout=30) as page:
        told += page.read().decode()
    assert PASSWORD not in told and cluster.token not in told


@pytest.mark.timeout(600)
def test_tokens_and_jobs_that_are_not_there(cluster: Cluster, tmp_path: Path) -> None:
    for token, said in (("wrong", "does not take our token"), ("", "asks for a token; set RAY_AUTH_TOKEN")):
        ran = cluster.cli("list", cwd=tmp_path, RAY_AUTH_TOKEN=token, HOME=str(tmp_path))
        [line] = ran.stderr.splitlines()
        assert ran.returncode == 1 and said in line
    for verb in ("status", "logs", "stop"):
        ran = cluster.cli(verb, "nosuch", cwd=tmp_path)
        assert (ran.returncode, ran.stderr.count("\n")) == (1, 1) and "no job nosuch at" in ran.stderr


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_job_ends_in_mlflow_as_the_same_run_here(two_nodes: Cluster, tmp_path: Path) -> None:
    """Its runners are on the second node, by their resource; the numbers are those of a run on this machine."""
    words = ["builtin", *SMALL, *SHORT, "train.iterations=20", "cluster.num_env_runners=2", "--json"]
    there = two_nodes.cli("submit", *words, "cluster.resources_per_env_runner={runner: 1}", cwd=tmp_path)
    job = answer(there)
    assert history(tmp_path / "runs", job["run_id"]) == history_here(tmp_path, *words)
    nodes = answer(two_nodes.cli("plan", "--json", cwd=tmp_path))["nodes"]
    second = next(node["node"] for node in nodes if not node["head"])
    assert f"env runners: 2 on {second[:12]} (127.0.0.1)" in there.stderr
    from mlflow import MlflowClient

    logged = MlflowClient(local_uri(tmp_path / "runs")).get_run(job["run_id"]).data.metrics
    assert f"system/127.0.0.1-{second[:6]}/cpu_utilization_percentage" in logged


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_job_on_real_data_that_travels_with_it(cluster: Cluster, data_folder: Path, tmp_path: Path) -> None:
    from concertrl.platform.ingest import ingest
    from mlflow import MlflowClient

    ingest("amazon", data_folder / "amazon-musical-instruments-5core", tmp_path / "d")
    cheap = ("agents.content.factors=8", "agents.sentiment.max_reviews=500", "agents.encoder.max_tokens=16")
    words = ("instruments", "dataset=d", *cheap, *SHORT, "--json")
    found = answer(cluster.cli("submit", *words, "--ship-data", cwd=tmp_path))
    assert history(tmp_path / "runs", found["run_id"]) == history_here(tmp_path, *words)
    run = MlflowClient(local_uri(tmp_path / "runs")).get_run(found["run_id"])
    manifest = json.loads((tmp_path / "d" / "manifest.json").read_text())
    assert run.info.status == "FINISHED" and found["model_uri"] == "models:/concertrl-instruments/1"
    assert run.data.tags["concertrl.job"] == found["job"]
    assert manifest["sha256"].startswith(run.data.tags["concertrl.data"])
    assert run.data.tags["concertrl.command"].startswith("concertrl submit instruments dataset=d")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_job_that_is_sent_by_hand(cluster: Cluster, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    words = ("builtin", *SMALL, *SHORT, f"tracking.folder={tmp_path / 'runs'}", "--write", "parcel")
    command = cluster.cli("submit", *words, cwd=tmp_path).stdout
    ran = subprocess.run(
        ["sh", "-c", command],
        cwd=tmp_path,
        env={**cluster.environment, "RAY_AUTH_MODE": "token"},
        text=True,
        capture_output=True,
        check=False,
    )
    assert ran.returncode == 0 and "succeeded" in ran.stdout + ran.stderr, ran.stdout + ran.stderr
    [run] = MlflowClient(local_uri(tmp_path / "runs")).search_runs(["1"])
    assert run.info.status == "FINISHED" and run.data.tags["concertrl.job"].startswith("raysubmit_")
    assert run.data.tags["concertrl.command"].startswith("concertrl submit builtin")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_job_that_is_stopped_goes_on_in_another(
    cluster: Cluster, tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    from mlflow import MlflowClient

    ran = cluster.cli("submit", *SMALL, *SHORT, "train.iterations=5000", "--no-wait", "--json", cwd=tmp_path)
    job = answer(ran)["job"]
    wait_until(lambda: "iteration 1/" in cluster.cli("logs", job, cwd=tmp_path).stdout, 300)
    assert answer(cluster.cli("stop", job, "--json", cwd=tmp_path)) == {"job": job, "status": "STOPPED"}
    ended = cluster.cli("status", job, cwd=tmp_path)
    assert ended.returncode == 1 and ended.stderr == f"concertrl: {job}: it was stopped\n"
    client = MlflowClient(local_uri(tmp_path / "runs"))
    # Ray calls a job stopped when its shell is gone; the driver has some seconds more to end its run.
    wait_until(lambda: client.search_runs(["1"])[0].info.status == "KILLED", 60)
    [run] = client.search_runs(["1"])
    done = len(client.get_metric_history(run.info.run_id, "team/return"))
    words = ("--resume", run.info.run_id, f"train.iterations={done + 2}", "--json")
    again = answer(cluster.cli("submit", *words, cwd=tmp_path))
    assert again["run_id"] == run.info.run_id and again["job"] != job
    resumed = client.get_run(run.info.run_id)
    assert resumed.info.status == "FINISHED" and resumed.data.tags["concertrl.job"] == again["job"]
    points = client.get_metric_history(run.info.run_id, "team/return")
    assert len({point.step for point in points}) == len(points) == done + 2


@pytest.fixture
def wait_until() -> Callable[..., None]:
    def wait(done: Callable[[], bool], seconds: float) -> None:
        until = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < until, "it did not happen in time"
            time.sleep(2)

    return wait
