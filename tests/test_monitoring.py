"""Prometheus' configuration and alerts and Grafana's dashboard, against the metrics of a running service."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from service_process import Server

from service.metrics import Metrics

ROOT = Path(__file__).parent.parent
PROMETHEUS = ROOT / "deploy" / "compose" / "prometheus"
GRAFANA = ROOT / "deploy" / "compose" / "grafana"
DASHBOARD: dict[str, Any] = json.loads((GRAFANA / "dashboards" / "segdepth.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
RULES: list[dict[str, Any]] = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"][0]["rules"]
NAME = re.compile(r"\bsegdepth_\w+")
# Of HAProxy's exporter, at haproxy.cfg's names of its parts (2.6.12; the trial asks a running one).
OF_THE_BALANCER = {
    "haproxy_backend_agg_server_check_status",
    "haproxy_backend_current_sessions",
    "haproxy_backend_http_responses_total",
    "haproxy_backend_retry_warnings_total",
    "haproxy_backend_server_aborts_total",
    "haproxy_frontend_current_sessions",
    "haproxy_frontend_http_responses_total",
    "haproxy_server_http_responses_total",
}


def expressions() -> Iterator[str]:
    for panel in PANELS:
        yield from (target["expr"] for target in panel.get("targets", []))
    yield from (rule["expr"] for rule in RULES)


@pytest.fixture(scope="module")
def exposed(server: Server) -> dict[str, set[str]]:
    """The labels of every metric that a service shows, by the sample's name; some have none until they count."""
    text = httpx.get(f"{server.url}/metrics").text
    found: dict[str, set[str]] = {}
    for name in re.findall(r"^# TYPE (\w+)", text, re.MULTILINE):
        found[name] = set()
        if f"# TYPE {name} histogram" in text:
            found |= {f"{name}{end}": {"le"} for end in ("_bucket", "_sum", "_count")}
    counters = Metrics()
    for metric in (counters.requests, counters.stage_seconds, counters.batches, counters.dropped, counters.failures):
        for name in found:
            if name.startswith(metric._name):
                found[name] |= set(metric._labelnames)
    for name, labels in re.findall(r"^(\w+)\{(.*)\} ", text, re.MULTILINE):
        found[name] |= set(re.findall(r'(\w+)="', labels))
    found["segdepth_reloads_total"] |= set(counters.reloads._labelnames)
    return found


def test_alerts_and_dashboard_use_metrics_that_exist(exposed: dict[str, set[str]]) -> None:
    for expression in expressions():
        assert set(NAME.findall(expression)) <= exposed.keys(), expression
        assert set(re.findall(r"\bhaproxy_\w+", expression)) <= OF_THE_BALANCER, expression
        for name, matchers in re.findall(r"\b(segdepth_\w+)\{([^}]*)\}", expression):
            labels = set(re.findall(r"(\w+)(?:=|!=|=~|!~)\"", matchers))
            # Of Prometheus: `service` is put there by prometheus.yml.
            assert labels <= exposed[name] | {"service", "instance", "job"}, expression


def test_the_dashboard_shows_every_metric(exposed: dict[str, set[str]]) -> None:
    shown = {
        re.sub(r"_(bucket|sum|count)$", "", name)
        for panel in PANELS
        for target in panel.get("targets", [])
        for name in NAME.findall(target["expr"])
    }
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exposed}
    assert {name for name in families if not name.endswith("_created")} == shown


def test_the_dashboard_is_whole() -> None:
    assert DASHBOARD["uid"] == "segdepth"
    ids = [panel["id"] for panel in PANELS]
    assert len(set(ids)) == len(ids)
    source = yaml.safe_load((GRAFANA / "datasources" / "prometheus.yml").read_text())["datasources"][0]
    places: set[tuple[int, int]] = set()
    for panel in PANELS:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24 and not places & cells, panel["title"]
        places |= cells
        assert panel["type"] in ("row", "stat", "table", "timeseries")
        if panel["type"] != "row":
            assert panel["targets"] and panel["title"]
            assert panel["datasource"] == {"type": source["type"], "uid": source["uid"]}
            references = [target["refId"] for target in panel["targets"]]
            assert len(set(references)) == len(references)
    provider = yaml.safe_load((GRAFANA / "dashboards" / "provider.yml").read_text())["providers"][0]
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["grafana"]
    [mounted] = [volume for volume in compose["volumes"] if volume.startswith("./deploy/compose/grafana:")]
    folder = mounted.split(":")[1] + "/dashboards"
    assert provider["options"]["path"] == folder
    assert f"GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH={folder}/segdepth.json" in compose["environment"]


def lacks(given: Any, kept: Any, path: str = "") -> Iterator[str]:
    """Where `kept` has not what `given` has."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for name in given:
            yield from lacks(given[name], kept.get(name), f"{path}/{name}")
    elif isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        for number, (one, other) in enumerate(zip(given, kept, strict=True)):
            yield from lacks(one, other, f"{path}/{number}")
    elif given != kept:
        yield path


def test_the_dashboard_keeps_to_grafanas_own_model() -> None:
    """Which leaves out what it does not know, so that a misspelt field is missing afterwards."""
    register_default_plugins()
    encoder = JSONEncoder()
    kept = json.loads(encoder.encode(Dashboard.from_json(DASHBOARD)))
    assert list(lacks(DASHBOARD, kept)) == []
    wrong = json.loads(json.dumps(DASHBOARD))
    wrong["refersh"] = "1s"
    wrong["panels"][1]["targets"][0]["exrp"] = "up"
    kept = json.loads(encoder.encode(Dashboard.from_json(wrong)))
    assert list(lacks(wrong, kept)) == ["/panels/1/targets/0/exrp", "/refersh"]
    # An export for others asks for its data source; a provisioned dashboard must name it.
    assert not {"__inputs", "__requires", "id"} & DASHBOARD.keys()


def test_every_alert_is_explained_and_fired_in_a_test() -> None:
    page = (ROOT / "docs" / "deploy.md").read_text()
    tests = yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())["tests"]
    fired = {case["alertname"] for test in tests for case in test.get("alert_rule_test", []) if case.get("exp_alerts")}
    names = [rule["alert"] for rule in RULES]
    assert fired == set(names)
    assert re.findall(r"^\| `(\w+)` \|", page.partition("## Alerts")[2].partition("\n## ")[0], re.MULTILINE) == names
    for rule in RULES:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]


@pytest.mark.parametrize(
    "command",
    [
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "alerts.yml"],
        ["test", "rules", "alerts_test.yml"],
    ],
    ids=" ".join,
)
def test_promtool(command: list[str]) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("needs promtool")
    done = subprocess.run(["promtool", *command], cwd=PROMETHEUS, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_understands_every_query_of_the_dashboard(tmp_path: Path) -> None:
    """As rules, because that is what promtool reads."""
    if shutil.which("promtool") is None:
        pytest.skip("needs promtool")
    queries = [expression.replace("$__rate_interval", "1m") for expression in expressions()]
    rules = [{"record": f"query_{number}", "expr": query} for number, query in enumerate(queries)]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", "rules.yml"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules)} rules found" in done.stdout
