"""service/settings.py"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from service.errors import StartupError
from service.settings import Settings, kubernetes_variables


def test_defaults() -> None:
    settings = Settings.load()
    assert (settings.host, settings.port, settings.device) == ("127.0.0.1", 8000, "cpu")
    assert (settings.max_pixels, settings.max_bytes) == (50_000_000, 32 * 1024 * 1024)
    assert settings.model.parts[-3:] == ("service", "bundled", "segdepth.onnx")
    assert settings.model.is_absolute()


def test_environment_and_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGDEPTH_PORT", "9000")
    monkeypatch.setenv("SEGDEPTH_MODEL", "other.onnx")
    monkeypatch.setenv("SEGDEPTH_MAX_BATCH", "3")
    settings = Settings.load(port="9001")
    assert (settings.port, settings.model, settings.max_batch) == (9001, Path("other.onnx"), 3)


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("SEGDEPTH_MAX_PIXEL", "5", "unknown setting SEGDEPTH_MAX_PIXEL"),
        ("segdepth_colour", "5", "unknown setting segdepth_colour"),
        ("SEGDEPTH_PORT", "http", "SEGDEPTH_PORT"),
        ("SEGDEPTH_PORT", "70000", "SEGDEPTH_PORT"),
        ("SEGDEPTH_DEVICE", "tpu", "SEGDEPTH_DEVICE"),
        ("SEGDEPTH_DEVICE", "cuda:0,", "SEGDEPTH_DEVICE"),
        ("SEGDEPTH_DEVICE", "cuda:x", "SEGDEPTH_DEVICE"),
        ("SEGDEPTH_MAX_BATCH", "0", "SEGDEPTH_MAX_BATCH"),
        ("SEGDEPTH_DRAIN_S", "31", "drain_s is not smaller than grace_s"),
        ("SEGDEPTH_GRACE_S", "inf", "SEGDEPTH_GRACE_S"),
        ("SEGDEPTH_TRANSFER_TIMEOUT_S", "nan", "SEGDEPTH_TRANSFER_TIMEOUT_S"),
        ("SEGDEPTH_PIXEL_WORKERS", "-1", "SEGDEPTH_PIXEL_WORKERS"),
        ("SEGDEPTH_LOG_FORMAT", "xml", "SEGDEPTH_LOG_FORMAT"),
        ("SEGDEPTH_TIMEOUT_S", "121", "timeout_s is larger than max_timeout_s"),
    ],
)
def test_refused(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, reason: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(StartupError) as caught:
        Settings.load()
    line = str(caught.value)
    assert line.startswith("segdepth: ")
    assert reason in line
    assert "\n" not in line


KUBERNETES = {
    "SEGDEPTH_SERVICE_HOST": "10.0.0.1",
    "SEGDEPTH_SERVICE_PORT": "8000",
    "SEGDEPTH_SERVICE_PORT_HTTP": "8000",
    "SEGDEPTH_PORT": "tcp://10.0.0.1:8000",
    "SEGDEPTH_PORT_8000_TCP": "tcp://10.0.0.1:8000",
    "SEGDEPTH_PORT_8000_TCP_PROTO": "tcp",
    "SEGDEPTH_PORT_8000_TCP_PORT": "8000",
    "SEGDEPTH_PORT_8000_TCP_ADDR": "10.0.0.1",
    "SEGDEPTH_GPU_PORT": "udp://10.0.0.2:8000",
    "SEGDEPTH_GPU_SERVICE_HOST": "10.0.0.2",
    "SEGDEPTH_GPU_PORT_53_UDP_ADDR": "10.0.0.2",
}


def test_variables_of_a_kubernetes_service_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kubernetes_variables() == []
    for name, value in KUBERNETES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SEGDEPTH_MAX_BATCH", "3")
    assert (Settings.load().port, Settings.load().max_batch) == (8000, 3)
    assert Settings.load(port="9001").port == 9001
    assert kubernetes_variables() == sorted(KUBERNETES)
    monkeypatch.setenv("SEGDEPTH_PORT", "9000")
    assert Settings.load().port == 9000
    assert "SEGDEPTH_PORT" not in kubernetes_variables()
    monkeypatch.setenv("SEGDEPTH_GPU_PORT", "9000")
    with pytest.raises(StartupError, match="unknown setting SEGDEPTH_GPU_PORT"):
        Settings.load()


def test_frozen_and_strict() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1
    with pytest.raises(ValidationError):
        Settings(max_pixel=5)


@pytest.mark.parametrize(
    ("device", "devices"),
    [("cpu,cpu", ["cpu", "cpu"]), ("cuda:1", ["cuda:1"]), ("openvino,cuda:3,cpu", ["openvino", "cuda:3", "cpu"])],
)
def test_devices(device: str, devices: list[str]) -> None:
    assert Settings.load(device=device).devices == devices


def test_a_cpu_has_engines_for_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    engines = {}
    for cores in (1, 2, 8, 9, 12, 15, 23, 64):
        monkeypatch.setattr("service.settings.usable_cores", lambda cores=cores: cores)
        assert set(Settings().devices) == {"cpu"}
        engines[cores] = len(Settings().devices)
    # As many as leave few cores idle: 12 are 6 of 2 threads, not 8 of one.
    assert engines == {1: 1, 2: 2, 8: 8, 9: 4, 12: 6, 15: 7, 23: 7, 64: 8}
    assert Settings(threads=4).devices == ["cpu"]


def test_the_documentation_has_every_setting_with_its_default() -> None:
    table = (Path(__file__).parent.parent / "docs" / "operations.md").read_text()
    documented = dict(re.findall(r"^\| `SEGDEPTH_(\w+)` \| (.*?) ?\|", table, re.MULTILINE))
    defaults = {
        name.upper(): "" if field.default in (None, "") else f"`{field.default}`"
        for name, field in Settings.model_fields.items()
    }
    defaults["MODEL"] = "the bundled model"
    assert documented == defaults
