"""The compiled loops give to the bit what NumPy gives."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hatchling.bridge.app import Application
from hypothesis import given, settings
from hypothesis import strategies as st

import hatch_build
from service import images, kernels, measures
from service.kernels import ByClass

HAS_COMPILER = shutil.which("cc") is not None
compiled = pytest.mark.skipif(kernels.compiled is None and not HAS_COMPILER, reason="there is no C compiler")
"""With one the installation has compiled them, or something is wrong."""

sides = st.integers(1, 70)
sizes = st.tuples(sides, sides)
seeds = st.integers(0, 2**32 - 1)


def in_numpy(call: Callable[[], Any]) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "compiled", None)
        return call()


def agree(call: Callable[[], Any]) -> None:
    assert kernels.compiled is not None, kernels.why_not
    ours, numpys = call(), in_numpy(call)
    assert ours.dtype == numpys.dtype
    np.testing.assert_array_equal(ours, numpys)


@compiled
@given(sizes, sizes, st.sampled_from([2, 300, 65535]), seeds)
@settings(max_examples=500, deadline=None)
def test_bilinear(before: tuple[int, int], size: tuple[int, int], most: int, seed: int) -> None:
    plane = np.random.default_rng(seed).integers(1, most, (before[0] + 2, before[1] + 2), np.uint16, endpoint=True)
    agree(lambda: kernels.bilinear_mm(plane[1:-1, 1:-1], size))


@compiled
@pytest.mark.parametrize("size", [(480, 640), (3024, 4032), (200, 150), (264, 352), (1, 3000)])
def test_bilinear_at_the_sizes_of_pictures(size: tuple[int, int]) -> None:
    plane = np.random.default_rng(0).integers(1, 65536, (264, 352), np.uint16)
    agree(lambda: kernels.bilinear_mm(plane, size))


@compiled
@given(sizes, st.floats(0.001, 1.0), st.floats(-300.0, 300.0), seeds)
@settings(max_examples=300, deadline=None)
def test_steps(size: tuple[int, int], per_mm: float, offset: float, seed: int) -> None:
    depth = np.random.default_rng(seed).integers(0, 65536, size, np.uint16)
    depth[depth % 7 == 0] = 0
    agree(lambda: kernels.steps(depth, per_mm, offset))


@compiled
def test_steps_of_every_depth() -> None:
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    agree(lambda: images._depth_steps(every, 0.5, 10.0))


@compiled
@given(st.integers(1, 20), st.integers(1, 80), st.booleans(), seeds)
@settings(max_examples=300, deadline=None)
def test_filter_up(height: int, samples: int, swap: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, above = rng.integers(0, 256, (height, 2 * samples), np.uint8), rng.integers(0, 256, 2 * samples, np.uint8)

    def filtered() -> Any:
        out = np.zeros((height, 1 + 2 * samples), np.uint8)
        kernels.filter_up(rows, above, out, swap=swap)
        return out

    agree(filtered)


@compiled
@given(sizes, st.sampled_from([1, 3, 256]), st.sampled_from([2, 50, 65536]), seeds)
@settings(max_examples=500, deadline=None)
def test_by_class(size: tuple[int, int], classes: int, depths: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    outer = (size[0] + 2, size[1] + 2)
    labels = rng.integers(0, classes, outer, np.uint8)[1:-1, 1:-1]
    depth = rng.integers(0, depths, outer, np.uint16)[1:-1, 1:-1]
    ours: ByClass = kernels.by_class(labels, depth)
    numpys: ByClass = in_numpy(lambda: kernels.by_class(labels, depth))
    for name in ByClass._fields:
        np.testing.assert_array_equal(getattr(ours, name), getattr(numpys, name), name)


@pytest.mark.parametrize("in_c", [pytest.param(True, marks=compiled), False])
def test_by_class_has_what_its_fields_say(in_c: bool) -> None:
    labels = np.array([[1, 1, 255], [1, 7, 255]], np.uint8)
    depth = np.array([[9, 3, 65535], [3, 0, 65535]], np.uint16)
    found = kernels.by_class(labels, depth) if in_c else in_numpy(lambda: kernels.by_class(labels, depth))
    ends = {id_: found.depths[found.first[id_] : found.end[id_]].tolist() for id_ in (0, 1, 7, 255)}
    assert ends == {0: [], 1: [3, 3, 9], 7: [], 255: [65535, 65535]}
    assert (found.nearest[1], found.nearest[255]) == (1, 2)
    assert (found.squares[1], found.squares[7], found.squares[255]) == (99, 0, 2 * 65535**2)


@compiled
@given(sizes, st.sampled_from([1, 3, 256]), seeds)
@settings(max_examples=300, deadline=None)
def test_counts(size: tuple[int, int], values: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    plane = rng.integers(0, values, size, np.uint8)
    rows, columns = rng.integers(0, 20, size[0]), rng.integers(0, 20, size[1])
    agree(lambda: kernels.counts(plane, rows, columns))


@pytest.mark.parametrize("in_c", [pytest.param(True, marks=compiled), False])
def test_what_does_not_fit_is_refused(in_c: bool) -> None:
    """And nothing is read or written behind an end, or as if it had another type."""
    u8, u16 = np.zeros((4, 6), np.uint8), np.zeros((4, 6), np.uint16)
    index, row, out = np.ones(4, np.intp), np.zeros(6, np.uint8), np.zeros((4, 7), np.uint8)
    calls: list[Callable[[], object]] = [
        lambda: kernels.bilinear_mm(u16[:, :0], (8, 8)),
        lambda: kernels.bilinear_mm(u16[0], (8, 8)),  # type: ignore[arg-type]
        lambda: kernels.bilinear_mm(u16, (8, 0)),
        lambda: kernels.bilinear_mm(u16.astype(np.int64), (8, 8)),  # type: ignore[arg-type]
        lambda: kernels.steps(u16[:, :0], 1.0, 0.0),
        lambda: kernels.steps(u16.astype(">u2"), 1.0, 0.0),
        lambda: kernels.filter_up(u8, row[:5], out, swap=False),
        lambda: kernels.filter_up(u8, row, out[:3], swap=False),
        lambda: kernels.filter_up(u8, row, out[:, 1:], swap=False),
        lambda: kernels.filter_up(u8[:0], row, out[:0], swap=False),
        lambda: kernels.filter_up(u8[:, :5].copy(), row[:5], out[:, 1:].copy(), swap=True),
        lambda: kernels.by_class(u8, u16[:3]),
        lambda: kernels.by_class(u8.astype(np.int64), u16),  # type: ignore[arg-type]
        lambda: kernels.counts(u8, index, index),
        lambda: kernels.counts(u8 > 0, index, np.ones(6, np.intp)),  # type: ignore[arg-type]
    ]
    for call in calls:
        with pytest.raises(ValueError, match="do not fit"):
            call() if in_c else in_numpy(call)


@compiled
def test_answers_are_the_same_in_numpy() -> None:
    rng = np.random.default_rng(1)
    box = images.letterbox((480, 600), [(264, 352)])
    labels = np.repeat(np.repeat(rng.integers(0, 40, (33, 44), np.uint8), 8, 0), 8, 1)
    depth = rng.integers(500, 9000, (264, 352), np.uint16)

    def everything() -> list[Any]:
        mm = images.unfit_depth(depth, box)
        colors = [(id_, id_, id_) for id_ in range(40)]
        return [
            images.mask_png(images.unfit_nearest(labels, box), colors),
            images.depth_png(mm),
            images.depth_color_png(mm, 0.5, 10.0),
            measures.pixels_of(labels, box),
        ]

    assert everything() == in_numpy(everything)


@compiled
def test_a_library_of_another_source_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = tmp_path / "kernels.c"
    changed.write_bytes(kernels.SOURCE.read_bytes() + b"\n")
    monkeypatch.setattr(kernels, "SOURCE", changed)
    library, why_not = kernels._load()
    assert library is None and "has changed" in why_not


def test_without_a_library_it_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "LIBRARY", tmp_path / "_kernels.so")
    assert kernels._load() == (None, "there was no C compiler when segdepth was installed")
    kernels.LIBRARY.write_bytes(b"no library")
    library, why_not = kernels._load()
    assert library is None and "cannot be loaded" in why_not


# --- how it is compiled ---------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "service").mkdir()
    shutil.copy(kernels.SOURCE, tmp_path / hatch_build.SOURCE)
    return tmp_path


def build(project: Path, version: str = "editable") -> tuple[hatch_build.CustomBuildHook, dict[str, Any]]:
    """The hook, and what it says of the wheel."""
    hook = hatch_build.CustomBuildHook(str(project), {}, None, None, str(project), "wheel", Application())  # type: ignore[arg-type]
    data: dict[str, Any] = {"force_include": {}, "pure_python": True}
    hook.initialize(version, data)
    return hook, data


def names(project: Path) -> list[str]:
    return sorted(path.name for path in (project / "service").iterdir())


with_cc = pytest.mark.skipif(not HAS_COMPILER, reason="there is no C compiler")


@with_cc
def test_an_editable_installation_has_them_beside_their_source(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "cc -Wall -Wextra -Werror")
    hook, data = build(project)
    hook.finalize("editable", data, "")
    assert data == {"force_include": {}, "pure_python": True}
    monkeypatch.setattr(kernels, "LIBRARY", project / hatch_build.LIBRARY)
    assert kernels._load()[0] is not None
    assert names(project) == ["_kernels.so", "kernels.c"]


@with_cc
def test_a_wheel_has_them_and_its_source_stays_as_it_was(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    (project / "service").chmod(0o555)
    hook, data = build(project, "standard")
    [(made, place)] = data["force_include"].items()
    assert place == hatch_build.LIBRARY
    assert data["tag"].startswith("py3-none-") and "manylinux" not in data["tag"]
    assert not data["pure_python"]
    monkeypatch.setattr(kernels, "LIBRARY", Path(made))
    assert kernels._load()[0] is not None
    hook.finalize("standard", data, "")
    assert not Path(made).exists()
    (project / "service").chmod(0o755)
    assert names(project) == ["kernels.c"]


def test_without_a_compiler_the_build_goes_on(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(project))
    for version in ("editable", "standard"):
        _, data = build(project, version)
        assert data == {"force_include": {}, "pure_python": True}
        assert "NumPy takes its place" in capsys.readouterr().err
    assert names(project) == ["kernels.c"]


def test_a_compiler_that_was_asked_for_has_to_work(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler -O2")
    with pytest.raises(SystemExit, match="cannot be compiled by CC=no-such-compiler -O2"):
        build(project)


CHECKED = """
import sys
from pathlib import Path
import numpy as np
from service import kernels
kernels.LIBRARY = Path(sys.argv[1])
kernels.compiled, why_not = kernels._load()
assert kernels.compiled, why_not
rng = np.random.default_rng(0)
for _ in range(300):
    before, size = rng.integers(1, 40, (2, 2)).tolist()
    labels, depth = rng.integers(0, 256, before, np.uint8), rng.integers(0, 65536, before, np.uint16)
    kernels.bilinear_mm(depth, tuple(size))
    kernels.steps(depth, 0.01, 1.0)
    kernels.by_class(labels, depth)
    kernels.counts(labels, *(np.ones(n, np.intp) for n in before))
    for rows, swap in ((labels, False), (depth.view(np.uint8), True)):
        out = np.empty((len(rows), 1 + rows.shape[1]), np.uint8)
        kernels.filter_up(rows, rows[0].copy(), out, swap=swap)
print("checked")
"""


@with_cc
def test_they_stay_within_their_memory(tmp_path: Path) -> None:
    """By AddressSanitizer, which ends the process at the first byte that is not theirs."""
    sanitizer = subprocess.run(["cc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True).stdout
    library = tmp_path / "_kernels.so"
    digest = hashlib.sha256(kernels.SOURCE.read_bytes()).hexdigest()
    options = ["-g", "-O1", "-fsanitize=address,undefined", "-shared", "-fPIC", f'-DSOURCE="{digest}"']
    made = subprocess.run(["cc", *options, kernels.SOURCE, "-o", library], capture_output=True, check=False)
    if made.returncode or not Path(sanitizer.strip()).is_absolute():
        pytest.skip("the C compiler has no AddressSanitizer")
    environment = {**os.environ, "LD_PRELOAD": sanitizer.strip(), "ASAN_OPTIONS": "detect_leaks=0"}
    done = subprocess.run(
        [sys.executable, "-c", CHECKED, library], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == "checked\n" and not done.stderr, done.stderr[-3000:]
