"""Every manifest against its schema, and what schemas cannot say; broken on purpose, each is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import check_jsonschema
import jsonschema
import kubernetes_validate
import pytest
import ray
import ray.autoscaler
import yaml
from click.testing import CliRunner
from concertrl import __version__
from concertrl.__main__ import main
from concertrl.cluster import deployment
from concertrl.platform.errors import InputError
from concertrl.platform.experiment import load_experiment

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = "1.31"
REFUSED = (
    jsonschema.ValidationError,
    kubernetes_validate.ValidationError,
    AssertionError,
    KeyError,
    ValueError,
)
Break = Callable[[Any], object]


def documents(name: str, *changes: str) -> list[Any]:
    return list(yaml.safe_load_all(deployment.render(name, deployment.values(changes))))


def cluster_of(manifest: dict[str, Any]) -> dict[str, Any]:
    return manifest["spec"].get("rayClusterSpec") or manifest["spec"]


def check_kuberay(manifest: dict[str, Any]) -> None:
    jsonschema.validate(manifest, yaml.safe_load((ROOT / "tests" / "cluster" / "kuberay.schema.yaml").read_text()))
    spec = cluster_of(manifest)
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        pod = {"apiVersion": "v1", "kind": "Pod", **group["template"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
        for container in group["template"]["spec"]["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["resources"]["limits"] == container["resources"]["requests"], "Ray plans by the limits"
        assert group["template"]["spec"]["securityContext"]["runAsNonRoot"] is True
    for group in spec["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def check_autoscaler(config: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import fillout_defaults, validate_config

    schema = Path(ray.autoscaler.__file__).with_name("ray-schema.json")
    jsonschema.validate(config, json.loads(schema.read_text()))
    validate_config(fillout_defaults(config))  # what the schema does not say, as `ray up` does
    assert config["head_node_type"] in config["available_node_types"]
    assert sum(kind["max_workers"] for kind in config["available_node_types"].values()) == config["max_workers"]


def check_compose(config: dict[str, Any]) -> None:
    folder = Path(check_jsonschema.__file__).parent / "builtin_schemas" / "vendor"
    jsonschema.validate(config, json.loads((folder / "compose-spec.json").read_text()))
    for name, service in config["services"].items():
        for other in service.get("depends_on", {}):
            assert other in config["services"], f"{name} depends on {other}"
        assert set(service["networks"]) <= set(config["networks"])
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            there = source in config["volumes"] or (deployment.HOME / source).is_file()
            assert there, f"{name} mounts {source}"
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} is open to other machines: {port}"
        for key, value in service.get("environment", {}).items():
            assert "PASSWORD" not in key or re.fullmatch(r"\$\{[A-Z_]+:\?.+\}", value), f"{name}: {key} is written down"


CHECKS: dict[str, Callable[[Any], None]] = {
    "raycluster": check_kuberay,
    "rayjob": check_kuberay,
    "autoscaler": check_autoscaler,
    "compose": check_compose,
}


@pytest.mark.parametrize("name", deployment.MANIFESTS)
def test_every_manifest_fits_its_schema(name: str) -> None:
    manifest, *beside = documents(name)
    CHECKS[name](manifest)
    for each in beside:
        kubernetes_validate.validate(each, KUBERNETES, strict=True)


@pytest.mark.parametrize(
    ("name", "break_it"),
    [
        ("raycluster", lambda it: it["spec"].update(workers=3)),
        ("raycluster", lambda it: it["spec"].pop("headGroupSpec")),
        ("raycluster", lambda it: it.update(apiVersion="ray.io/v2")),
        ("raycluster", lambda it: it["metadata"].update(name="Concert_RL")),
        ("raycluster", lambda it: it["spec"]["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0})),
        ("raycluster", lambda it: it["spec"]["workerGroupSpecs"][1].update(replicas=99)),
        ("raycluster", lambda it: it["spec"]["workerGroupSpecs"][1].update(maxReplicas="2")),
        ("raycluster", lambda it: pod(it, 1)["containers"][0].update(image=7)),
        ("raycluster", lambda it: pod(it, 1)["containers"][0].update(imge="x")),
        ("raycluster", lambda it: pod(it, 0)["containers"][0]["ports"][0].pop("containerPort")),
        ("raycluster", lambda it: pod(it, 1)["containers"][0]["resources"]["limits"].pop("nvidia.com/gpu")),
        ("raycluster", lambda it: pod(it, 0)["securityContext"].update(runAsNonRoot=False)),
        ("rayjob", lambda it: it["spec"].pop("entrypoint")),
        ("rayjob", lambda it: it["spec"].update(submissionMode="Whenever")),
        ("rayjob", lambda it: it["spec"].update(shutdownAfterJobFinishes=False)),
        ("autoscaler", lambda it: it["provider"].pop("type")),
        ("autoscaler", lambda it: it.update(workers=2)),
        ("autoscaler", lambda it: it["available_node_types"]["gpu"].update(max_workers="two")),
        ("autoscaler", lambda it: it["available_node_types"]["gpu"]["resources"].update(GPU="one")),
        ("autoscaler", lambda it: it.update(head_node_type="nowhere")),
        ("compose", lambda it: it["services"]["head"].update(imge="x")),
        ("compose", lambda it: it["services"]["head"].update(cap_drop="ALL")),
        ("compose", lambda it: it["services"]["head"].update(ports=["8265:8265"])),
        (
            "compose",
            lambda it: it["services"]["mlflow"]["depends_on"].update(postgress={"condition": "service_healthy"}),
        ),
        ("compose", lambda it: it["services"]["postgres"]["environment"].update(POSTGRES_PASSWORD="hunter2")),
        ("compose", lambda it: it["services"]["grafana"]["volumes"].append("./gone.yaml:/x:ro")),
    ],
)
def test_a_broken_manifest_is_refused(name: str, break_it: Break) -> None:
    manifest = json.loads(json.dumps(documents(name)[0]))  # anchors share no part
    break_it(manifest)
    with pytest.raises(
        (jsonschema.ValidationError, kubernetes_validate.ValidationError, AssertionError, KeyError, ValueError)
    ):
        CHECKS[name](manifest)


def pod(manifest: dict[str, Any], group: int) -> dict[str, Any]:
    return cluster_of(manifest)["workerGroupSpecs"][group]["template"]["spec"]


def test_values_are_in_one_place_and_each_is_used() -> None:
    texts = "".join((deployment.HOME / f"{name}.yaml").read_text() for name in deployment.MANIFESTS)
    used = set(re.findall(r"(?<!\$)\$([a-z][a-z0-9_]*)", texts))
    assert used - {"all_workers_max", "idle_minutes"} <= set(deployment.values())
    assert set(deployment.values()) - used == set(), "a value that nothing reads"
    assert deployment.values()["ray_version"] == ray.__version__
    assert str(deployment.values()["image"]).endswith(f":{__version__}")
    changed = documents("raycluster", "gpu_workers_max=7", "gpu_worker_gpu=4", "image=registry.local/team/concertrl:9")[
        0
    ]
    assert cluster_of(changed)["workerGroupSpecs"][1]["maxReplicas"] == 7
    assert pod(changed, 1)["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "4"
    assert documents("autoscaler", "gpu_workers_max=7")[0]["max_workers"] == 15


def test_gpu_workers_scale_from_none_and_cpu_workers_never_take_a_gpu() -> None:
    for name in ("raycluster", "rayjob"):
        spec = cluster_of(documents(name)[0])
        cpu, gpu = spec["workerGroupSpecs"]
        assert spec["enableInTreeAutoscaling"] is True
        assert gpu["minReplicas"] == 0 < gpu["maxReplicas"]
        assert "nvidia.com/gpu" in gpu["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert "nvidia.com/gpu" not in cpu["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert gpu["template"]["spec"]["nodeSelector"] and gpu["template"]["spec"]["tolerations"]


def test_the_job_trains_an_experiment_that_loads() -> None:
    words = documents("rayjob")[0]["spec"]["entrypoint"].split()
    assert words[:2] == ["concertrl", "train"]
    experiment = load_experiment(words[2], words[3:])
    assert (experiment.cluster.address, experiment.cluster.num_learners) == ("auto", 1)
    assert experiment.cluster.num_gpus_per_learner == 1 and experiment.tracking.uri == "http://mlflow:5000"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("gpu_worker_max=3", 'no value "gpu_worker_max"; did you mean "gpu_worker'),
        ("gpu_workers_max", "write KEY=VALUE"),
        ("gpu_workers_max=-1", "a whole number"),
        ("gpu_workers_min=9", "gpu_workers_min=9 is above gpu_workers_max"),
        ("image=x y", "one word"),
        ("image=x\n  privileged: true", "one word"),
        ("image={a: b}", "one word"),
        ("name=$(touch hacked)", "one word"),
        ("tracking_uri=http://me:s3cret@host:5000", "holds no credentials"),
    ],
)
def test_a_value_that_is_none_is_refused_in_one_line(change: str, said: str) -> None:
    ran = CliRunner().invoke(main, ["manifests", "rayjob", "--set", change])
    assert ran.exit_code == 2 and said in ran.stderr and ran.stdout == ""
    assert ran.stderr.count("\n") == 1 and "s3cret" not in ran.stderr


def test_they_are_printed_and_written(tmp_path: Path) -> None:
    printed = CliRunner().invoke(main, ["manifests", "rayjob", "--set", "experiment=movielens"])
    assert "concertrl train movielens" in printed.stdout and printed.exit_code == 0
    assert CliRunner().invoke(main, ["manifests"]).stdout.split() == list(deployment.MANIFESTS)
    assert CliRunner().invoke(main, ["manifests", "compose", "--out", str(tmp_path / "deploy")]).exit_code == 0
    written = {path.name for path in (tmp_path / "deploy").iterdir()}
    assert written == {"compose.yaml", *deployment.BESIDE["compose"]}
    with pytest.raises(InputError, match='no manifest "rayjobs"; did you mean "rayjob"'):
        deployment.render("rayjobs", deployment.values())
