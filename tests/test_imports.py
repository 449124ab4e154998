"""The rooms of the house keep to themselves: who may import whom."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_import_contracts_hold() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 kept, 0 broken" in done.stdout


@pytest.mark.parametrize("package", ["service", "model", "training", "deploy"])
def test_packages_are_empty_inside(package: str) -> None:
    # An import in __init__.py would be part of every import of the package, torch among it.
    assert (ROOT / package / "__init__.py").read_text() == ""
