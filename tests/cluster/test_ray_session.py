"""A Ray cluster of our own is on loopback and gone at the end; one that is there is left alone."""

from __future__ import annotations

import json
import subprocess
import sys

from concertrl.cluster.ray_session import ray_session
from concertrl.platform.settings import ClusterSettings

OWN = """
import json, psutil, ray
from concertrl.cluster.ray_session import ray_session
from concertrl.platform.settings import ClusterSettings

with ray_session(ClusterSettings(num_env_runners=5, num_learners=2, num_cpus_per_learner=2.0)):
    listening = {
        place.laddr.ip
        for process in psutil.Process().children(recursive=True)
        for place in process.net_connections("tcp")
        if place.status == psutil.CONN_LISTEN
    }
    inside = ray.is_initialized(), ray.cluster_resources()["CPU"], sorted(listening)
print(json.dumps([*inside, ray.is_initialized()]))
"""

ABSENT = """
from concertrl.cluster.ray_session import ray_session
from concertrl.platform.errors import ConcertError
from concertrl.platform.settings import ClusterSettings

try:
    with ray_session(ClusterSettings(address="127.0.0.1:9")):
        print("connected")
except ConcertError as error:
    print(error)
"""


def answer(program: str) -> str:
    ran = subprocess.run([sys.executable, "-c", program], text=True, capture_output=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def test_a_cluster_of_our_own_is_large_enough_on_loopback_and_ends_with_the_run() -> None:
    """More processes than cores may wait for each other, so Ray is told of as many cores as they need."""
    there, cores, listening, after = json.loads(answer(OWN))
    assert there and not after and cores >= 1 + 5 + 2 * 2
    assert listening and set(listening) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_an_address_where_nothing_answers_is_named_in_one_line() -> None:
    said = answer(ABSENT)
    assert said.startswith("no Ray cluster at 127.0.0.1:9: ") and "\n" not in said


def test_a_session_that_is_there_is_used_and_left_alone(ray_cluster: None) -> None:
    import ray

    before = ray.cluster_resources()["CPU"]
    with ray_session(ClusterSettings(num_env_runners=50)):
        assert ray.cluster_resources()["CPU"] == before
    assert ray.is_initialized()
