"""The compose file on this machine, under load, while replicas are killed, replaced and given another model.

    python tests/compose_trial.py                   # images from the registry; needs Docker and Docker Compose
    python tests/compose_trial.py --stand-in base   # without one: `base` is a folder of debootstrap (CONTRIBUTING.md)
    python tests/compose_trial.py --model service/bundled/segdepth.onnx --clients 4     # not with a tiny model

The image is looked through for what should not be in it. Then clients send pictures through the balancer all the time,
each waits for its answer, sends nothing twice, and checks that the answer is that of its own picture. Meanwhile

1. `kill`: one of two replicas is killed with SIGKILL;
2. `roll`: deploy/compose/roll.sh replaces both, one by one;
3. `model`: another model file is put in place and the replicas told with SIGHUP.

Then every query of the dashboard and of the alerts is put to Prometheus, a broken model and the stop of all replicas
have to raise their alerts (tests/test_alerts.py has the others), and tests of the service are sent to a container
(tests/test_container.py). It prints a table and ends with 1 if a request was lost or anything else is not as it should
be.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import image_layers
import onnx
import yaml
from PIL import Image
from service_client import encode, quadrants
from service_onnx import write_model

from service.card import METADATA_KEY

ROOT = Path(__file__).parent.parent
PROJECT = "segdepth-trial"
PORT, PROMETHEUS_PORT = 18100, 18190
URL = f"http://127.0.0.1:{PORT}"
PREDICT = "/predict?pictures=false"
BASE = "python:3.11-slim"
OF_THE_IMAGE = {"PATH", "HOME", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"}
"""Variables that the Dockerfile sets."""
# What has no data on a day on which nothing goes wrong.
MAY_BE_EMPTY = ["segdepth_engine_failures_total", "segdepth_dropped_total", "ALERTS{"]


def run(*command: str, timeout_s: float = 1800, **variables: str) -> str:
    """A command's output; if it fails, its errors end the trial."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def wait(what: str, check: Callable[[], bool], timeout_s: float = 600) -> float:
    """Until it is so; the seconds it took."""
    start = time.monotonic()
    while time.monotonic() - start < timeout_s:
        try:
            if check():
                return time.monotonic() - start
        except (httpx.HTTPError, KeyError, IndexError):
            pass
        time.sleep(0.5)
    sys.exit(f"not within {timeout_s:g} s: {what}")


# --- Docker


class Compose:
    """docker-compose.yml with the profile `cpu`, on ports of its own."""

    def __init__(self, models: Path, services: list[str]) -> None:
        self.services = services
        self.command = "docker compose" if shutil.which("docker-compose") is None else "docker-compose"
        self.variables = {
            "COMPOSE": self.command,
            "COMPOSE_PROJECT_NAME": PROJECT,
            "COMPOSE_PROFILES": "cpu",
            "REPLICAS": "2",
            "SEGDEPTH_HOST": "127.0.0.1",
            "SEGDEPTH_PORT": str(PORT),
            "PROMETHEUS_PORT": str(PROMETHEUS_PORT),
            "MODELS_DIR": str(models),
            "SEGDEPTH_MODEL": "/models/model.onnx",
            "SEGDEPTH_THREADS": "1",
            "SEGDEPTH_LOG_LEVEL": "warning",
        }

    def __call__(self, *arguments: str) -> str:
        return run(*self.command.split(), *arguments, **self.variables)

    @staticmethod
    def replicas() -> list[str]:
        mine = f"label=com.docker.compose.project={PROJECT}"
        return run("docker", "ps", "-q", "--no-trunc", "-f", mine, "-f", "label=com.docker.compose.service=cpu").split()


def import_stand_ins(base: Path, changes: list[str]) -> None:
    """Images of a folder with Debian in it, in place of those that compose would pull; never over existing ones."""
    images = {
        service["image"] for service in yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"].values()
    }
    entry = {"prom": ['ENTRYPOINT ["/usr/bin/prometheus"]', "USER 65534"], "haproxy": ["USER 99"]}
    for name in [BASE, *sorted(images)]:
        kind = name.partition(":")[0].partition("/")[0]
        if kind in ("segdepth", "grafana") or run("docker", "images", "-q", name):
            continue
        options = [f"--change={change}" for change in [*entry.get(kind, ['CMD ["python3"]']), *changes]]
        tar = subprocess.Popen(["tar", "-C", str(base), "-c", "."], stdout=subprocess.PIPE)
        subprocess.run(
            ["docker", "import", *options, "-", name], stdin=tar.stdout, check=True, stdout=subprocess.DEVNULL
        )
        assert tar.wait() == 0


def build(stand_in: bool) -> None:
    # Where the base is a stand-in there is usually no network for containers either.
    network = ["--network", "host"] if stand_in else []
    run("docker", "build", *network, "--target", "cpu", "-t", "segdepth:cpu", ".")


def inspect_image() -> None:
    """What must not be in the image is not, and what fills it."""
    history = run("docker", "history", "--no-trunc", "--format", "{{.CreatedBy}}", "segdepth:cpu")
    words = ("password", "passwd", "secret", "token", "api_key", "credential", "://")
    assert not [word for word in words if word in history.lower()], history
    base = json.loads(run("docker", "inspect", "-f", "{{json .Config.Env}}", BASE))
    added = set(json.loads(run("docker", "inspect", "-f", "{{json .Config.Env}}", "segdepth:cpu"))) - set(base)
    assert {variable.partition("=")[0] for variable in added} <= OF_THE_IMAGE, added
    count, found = image_layers.of_image("segdepth:cpu", BASE)
    assert not found, found
    print(f"image: no secrets in its history, its variables and its {count} layers")
    script = """
import importlib.metadata, json, os, shutil, subprocess
assert os.getuid() == 10001, os.getuid()
assert not [tool for tool in ("gcc", "cc", "g++", "make", "ld") if shutil.which(tool)]
packages = "/opt/segdepth/lib/python3.11/site-packages"
found = importlib.metadata.distributions(path=[packages])
names = sorted(f"{d.metadata['Name'].lower().replace('_', '-')}=={d.version}" for d in found)
usage = f"du -sm {packages}/* | sort -rn | head -8; du -sm /opt/segdepth; du -smx / 2>/dev/null"
print(json.dumps([names, subprocess.run(usage, shell=True, capture_output=True, text=True).stdout]))
"""
    names, sizes = json.loads(run("docker", "run", "--rm", "--entrypoint", "python3", "segdepth:cpu", "-c", script))
    lock = (ROOT / "deploy" / "requirements-cpu.txt").read_text()
    locked = {line.split()[0].lower() for line in lock.splitlines() if line[:1].isalnum()}
    assert {name for name in names if not name.startswith("segdepth==")} == locked, (names, locked)
    print(f"image: exactly the {len(locked)} locked packages and segdepth\n{sizes}", flush=True)


# --- clients


def known(client: int) -> list[tuple[bytes, dict[str, Any]]]:
    """A client's pictures, pieces of a photo of which no two have the same size, and their answers on a quiet day."""
    found = []
    with Image.open(ROOT / "docs" / "example.jpg") as photo:
        for width, height in [(600 + 10 * client + k, 400 + k) for k in range(7)]:
            left, top = width % (photo.width - width), height % (photo.height - height)
            picture = encode(photo.crop((left, top, left + width, top + height)), "JPEG")
            answer = httpx.post(URL + PREDICT, content=picture, timeout=120).raise_for_status()
            found.append((picture, answer.json()))
    return found


@dataclass
class Load:
    """Clients, each sending one picture after the other; what became of each, by phase."""

    pause_s: float
    """Of a client between an answer and its next request."""
    phase: str = "before"
    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    slowest_s: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _end: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self, clients: int) -> Iterator[None]:
        threads = [threading.Thread(target=self._client, args=(number, known(number))) for number in range(clients)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._end.set()
            for thread in threads:
                thread.join()

    def _client(self, number: int, pictures: list[tuple[bytes, dict[str, Any]]]) -> None:
        sent = 0
        with httpx.Client(base_url=URL, timeout=120) as client:
            while not self._end.is_set():
                picture, expected = pictures[sent % len(pictures)]
                sent += 1
                phase, start = self.phase, time.monotonic()
                request_id = f"trial-{number}-{sent}"
                try:
                    answer = client.post(PREDICT, content=picture, headers={"X-Request-ID": request_id})
                except httpx.HTTPError as error:
                    outcome = repr(error)
                else:
                    outcome = self._judge(answer, expected, request_id)
                seconds = time.monotonic() - start
                with self._lock:
                    self.outcomes.setdefault(phase, Counter())[outcome] += 1
                    self.slowest_s[phase] = max(self.slowest_s.get(phase, 0), seconds)
                time.sleep(self.pause_s)

    @staticmethod
    def _judge(answer: httpx.Response, expected: dict[str, Any], request_id: str) -> str:
        if answer.status_code != 200:
            return f"{answer.status_code} {answer.text[:200]}"
        body = answer.json()
        same = [body[name] == expected[name] for name in ("height", "width", "segmentation", "depth", "camera")]
        if not all(same):
            return "another picture's answer"
        return "answered" if answer.headers["X-Request-ID"] == request_id else "another request's id"

    def report(self) -> bool:
        """Print the table; whether nothing was lost."""
        print("| phase | requests | answered | lost | slowest (s) |\n|---|---|---|---|---|")
        for phase, outcomes in self.outcomes.items():
            total, answered = outcomes.total(), outcomes["answered"]
            print(f"| {phase} | {total} | {answered} | {total - answered} | {self.slowest_s[phase]:.2f} |")
        lost = sum(self.outcomes.values(), Counter[str]())
        del lost["answered"]
        for outcome, count in lost.items():
            print(f"{count} x {outcome}")
        return not lost


# --- Prometheus


def query(expression: str) -> list[dict[str, Any]]:
    response = httpx.get(f"http://127.0.0.1:{PROMETHEUS_PORT}/api/v1/query", params={"query": expression}, timeout=30)
    if response.status_code == 503:  # It starts.
        response.raise_for_status()
    body = response.json()
    assert body["status"] == "success", f"{expression}: {body}"
    result: list[dict[str, Any]] = body["data"]["result"]
    return result


def value(expression: str) -> float:
    return float(query(expression)[0]["value"][1])


def firing() -> set[str]:
    return {alert["metric"]["alertname"] for alert in query('ALERTS{alertstate="firing"}')}


def panel_queries() -> Iterator[tuple[str, str]]:
    dashboard = json.loads((ROOT / "deploy/compose/grafana/dashboards/segdepth.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"].replace("$__rate_interval", "5m")


def check_queries() -> bool:
    """Every query of the dashboard is understood by Prometheus and has data, or may have none today."""
    right = True
    count = 0
    for title, expression in panel_queries():
        count += 1
        if not query(expression):
            expected = any(name in expression for name in MAY_BE_EMPTY)
            print(f"panel '{title}' is empty{', as it should be' if expected else ''}: {expression}")
            right &= expected
    rules = httpx.get(f"http://127.0.0.1:{PROMETHEUS_PORT}/api/v1/rules", timeout=30).json()["data"]["groups"]
    wrong = [rule["name"] for group in rules for rule in group["rules"] if rule["health"] != "ok"]
    print(f"{count} queries of the dashboard, {sum(len(group['rules']) for group in rules)} alerts, broken: {wrong}")
    return right and not wrong


# --- the trial


def kill(container: str) -> None:
    """SIGKILL from inside, as by the kernel: `docker kill` would count as a stop, after which nothing is restarted."""
    script = """
import os, pathlib, signal
for process in pathlib.Path("/proc").glob("[0-9]*"):
    if int(process.name) not in (1, os.getpid()):
        os.kill(int(process.name), signal.SIGKILL)
"""
    run("docker", "exec", container, "python3", "-c", script)


def put_model(models: Path, source: Path | None, version: str | None) -> None:
    """`source`, or a tiny model, as that version in place of the old one, by renaming; version None: a broken one."""
    new = models / "new.onnx"
    if version is None:
        new.write_bytes(b"this is no model")
    else:
        model = onnx.load(source or write_model(new))
        [card] = [entry for entry in model.metadata_props if entry.key == METADATA_KEY]
        card.value = json.dumps({**json.loads(card.value), "version": version})
        onnx.save(model, new)
    new.chmod(0o644)
    new.rename(models / "model.onnx")


def replicas_are_ready(count: int) -> bool:
    up = 'haproxy_backend_agg_server_check_status{proxy="replicas",state="UP"}'
    return value("sum(segdepth_ready)") == count and value(up) == count


def under_load(compose: Compose, models: Path, source: Path | None, load: Load, pause_s: float) -> None:
    time.sleep(pause_s)
    load.phase = "kill"
    kill(compose.replicas()[0])
    time.sleep(10)
    seconds = wait("the killed replica is back", lambda: replicas_are_ready(2))
    print(f"killed: both replicas answer again after {10 + seconds:.0f} s", flush=True)

    load.phase = "roll"
    start = time.monotonic()
    old = set(compose.replicas())
    run("deploy/compose/roll.sh", "cpu", **compose.variables)
    assert len(compose.replicas()) == 2 and not old & set(compose.replicas())
    print(f"rolled: both replicas are new after {time.monotonic() - start:.0f} s", flush=True)
    wait("both are seen", lambda: replicas_are_ready(2))

    load.phase = "model"
    put_model(models, source, "2")
    run("docker", "kill", "-s", "HUP", *compose.replicas())
    seconds = wait("version 2 serves", lambda: value('count(segdepth_model_info{version="2"})') == 2)
    print(f"model: version 2 serves after {seconds:.0f} s", flush=True)
    load.phase = "after"
    time.sleep(pause_s)


def container_passes_the_tests_of_the_service() -> bool:
    """tests/test_container.py: bad input, clients that mean no good, and the stop, from outside."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_container.py"]
    environment = {**os.environ, "SEGDEPTH_TEST_IMAGE": "segdepth:cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    print("container:", done.stdout.splitlines()[-1])
    if done.returncode:
        print(done.stdout[-6000:])
    return done.returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stand-in", type=Path, help="folder with Debian: python3, pip, venv, haproxy, prometheus")
    parser.add_argument("--change", action="append", default=[], help="of the stand-in images, as for docker import")
    parser.add_argument("--no-build", action="store_true", help="take segdepth:cpu as it is")
    parser.add_argument("--model", type=Path, help="ONNX file to serve (a tiny one)")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--think", type=float, default=0.0, help="seconds of a client between two requests")
    parser.add_argument("--pause", type=float, default=15, help="seconds of load before and after")
    options = parser.parse_args()

    services = ["cpu", "balancer", "prometheus"]
    if options.stand_in:
        import_stand_ins(options.stand_in, options.change)
    else:
        services.append("grafana")
    if not options.no_build:
        build(options.stand_in is not None)
    inspect_image()
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder)
        models.chmod(0o755)
        put_model(models, options.model, "1")
        compose = Compose(models, services)
        try:
            compose("up", "-d", "--scale", "cpu=2", *services)
            seconds = wait("two replicas behind the balancer", lambda: replicas_are_ready(2))
            print(f"up: two replicas answer after {seconds:.0f} s", flush=True)
            load = Load(options.think)
            with load.running(options.clients):
                under_load(compose, models, options.model, load, options.pause)
            right = load.report()
            retried = 'sum(max_over_time(haproxy_backend_retry_warnings_total{proxy="replicas"}[1h]))'
            print(f"sent again by the balancer: {value(retried):g}")
            right &= check_queries()
            if unexpected := firing() - {"ReplicaUnreachable", "Slow"}:
                print("alerts without a reason:", unexpected)
                right = False

            put_model(models, None, None)
            run("docker", "kill", "-s", "HUP", *compose.replicas())
            print(f"ReloadFailed fires after {wait('alert', lambda: 'ReloadFailed' in firing()):.0f} s", flush=True)
            assert httpx.post(f"{URL}/predict", content=encode(quadrants()), timeout=60).status_code == 200
            run("docker", "stop", *compose.replicas())
            print(f"NoReplicaReady fires after {wait('alert', lambda: 'NoReplicaReady' in firing()):.0f} s", flush=True)
            answer = httpx.post(f"{URL}/predict", content=b"x", timeout=60)
            assert (answer.status_code, answer.headers["retry-after"], answer.json()["status"]) == (503, "2", 503)
        finally:
            compose("down", "-v", "--remove-orphans")
    right &= container_passes_the_tests_of_the_service()
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
