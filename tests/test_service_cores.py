"""service/cores.py: no more threads than cores, and than the container's share."""

from __future__ import annotations

from pathlib import Path

import pytest

from service import cores


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max 100000\n", 8),
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),  # one and a half
        ("10000 100000\n", 1),
        ("6400000 100000\n", 8),
        ("", 8),
        ("100000 0\n", 8),
        (None, 8),
    ],
)
def test_a_container_s_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, expected: int) -> None:
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda pid: set(range(8)))
    if text is not None:
        (tmp_path / "cpu.max").write_text(text)
    assert cores.usable_cores(tmp_path) == expected


@pytest.mark.parametrize(
    ("quota", "expected"), [("-1\n", 8), ("200000\n", 2), ("150000\n", 2), ("10000\n", 1), ("0", 8), ("", 8), (None, 8)]
)
def test_a_container_s_share_by_version_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str | None, expected: int
) -> None:
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda pid: set(range(8)))
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    if quota is not None:
        (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    assert cores.usable_cores(tmp_path) == expected
