"""Prometheus finds what compose starts, and the dashboard asks for series that are there."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from concertrl.cluster import deployment, gauges
from servers import until

DURATION = {"type": "string", "pattern": r"^\d+(ms|s|m)$"}
PROMETHEUS = {
    "type": "object",
    "additionalProperties": False,
    "required": ["global", "scrape_configs"],
    "properties": {
        "global": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                name: {"type": "string", "pattern": r"^\d+(ms|s|m)$"} for name in ("scrape_interval", "scrape_timeout")
            },
        },
        "scrape_configs": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["job_name", "dns_sd_configs"],
                "properties": {
                    "job_name": {"type": "string"},
                    "dns_sd_configs": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "additionalProperties": False,
                            "required": ["names", "type", "port"],
                            "properties": {
                                "names": {"type": "array", "items": {"type": "string"}},
                                "type": {"enum": ["A", "AAAA", "SRV", "MX", "NS"]},
                                "port": {"type": "integer"},
                                "refresh_interval": {"type": "string"},
                            },
                        },
                    },
                },
            },
        },
    },
}


def compose() -> dict[str, Any]:
    return yaml.safe_load(deployment.render("compose", deployment.values()))


def test_prometheus_scrapes_what_compose_starts() -> None:
    config = yaml.safe_load((deployment.HOME / "prometheus.yaml").read_text())
    jsonschema.validate(config, PROMETHEUS)
    [found] = config["scrape_configs"][0]["dns_sd_configs"]
    services = compose()["services"]
    for name in found["names"]:
        assert f"--metrics-export-port={found['port']}" in services[name]["command"]
    config["scrape_configs"][0]["port"] = 8080
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(config, PROMETHEUS)


def panels() -> list[dict[str, Any]]:
    return json.loads((deployment.HOME / "dashboard.json").read_text())["panels"]


def test_the_dashboard_is_whole() -> None:
    ids = [panel["id"] for panel in panels()]
    [source] = yaml.safe_load((deployment.HOME / "grafana-sources.yaml").read_text())["datasources"]
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken and place["x"] + place["w"] <= 24
        taken |= cells
        assert panel["title"] and panel["datasource"]["uid"] == source["uid"]
        refs = [target["refId"] for target in panel["targets"]]
        assert refs and len(set(refs)) == len(refs) and all(target["expr"] for target in panel["targets"])
    assert len(set(ids)) == len(ids)
    [provider] = yaml.safe_load((deployment.HOME / "grafana-dashboards.yaml").read_text())["providers"]
    mounted = [volume.split(":")[1] for volume in compose()["services"]["grafana"]["volumes"]]
    assert any(place.startswith(provider["options"]["path"] + "/") for place in mounted)


@pytest.mark.usefixtures("ray_cluster")
def test_the_dashboard_asks_for_series_that_a_running_cluster_has() -> None:
    """GPU series are held against Ray's source, since the machine of a test may have no GPU."""
    asked = {name for panel in panels() for one in panel["targets"] for name in re.findall(r"ray_\w+", one["expr"])}
    assert {f"ray_{name}" for name, _ in gauges.GAUGES.values()} <= asked

    class Idle:  # an actor, so that actors are counted; in here, so that it needs no import where it runs
        def here(self) -> bool:
            return True

    idle = ray.remote(num_cpus=0)(Idle).remote()
    assert ray.get(idle.here.remote())
    [node] = ray.nodes()
    place = f"http://127.0.0.1:{node['MetricsExportPort']}/metrics"

    def missing() -> set[str]:
        gauges.show("builtin", dict.fromkeys(gauges.GAUGES, 1.5), 1024)  # Ray forgets what is not set for a while
        with urllib.request.urlopen(place, timeout=5) as answer:
            page = answer.read().decode()
        assert "ray_concertrl_env_steps{" not in page or 'experiment="builtin"' in page
        return {name for name in asked if f"\n{name}{{" not in page}

    source = (Path(ray.__file__).parent / "dashboard" / "modules" / "reporter" / "reporter_agent.py").read_text()
    gpu = {name for name in asked if "gpu" in name or "gram" in name}
    assert all(f'"{name.removeprefix("ray_")}"' in source for name in gpu)
    until(lambda: not missing() - gpu, "series that the cluster does not have", 90)
    ray.kill(idle)
