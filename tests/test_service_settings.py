"""service/settings.py"""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from service.errors import StartupError
from service.settings import Settings


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


def test_frozen_and_strict() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1
    with pytest.raises(ValidationError):
        Settings(max_pixel=5)


@pytest.mark.parametrize(
    ("device", "devices"), [("cpu", ["cpu"]), ("cuda:1", ["cuda:1"]), ("cuda,cuda:3,cpu", ["cuda", "cuda:3", "cpu"])]
)
def test_devices(device: str, devices: list[str]) -> None:
    assert Settings.load(device=device).devices == devices
