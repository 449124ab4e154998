"""The container files against each other and against the project. None of it needs Docker."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from service_process import Server, environment

from service.routes import router
from service.settings import Settings

ROOT = Path(__file__).parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


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
    pins = [re.fullmatch(r"([\w.-]+)==([\w.]+)", line) for line in lines("constraints.txt")]
    versions = {canonicalize_name(pin[1]): pin[2] for pin in pins if pin is not None}
    assert len(versions) == len(pins)
    for requirement in requirements():
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement


def test_the_image_is_built_from_files_that_the_context_has() -> None:
    included = [line.removeprefix("!") for line in lines(".dockerignore") if line.startswith("!")]
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    }
    assert copied == set(included)
    assert all((ROOT / source).exists() for source in copied)
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert copied.issuperset(packages["packages"])


def test_the_image_serves_as_nobody() -> None:
    stages = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]
    runtime = next(stage for stage in stages if stage.startswith("${BASE} AS runtime\n"))
    assert re.search(r"^USER \d{5}:\d{5}$", runtime, re.MULTILINE)
    assert "\nEXPOSE 8000\n" in runtime
    for service in SERVICES.values():
        target = service["build"]["target"]
        [stage] = [stage for stage in stages if stage.startswith(f"runtime AS {target}\n")]
        assert "USER" not in stage
        assert "RUN" not in stage
    assert stages[-1].strip() == "cpu"


def test_profiles() -> None:
    assert dotenv()["COMPOSE_PROFILES"] == "gpu"
    assert {name: service["profiles"] for name, service in SERVICES.items()} == {"gpu": ["gpu"], "cpu": ["cpu"]}
    [device] = SERVICES["gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"
    assert device["capabilities"] == ["gpu"]
    assert "deploy" not in SERVICES["cpu"]


@pytest.mark.parametrize("name", SERVICES)
def test_services_are_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["ports"] == ["${SEGDEPTH_HOST:-127.0.0.1}:${SEGDEPTH_PORT:-8000}:8000"]
    assert all(volume.endswith(":ro") for volume in service["volumes"])
    assert {"mem_limit", "pids_limit", "restart", "logging"} <= service.keys()
    assert "privileged" not in service


@pytest.mark.parametrize("name", SERVICES)
def test_every_setting_can_be_given_to_compose(name: str) -> None:
    # Host and port are those of the publishing; the device is the image's.
    settings = {f"SEGDEPTH_{field.upper()}" for field in Settings.model_fields}
    assert set(SERVICES[name]["environment"]) == settings - {"SEGDEPTH_HOST", "SEGDEPTH_PORT", "SEGDEPTH_DEVICE"}


@pytest.mark.parametrize("name", SERVICES)
def test_stopping_waits_for_accepted_requests(name: str) -> None:
    settings = Settings(_env_file=None)
    assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) > settings.grace_s > settings.timeout_s


def test_env_is_committed_and_has_no_other_variables_than_compose_reads() -> None:
    assert ".env" not in (ROOT / ".gitignore").read_text().split()
    read = set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text()))
    passed = set(SERVICES["gpu"]["environment"])
    commented = re.findall(r"^#(\w+)=", (ROOT / ".env").read_text(), re.MULTILINE)
    assert set(commented) <= read | passed
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
    for service in SERVICES.values():
        assert service["healthcheck"]["test"] == ["CMD", "python3", "-m", "deploy.health", "ready"]
