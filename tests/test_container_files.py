"""The container files against each other and against the project. None of it needs Docker."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from image_layers import secrets
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from service_process import Server, environment

from service.routes import router
from service.settings import Settings

ROOT = Path(__file__).parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
HAPROXY = (ROOT / "deploy" / "compose" / "haproxy" / "haproxy.cfg").read_text()
REPLICAS = {name: service for name, service in SERVICES.items() if name in ("gpu", "cpu")}


def lines(name: str) -> list[str]:
    """A file's lines without comments."""
    return [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith("#")]


def dotenv() -> dict[str, str]:
    return dict(line.split("=", 1) for line in lines(".env"))


def requirements() -> Iterator[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"].values()
    for named in [project["build-system"]["requires"], project["project"]["dependencies"], *extras]:
        yield from map(Requirement, named)


def test_constraints_are_exact_and_meet_the_project() -> None:
    pins = [re.fullmatch(r"([\w.-]+)==([\w.!]+)", line) for line in lines("constraints.txt")]
    versions = {canonicalize_name(pin[1]): pin[2] for pin in pins if pin is not None}
    assert len(versions) == len(pins)
    for requirement in requirements():
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement


@pytest.mark.parametrize("name", ["cpu", "gpu", "build"])
def test_the_locks_have_the_versions_of_constraints_and_hashes(name: str) -> None:
    """deploy/lock.sh writes them."""
    constraints = {canonicalize_name(line.partition("==")[0]): line for line in lines("constraints.txt")}
    locked: dict[str, list[str]] = {}
    for line in lines(f"deploy/requirements-{name}.txt"):
        if not line.startswith(" "):
            pin = line.split()[0]
            locked[canonicalize_name(pin.partition("==")[0])] = hashes = []
            assert canonicalize_name(pin.partition("==")[0]) in constraints, f"{pin}: run deploy/lock.sh"
            assert pin.lower() == constraints[canonicalize_name(pin.partition("==")[0])].lower().replace("_", "-")
        elif "--hash" in line:
            hashes.append(line)
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", hash_) for hashes in locked.values() for hash_ in hashes)
    assert all(locked.values())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    if name == "build":
        wanted = project["build-system"]["requires"]
    else:
        wanted = project["project"]["dependencies"] + project["project"]["optional-dependencies"][name]
    assert {canonicalize_name(Requirement(text).name) for text in wanted} <= locked.keys()
    assert "torch" not in locked


def test_only_locked_packages_are_installed() -> None:
    installs = re.findall(r"pip (?:--python \S+ )?(?:install|wheel) (.+?)(?: \\\n|\n)", DOCKERFILE)
    assert len(installs) == 5
    assert all(
        "--require-hashes" in line or "--no-index" in line or "--no-build-isolation" in line for line in installs
    )
    for name in ("cpu", "gpu", "build"):
        assert f"COPY deploy/requirements-{name}.txt requirements.txt" in DOCKERFILE


def test_the_image_is_built_from_files_that_the_context_has() -> None:
    included = [line.removeprefix("!") for line in lines(".dockerignore") if line.startswith("!")]
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    }
    assert {source for source in copied if not source.startswith("deploy/")} == set(included)
    assert all((ROOT / source).exists() for source in copied)
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert copied.issuperset(packages["packages"])


def test_the_image_serves_as_nobody() -> None:
    stages = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]
    runtime = next(stage for stage in stages if stage.startswith("${BASE} AS runtime\n"))
    assert re.search(r"^USER \d{5}:\d{5}$", runtime, re.MULTILINE)
    assert "\nEXPOSE 8000\n" in runtime
    for service in REPLICAS.values():
        target = service["build"]["target"]
        [stage] = [stage for stage in stages if stage.startswith(f"runtime AS {target}\n")]
        assert "USER" not in stage
        assert "RUN" not in stage
    assert stages[-1].strip() == "cpu"


def test_profiles() -> None:
    assert dotenv()["COMPOSE_PROFILES"] == "gpu"
    assert {name: service.get("profiles") for name, service in SERVICES.items()} == {
        "gpu": ["gpu"],
        "cpu": ["cpu"],
        "balancer": None,
        "prometheus": None,
        "grafana": None,
    }
    [device] = SERVICES["gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"
    assert device["capabilities"] == ["gpu"]
    assert "resources" not in SERVICES["cpu"]["deploy"]


@pytest.mark.parametrize("name", SERVICES)
def test_services_are_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {"mem_limit", "pids_limit", "restart", "logging"} <= service.keys()
    assert {"max-size", "max-file"} <= service["logging"]["options"].keys()
    assert "privileged" not in service
    # Written to is what Prometheus keeps, and nothing else.
    assert [v for v in service.get("volumes", []) if not v.endswith(":ro")] == (
        ["prometheus:/prometheus"] if name == "prometheus" else []
    )


def test_only_the_balancer_is_reached_by_other_hosts_and_only_if_asked() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {
        "balancer": ["${SEGDEPTH_HOST:-127.0.0.1}:${SEGDEPTH_PORT:-8000}:8000"],
        "prometheus": ["127.0.0.1:${PROMETHEUS_PORT:-9090}:9090"],
        "grafana": ["127.0.0.1:${GRAFANA_PORT:-3000}:3000"],
    }
    assert COMPOSE["networks"] == {"outside": None, "inside": {"internal": True}}
    for service in REPLICAS.values():
        assert service["networks"] == {"inside": {"aliases": ["segdepth"]}}


def test_files_that_are_mounted_exist() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            if volume.startswith("./"):
                assert (ROOT / volume.partition(":")[0]).is_dir()
    default = COMPOSE["secrets"]["api_keys"]["file"].partition(":-")[2].rstrip("}")
    assert all(line.startswith("#") for line in (ROOT / default).read_text().splitlines())


@pytest.mark.parametrize("name", REPLICAS)
def test_every_setting_can_be_given_to_compose(name: str) -> None:
    # Host and port are those of the publishing; the device is the image's.
    settings = {f"SEGDEPTH_{field.upper()}" for field in Settings.model_fields}
    assert set(passed(name)) - {"FORWARDED_ALLOW_IPS"} == settings - {
        "SEGDEPTH_HOST",
        "SEGDEPTH_PORT",
        "SEGDEPTH_DEVICE",
    }


def passed(name: str) -> dict[str, str]:
    """The variables of a service's environment, with their values."""
    return {entry.partition("=")[0]: entry.partition("=")[2] for entry in SERVICES[name]["environment"]}


def default(name: str, variable: str) -> float:
    """What a service's environment has for a number that neither the shell nor .env gives."""
    return float(passed(name)[variable].removeprefix(f"${{{variable}:-").removesuffix("}"))


@pytest.mark.parametrize("name", REPLICAS)
def test_stopping_waits_for_accepted_requests(name: str) -> None:
    grace_s, drain_s = default(name, "SEGDEPTH_GRACE_S"), default(name, "SEGDEPTH_DRAIN_S")
    for service in (name, "balancer"):
        assert int(SERVICES[service]["stop_grace_period"].removesuffix("s")) > grace_s
    # The last request may come just before the end of the drain.
    assert int(grace_s - drain_s - 1) >= Settings(_env_file=None).timeout_s


@pytest.mark.parametrize("name", REPLICAS)
def test_a_replica_that_lost_its_devices_ends_so_that_docker_restarts_it(name: str) -> None:
    """Docker looks at the end of a container and not at its health."""
    assert SERVICES[name]["restart"] == "unless-stopped"
    assert passed(name)["SEGDEPTH_EXIT_WHEN_LOST"] == "${SEGDEPTH_EXIT_WHEN_LOST:-true}"
    assert Settings(exit_when_lost=True).exit_when_lost and not Settings().exit_when_lost


@pytest.mark.parametrize("name", REPLICAS)
def test_the_balancer_sees_a_replica_going_before_it_is_gone(name: str) -> None:
    drain_s = default(name, "SEGDEPTH_DRAIN_S")
    checks = re.search(r"inter 1s fastinter 500ms fall 2", HAPROXY)
    assert checks and drain_s > 1 + 0.5


def test_the_balancer_is_more_patient_than_the_service() -> None:
    settings = Settings(_env_file=None)
    seconds = {
        name: float(number) for name, number in re.findall(r"^    timeout ([a-z-]+) (\d+)s$", HAPROXY, re.MULTILINE)
    }
    assert seconds["server"] > settings.max_timeout_s
    assert min(seconds["client"], seconds["http-request"]) > settings.transfer_timeout_s
    assert "server-template replica 16 segdepth:8000 " in HAPROXY


def test_compose_reads_it() -> None:
    command = compose_command()
    if command is None:
        pytest.skip("needs Docker Compose")
    for profile in REPLICAS:
        env = {**environment(), "COMPOSE_PROFILES": profile}
        done = subprocess.run([*command, "config"], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert "WARN" not in done.stderr.upper(), done.stderr


def compose_command() -> list[str] | None:
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    if shutil.which("docker") and not subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        return ["docker", "compose"]
    return None


def test_env_is_committed_and_has_no_other_variables_than_compose_reads() -> None:
    assert ".env" not in (ROOT / ".gitignore").read_text().split()
    read = set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text()))
    commented = re.findall(r"^#(\w+)=", (ROOT / ".env").read_text(), re.MULTILINE)
    assert set(commented) <= read | set(passed("gpu"))
    assert read <= set(commented)


def health(*arguments: str, port: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deploy.health", *arguments]
    env = environment(SEGDEPTH_PORT=str(port), http_proxy="http://127.0.0.1:9")
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=30)


@pytest.mark.parametrize("probe", ["live", "ready"])
def test_health_check_of_a_server(server: Server, probe: str) -> None:
    assert f"/health/{probe}" in {getattr(route, "path", None) for route in router.routes}
    answer = health(probe, port=server.port)
    assert answer.returncode == 0, answer.stderr
    assert " 200 " in answer.stdout


def test_health_check_beside_a_kubernetes_service_of_that_name() -> None:
    env = environment(SEGDEPTH_PORT="tcp://10.0.0.1:8000")
    command = [sys.executable, "-m", "deploy.health", "live"]
    answer = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=30)
    assert "Traceback" not in answer.stderr


def test_health_check_without_a_server() -> None:
    answer = health("live", port=9)
    assert answer.returncode == 1
    assert answer.stderr.startswith("no answer: ")
    assert health("well", port=9).returncode == 1


def test_health_checks_are_used() -> None:
    assert '"-m", "deploy.health", "live"]' in DOCKERFILE
    for service in REPLICAS.values():
        assert service["healthcheck"]["test"] == ["CMD", "python3", "-m", "deploy.health", "ready"]


def test_secrets_in_layers_are_found() -> None:
    """tests/compose_trial.py looks so through the image that it has built."""
    fine = {
        "opt/segdepth/lib/service/app.py": b"x = 'https://example.org:8000/a@b.org'",
        "etc/ssl/certs/ca.pem": b"-----BEGIN CERTIFICATE-----\n" + b"A" * 64,
        "opt/font.py": b"AAAA" + b"AKIA" + b"Q" * 16 + b"AAAA",
        "opt/keys/__init__.py": b"",
    }
    bad = {
        "root/.netrc": b"",
        "src/.git/config": b"",
        "etc/tls/server.key": b"",
        "tmp/a.txt": b"-----BEGIN RSA PRIVATE KEY-----\n" + b"A" * 64,
        "tmp/b.txt": b"id = " + b"AKIA" + b"Q" * 16 + b"\n",
        "tmp/c.txt": b"index-url = https://user:password1@" + b"packages.example.org/simple",
        "tmp/d.txt": b"ghp_" + b"a1" * 18,
    }
    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w") as layer:
            for name, content in (fine | bad).items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                layer.addfile(member, io.BytesIO(content))
        file.seek(0)
        with tarfile.open(fileobj=file) as layer:
            found = list(secrets(layer))
    assert [line.partition(":")[0] for line in found] == list(bad)
