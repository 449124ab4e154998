"""Every alert is provoked, in a real Prometheus that scrapes real services and a real HAProxy; every query has data.

The configuration and the rules are those of docker-compose.yml, with other addresses and a faster clock (`hurried`).
tests/test_monitoring.py shows with promtool that they fire no earlier than they should. Grafana is not there: in no
registry that tests could ask. So the dashboard's queries are put to Prometheus here, as Grafana would, and
tests/test_monitoring.py looks at the rest of its file.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from service_balancer import started
from service_client import check_problem, encode, quadrants
from service_onnx import card, write_model
from service_process import ROOT, Server, start

from benchmarks.common import free_port

if missing := [name for name in ("haproxy", "prometheus") if shutil.which(name) is None]:
    pytest.skip(f"needs {' and '.join(missing)}", allow_module_level=True)

FILES = ROOT / "deploy" / "compose" / "prometheus"
RULES: list[dict[str, Any]] = yaml.safe_load((FILES / "alerts.yml").read_text())["groups"][0]["rules"]
DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy/compose/grafana/dashboards/segdepth.json").read_text())
OBEDIENT = [sys.executable, str(ROOT / "tests" / "obedient_server.py")]
PICTURE = encode(quadrants())
SLOW = encode(np.full((48, 64, 3), 255, np.uint8))
FAILING = encode(np.zeros((48, 64, 3), np.uint8))

PROVOKED = {
    "NoReplicaReady": ("the last replica is killed", {}),
    "ReplicaNotReady": ("the fake device of `troubled` is lost", {"instance": "troubled"}),
    "ReplicaUnreachable": ("`other` is killed", {"instance": "other"}),
    "DeviceLost": ("three pictures in a row fail on the fake device of `troubled`", {"instance": "troubled"}),
    "ProviderIsCpu": (
        "`other` runs on the CPU and is scraped as a replica of the service `gpu`",
        {"instance": "other", "provider": "CPUExecutionProvider"},
    ),
    "Refusals": ("more pictures than the queue of `troubled` holds", {}),
    "Failures": (
        "deadlines that pass in the queue of `troubled`, behind a slow picture",
        {"reason": "deadline-exceeded"},
    ),
    "Slow": ("pictures that take the engine of `troubled` more than a second", {"stage": "infer"}),
    "QueueIsOld": ("three of them wait for one another", {"instance": "troubled"}),
    "ReloadFailed": ("a file that is no model, and SIGHUP to `steady`", {"instance": "steady", "result": "failed"}),
    "ModelsDiffer": ("`other` serves another version", {}),
    "BalancerDown": ("HAProxy is stopped", {}),
    "RequestsLost": ("requests to HAProxy, whose only replica has been killed", {}),
}
"""What makes each alert fire here, and labels that it has then. There is none that only promtool has shown to fire."""

EMPTY_ON_A_GOOD_DAY = {
    'ALERTS{alertstate="firing"}': "nothing fires",
    "sum by (engine) (increase(segdepth_engine_failures_total[5m]))": "no batch has failed",
    "sum by (reason) (increase(segdepth_dropped_total[5m]))": "no picture was dropped",
    "sum by (result) (segdepth_reloads_total)": "nobody has replaced a model",
}
"""Queries of the dashboard that have no data while nothing has gone wrong, and why."""


def hurried(rules: str) -> str:
    """The rules on a clock that runs sixty times as fast: every `for`, window and offset, and nothing else."""

    def faster(found: re.Match[str]) -> str:
        seconds = int(found[2]) * {"s": 1, "m": 60}[found[3]]
        return f"{found[1]}{seconds * 1000 // 60}ms"

    return re.sub(r"(\bfor: |\[|\boffset )(\d+)([sm])\b", faster, rules)


def test_the_faster_clock_changes_durations_and_nothing_else() -> None:
    assert hurried("rate(a[2m]) > (b offset 10m) * 30\nfor: 30s") == (
        "rate(a[2000ms]) > (b offset 10000ms) * 30\nfor: 500ms"
    )
    fast = yaml.safe_load(hurried((FILES / "alerts.yml").read_text()))["groups"][0]["rules"]
    assert [rule["annotations"] for rule in fast] == [rule["annotations"] for rule in RULES]
    assert all(rule.get("for", "0ms").endswith("ms") for rule in fast)


@dataclass
class Prometheus:
    """A running one; its targets are named by who they are."""

    url: str
    targets_file: Path
    names: dict[str, str] = field(default_factory=dict)
    """Of the targets, by their addresses."""
    targets: list[dict[str, Any]] = field(default_factory=list)

    def add(self, name: str, server: Server, *, service: str) -> None:
        """Scrape a replica of the service `cpu` or `gpu` of docker-compose.yml."""
        address = server.url.removeprefix("http://")
        self.names[address] = name
        self.targets.append({"targets": [address], "labels": {"__meta_dns_name": service}})
        new = self.targets_file.with_suffix(".new")
        new.write_text(json.dumps(self.targets))
        new.rename(self.targets_file)

    def query(self, expression: str) -> list[dict[str, Any]]:
        body = httpx.get(f"{self.url}/api/v1/query", params={"query": expression}, timeout=30).json()
        assert body["status"] == "success", f"{expression}: {body}"
        found: list[dict[str, Any]] = body["data"]["result"]
        return found

    def up(self) -> int:
        return len(self.query("up == 1"))

    def firing(self) -> list[dict[str, Any]]:
        alerts = httpx.get(f"{self.url}/api/v1/alerts", timeout=30).json()["data"]["alerts"]
        return [alert for alert in alerts if alert["state"] == "firing"]

    def empty(self) -> set[str]:
        """The queries of the dashboard that have no data now."""
        return {query for query in queries() if not self.query(query.replace("$__rate_interval", "5s"))}


def queries() -> Iterator[str]:
    for panel in DASHBOARD["panels"]:
        yield from (target["expr"] for target in panel.get("targets", []))


@contextmanager
def prometheus(folder: Path, balancer: str) -> Iterator[Prometheus]:
    """One with the configuration of docker-compose.yml: a file names its targets and not Docker's DNS."""
    config = yaml.safe_load((FILES / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "250ms"}
    of_replicas, of_balancer = config["scrape_configs"]
    del of_replicas["dns_sd_configs"]
    of_replicas["file_sd_configs"] = [{"files": ["targets.json"], "refresh_interval": "1s"}]
    of_balancer["static_configs"] = [{"targets": [balancer]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    (folder / "alerts.yml").write_text(hurried((FILES / "alerts.yml").read_text()))
    port = free_port()
    options = [f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}"]
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(
            ["prometheus", f"--config.file={folder / 'prometheus.yml'}", *options], stdout=log, stderr=log
        )
    try:
        found = Prometheus(f"http://127.0.0.1:{port}", folder / "targets.json")
        assert eventually(lambda: httpx.get(f"{found.url}/-/ready").status_code == 200), (
            folder / "prometheus.log"
        ).read_text()
        yield found
    finally:
        process.terminate()
        process.wait(30)


def eventually(condition: Callable[[], bool], timeout_s: float = 30) -> bool:
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        try:
            if condition():
                return True
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    return False


@dataclass
class Day:
    """What was seen."""

    too_early: set[str]
    """Alerts that fired before anything was provoked."""
    empty_before: set[str]
    """Queries of the dashboard without data then."""
    empty_after: set[str]
    """And after all those troubles in which something still ran."""
    broken_rules: list[str]
    live: int
    """What /health/live said when the only device was lost."""
    names: dict[str, str]
    fired: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Alerts by name, as they fired."""

    def wait(self, prometheus: Prometheus, *names: str) -> None:
        """Until these have fired as provoked, or it does not come to it; a test asks for each."""
        eventually(lambda: self.saw(prometheus, *names))

    def saw(self, prometheus: Prometheus, *names: str) -> bool:
        """Look what fires; whether these have fired by now."""
        for alert in prometheus.firing():
            self.fired.setdefault(alert["labels"]["alertname"], []).append(alert)
        return all(self.as_provoked(name) for name in names)

    def as_provoked(self, name: str) -> bool:
        expected = PROVOKED[name][1].items()
        return any(expected <= self.labels(alert).items() for alert in self.fired.get(name, []))

    def labels(self, alert: dict[str, Any]) -> dict[str, str]:
        """An alert's labels, with the name of the instance in place of its address."""
        labels: dict[str, str] = alert["labels"]
        return labels | {"instance": self.names.get(labels.get("instance", ""), "")}


def post(url: str, picture: bytes, **headers: str) -> int:
    try:
        return httpx.post(f"{url}/predict", content=picture, headers=headers, timeout=60).status_code
    except httpx.TransportError:
        return 0


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Day]:
    """A good hour, then all that can go wrong."""
    folder = tmp_path_factory.mktemp("alerts")
    model = write_model(folder / "model.onnx")
    new = write_model(folder / "new.onnx", card_text=json.dumps({**card(), "version": "2"}))
    few = {"SEGDEPTH_QUEUE_SIZE": "4", "SEGDEPTH_MAX_BATCH": "1"}
    with ExitStack() as stack:
        enter = stack.enter_context
        steady = enter(start("--model", str(model), SEGDEPTH_LOG_LEVEL="error"))
        troubled = enter(start(command=OBEDIENT, SEGDEPTH_LOG_LEVEL="error", **few))
        steady.wait_ready()
        troubled.wait_ready()
        balancer = enter(started(folder, steady.port))
        monitor = enter(prometheus(folder, balancer.internal))
        monitor.add("steady", steady, service="cpu")
        monitor.add("troubled", troubled, service="cpu")

        # The good hour: five seconds of the hurried clock, from when everything has been seen.
        assert eventually(lambda: monitor.up() == 3 and not monitor.firing())
        too_early: set[str] = set()
        until = time.monotonic() + 5
        while time.monotonic() < until:
            assert [post(balancer.url, PICTURE), post(troubled.url, PICTURE)] == [200, 200]
            too_early |= {alert["labels"]["alertname"] for alert in monitor.firing()}
            time.sleep(0.1)
        empty_before = monitor.empty()
        groups = httpx.get(f"{monitor.url}/api/v1/rules").json()["data"]["groups"]
        seen = [rule for group in groups for rule in group["rules"]]
        assert len(seen) == len(RULES)
        broken = [rule["name"] for rule in seen if rule["health"] != "ok"]
        found = Day(too_early, empty_before, set(), broken, 0, monitor.names)

        other = enter(start("--model", str(new), SEGDEPTH_LOG_LEVEL="error"))
        other.wait_ready()
        monitor.add("other", other, service="gpu")
        model.write_bytes(b"this is no model")
        steady.process.send_signal(signal.SIGHUP)
        load = enter(ThreadPoolExecutor(8))
        done = False

        def crowd() -> None:
            while not done:
                post(troubled.url, SLOW)
                time.sleep(0.05)

        def hasty() -> None:
            while not done:
                slow = load.submit(post, troubled.url, SLOW)
                time.sleep(0.1)
                # It is let in: by the quick ones before, the wait should be short.
                post(troubled.url, PICTURE, **{"X-Request-Timeout-Ms": "200"})
                slow.result()
                for _ in range(10):
                    post(troubled.url, PICTURE)

        try:
            hurry = load.submit(hasty)
            found.wait(monitor, "Failures")
            done = True
            hurry.result()
            done = False
            for _ in range(6):
                load.submit(crowd)
            found.wait(monitor, "Refusals", "Slow", "QueueIsOld", "ReloadFailed", "ProviderIsCpu")
        finally:
            done = True
        load.shutdown()

        assert [post(troubled.url, FAILING) for _ in range(3)] == [500] * 3
        assert httpx.get(f"{troubled.url}/health/ready").status_code == 503
        found.live = httpx.get(f"{troubled.url}/health/live").status_code
        check_problem(httpx.get(f"{troubled.url}/health/live"), 503)
        assert post(balancer.url, PICTURE) == 200
        found.wait(monitor, "DeviceLost", "ReplicaNotReady", "ModelsDiffer")
        post(balancer.url, PICTURE)
        found.empty_after = monitor.empty()

        other.process.kill()
        steady.process.kill()

        eventually(lambda: post(balancer.url, PICTURE) != 200 and found.saw(monitor, "RequestsLost"))
        found.wait(monitor, "ReplicaUnreachable", "NoReplicaReady")
        balancer.process.terminate()
        found.wait(monitor, "BalancerDown")
        yield found


def test_nothing_fires_while_all_is_well(day: Day) -> None:
    assert day.too_early == set()
    assert day.broken_rules == []


def test_every_query_of_the_dashboard_has_data_or_a_reason_for_having_none(day: Day) -> None:
    assert day.empty_before == EMPTY_ON_A_GOOD_DAY.keys()


def test_every_query_of_the_dashboard_has_data_when_all_that_it_shows_has_happened(day: Day) -> None:
    assert day.empty_after == set()


def test_every_alert_is_provoked() -> None:
    assert list(PROVOKED) == [rule["alert"] for rule in RULES]


@pytest.mark.parametrize("name", PROVOKED)
def test_alert_fires(day: Day, name: str) -> None:
    cause, labels = PROVOKED[name]
    found = [(day.labels(alert), alert["annotations"]) for alert in day.fired.get(name, [])]
    assert day.as_provoked(name), f"{cause}: {labels}, found {found}"


def test_a_replica_without_a_device_is_to_be_restarted(day: Day) -> None:
    assert day.live == 503
