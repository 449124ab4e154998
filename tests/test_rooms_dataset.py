"""The data set of rooms: folder, splits, workers, kills, attribution and command line, mostly without rendering."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from model.classes import NYU40
from training.data import FolderDataset, read_info
from training.folder import Split
from training.rooms import __main__ as command
from training.rooms import catalogue, dataset, render
from training.rooms.catalogue import Catalogue, FurnitureError
from training.rooms.dataset import RoomError, Shot, write_dataset

FURNITURE = Path("/usr/share/sweethome3d/furniture")
needs_furniture = pytest.mark.skipif(
    not (FURNITURE / "Scopia.sh3f").is_file(), reason="no furniture: apt-get install sweethome3d-furniture"
)
needs_renderer = pytest.mark.skipif(render.missing() is not None, reason=str(render.missing()))
MODELS = {"train": "Scopia/chair", "val": "BlendSwap-CC-BY/lamp", "test": "KatorLegaz/bowl"}


@dataclass(frozen=True)
class Fake:
    """A maker of noise with some labels and a depth gradient."""

    views: int = 2
    size: tuple[int, int] = (24, 16)
    delay: float = 0.0
    fails_in: int = -1
    labels: int = len(NYU40)

    @property
    def settings(self) -> dict[str, Any]:
        return {"size": list(self.size), "views": self.views}

    def __call__(self, seed: int, room: int, split: Split) -> list[Shot]:
        time.sleep(self.delay)
        if room == self.fails_in:
            raise RoomError(f"no good views (room {room})")
        rng = np.random.default_rng([seed, room])
        w, h = self.size
        return [
            Shot(
                image=rng.integers(0, 256, (h, w, 3), np.uint8),
                quality=90,
                label=rng.integers(0, self.labels, (h, w)).astype(np.uint8),
                depth=np.broadcast_to(np.arange(1000, 1000 + w, dtype=np.uint16), (h, w)).copy(),
                intrinsics=(20.0 + view, 20.0 + view, (w - 1) / 2, (h - 1) / 2),
                about={"kind": "kitchen", "lighting": "day"},
                models=(MODELS[split],),
            )
            for view in range(self.views)
        ]


def write(out: Path, count: int = 21, seed: int = 3, maker: Fake | None = None, workers: int = 1) -> dict[str, Any]:
    cache = out.parent / "cache"
    cache.mkdir(exist_ok=True)
    models = [
        {
            "key": key,
            "name": f"Name of {key}",
            "use": "x",
            "class_name": "chair",
            "size": [1, 1, 1],
            "elevation": 0,
            "held_out": split != "train",
            "author": f"Author of {key}",
            "license": "CC-BY-3.0",
            "address": "http://example.com/1",
        }
        for split, key in {**MODELS, "unused": "Scopia/unused"}.items()
    ]
    (cache / "index.json").write_text(json.dumps({"fingerprint": "f", "models": models}))
    return write_dataset(out, count, seed, maker or Fake(), Catalogue(cache), workers)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# ---------------------------------------------------------------------------------------------------------- the folder


def test_folder_format(tmp_path: Path) -> None:
    out = tmp_path / "rooms"
    returned = write(out)
    info = read_info(out)
    assert json.loads((out / "dataset.json").read_text()) == returned
    assert info.name == "rooms"
    assert "CC-BY-3.0" in info.license
    assert info.classes == NYU40
    names = [f"{i:06d}" for i in range(21)]
    # Rooms 0 to 7 are for training, 8 for validation, 9 for the test, 10 for training.
    assert info.splits == {"train": [*names[:16], names[20]], "val": names[16:18], "test": names[18:20]}
    assert list(info.intrinsics) == names
    assert info.intrinsics["000001"] == (21.0, 21.0, 11.5, 7.5)
    sample = FolderDataset(info, "val")[0, 0]
    shot = Fake()(3, 8, "val")[0]
    assert np.array_equal(sample["label"], shot.label)
    assert np.array_equal(np.round(sample["depth"].numpy() * 1000), shot.depth)
    with Image.open(out / "images" / "000016.jpg") as image:
        assert np.abs(np.asarray(image, float) - shot.image).mean() < 15
    assert not list(out.rglob("*.tmp"))
    assert len(list((out / "rooms").iterdir())) == 11
    room = json.loads((out / "rooms" / "000010.json").read_text())
    assert list(room) == ["000020"]  # the last room has one picture only: 21 is odd
    assert room["000020"]["kind"] == "kitchen"
    assert sum(room["000020"]["pixels"].values()) == 24 * 16
    assert returned["median_depth_m"] == pytest.approx(1.0115, abs=0.001)
    assert sum(returned["class_share"].values()) == pytest.approx(1, abs=1e-4)


def test_attribution_names_the_models_that_are_seen(tmp_path: Path) -> None:
    write(tmp_path / "a")
    text = (tmp_path / "a" / "ATTRIBUTION.txt").read_text()
    for key in MODELS.values():
        assert f'"Name of {key}" ({key}) by Author of {key}, CC-BY-3.0, http://example.com/1' in text
    assert "unused" not in text
    assert "https://creativecommons.org/licenses/by/3.0/" in text
    assert "Changes made" in text
    credit = read_info(tmp_path / "a").attribution
    assert all(f"Author of {key}" in credit for key in MODELS.values()) and "unused" not in credit
    write(tmp_path / "b", count=4)  # training rooms only
    text = (tmp_path / "b" / "ATTRIBUTION.txt").read_text()
    assert MODELS["train"] in text
    assert MODELS["val"] not in text


def test_rare_classes(tmp_path: Path) -> None:
    made = write(tmp_path / "a", maker=Fake(labels=39))
    assert dataset.rare_classes(made) == ["otherprop"]
    assert dataset.rare_classes(write(tmp_path / "b")) == []


def test_two_workers_write_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "one")
    write(tmp_path / "two", workers=2)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_resumes_what_is_missing_and_leaves_the_rest(tmp_path: Path) -> None:
    out = tmp_path / "a"
    write(out)
    before = tree(out)
    for name in ("images/000003.jpg", "depth/000008.png", "rooms/000006.json", "dataset.json", "ATTRIBUTION.txt"):
        (out / name).unlink()
    for name in ("images/000005.jpg", "rooms/000002.json"):  # what a power failure may leave
        (out / name).write_bytes(b"")
    (out / "rooms" / "000004.json").write_bytes(b'{"000008": {')
    (out / "labels" / "000003.png.123.tmp").write_bytes(b"half")  # what a kill may leave
    kept = (out / "images" / "000000.jpg").stat().st_mtime_ns
    write(out)
    assert tree(out) == before
    assert (out / "images" / "000000.jpg").stat().st_mtime_ns == kept


def test_a_data_set_can_be_made_larger(tmp_path: Path) -> None:
    write(tmp_path / "a", count=7)
    write(tmp_path / "a", count=21)
    write(tmp_path / "b", count=21)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 4}, "other settings \\(seed\\)"),
        ({"maker": Fake(views=3)}, "other settings \\(views\\)"),
        ({"count": 20}, "more than 20"),
    ],
)
def test_a_folder_of_other_settings_is_refused_untouched(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    out = tmp_path / "a"
    write(out)
    before = tree(out)
    with pytest.raises(FileExistsError, match=message):
        write(out, **change)
    assert tree(out) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep me")
    with pytest.raises(FileExistsError, match="not empty"):
        write(tmp_path / "mine")
    (out / "rooms.json").write_bytes(b"")
    with pytest.raises(FileExistsError, match=r"rooms\.json is damaged .*; choose another folder"):
        write(out)


# ----------------------------------------------------------------------------------------------------------- processes


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_in_a_room_ends_the_run_and_leaves_no_dataset_file(tmp_path: Path, workers: int) -> None:
    with pytest.raises(RoomError, match="room 5"):
        write(tmp_path / "a", maker=Fake(fails_in=5), workers=workers)
    assert not (tmp_path / "a" / "dataset.json").exists()
    write(tmp_path / "a")
    write(tmp_path / "b")
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


RUN = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_rooms_dataset import Fake, write
if __name__ == "__main__":
    write(Path({out!r}), count=400, maker=Fake(delay=0.02), workers=2)
"""


def children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_a_killed_run_leaves_no_processes_and_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "a"
    script = tmp_path / "run.py"
    script.write_text(RUN.format(tests=str(Path(__file__).parent), out=str(out)))
    root = Path(__file__).resolve().parents[1]
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    process = subprocess.Popen([sys.executable, str(script)], env=environment)
    deadline = time.monotonic() + 120
    while not (out / "rooms" / "000004.json").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    workers = children(process.pid)
    assert len(workers) >= 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline, "workers outlive the run"
        time.sleep(0.05)
    assert 0 < len(list((out / "images").glob("*.jpg"))) < 400
    assert not (out / "dataset.json").exists()
    write(out, count=400)
    write(tmp_path / "b", count=400)
    assert tree(out) == tree(tmp_path / "b")


# -------------------------------------------------------------------------------------------------------- command line


def test_what_is_missing_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--out", str(tmp_path / "d"), "--count", "2", "--furniture", str(tmp_path / "none")]
    monkeypatch.setattr(render, "missing", lambda: None)
    with pytest.raises(SystemExit, match="apt-get install sweethome3d-furniture") as stopped:
        command.main(arguments)
    assert "\n" not in str(stopped.value)
    monkeypatch.setattr(render, "missing", lambda: "rooms need LLVM: apt-get install libllvm19")
    with pytest.raises(SystemExit, match="apt-get install libllvm19"):
        command.main(arguments)
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    "wrong", [["--size", "big"], ["--views", "0"], ["--workers", "0"], ["--count", "-1"], ["--count", "0"]]
)
def test_wrong_arguments(tmp_path: Path, wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.main(["--out", str(tmp_path / "d"), "--count", "2", *wrong])
    assert stopped.value.code == 2
    assert wrong[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [("none/x.png", "no folder"), ("x.foo", "not a .png or .jpg"), ("x", "not a .png or .jpg"), ("d.png", "a folder")],
)
def test_a_sheet_that_cannot_be_written_is_refused_before_the_first_picture(
    tmp_path: Path, name: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "prepare", lambda *a: pytest.fail("began"))
    (tmp_path / "d.png").mkdir()
    with pytest.raises(SystemExit) as stopped:
        command.main(["--out", str(tmp_path / "d"), "--count", "2", "--sheet", str(tmp_path / name)])
    assert stopped.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "argument --sheet" in last and message in last


@pytest.fixture
def few_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of twenty small models: the rest of the rooms is simple shapes."""
    lines = catalogue.TABLE.read_text().splitlines()
    small = ("Scopia/chair4", "Scopia/bed1", "Scopia/clear_sofa", "Scopia/door", "Scopia/table4", "Scopia/wardrobe1")
    chosen = [line for line in lines if line.startswith(small) or "/toiletsUnit," in line]
    (tmp_path / "few.csv").write_text("\n".join([lines[0], *chosen]) + "\n")
    monkeypatch.setattr(catalogue, "TABLE", tmp_path / "few.csv")


@needs_furniture
@needs_renderer
def test_the_command_makes_pictures_that_are_the_same_again(
    tmp_path: Path, few_models: None, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--count", "4", "--seed", "5", "--size", "64x48", "--samples", "2", "--cache", str(tmp_path / "cache")]
    sheet = tmp_path / "sheet.png"
    command.main(["--out", str(tmp_path / "a"), *common, "--sheet", str(sheet)])
    assert "4 pictures" in capsys.readouterr().out
    command.main(["--out", str(tmp_path / "b"), *common, "--workers", "2"])
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    info = read_info(tmp_path / "a")
    assert info.splits["train"] == [f"{i:06d}" for i in range(4)]
    data = FolderDataset(info, "train")
    for i in range(4):
        picture = data.read(data.names[i])
        assert picture.image.shape == (48, 64, 3)
        assert 15 < picture.image.mean() < 240
        assert len(np.unique(picture.label)) >= 3
        assert 500 < np.median(picture.depth) < 12_000
    with Image.open(sheet) as image:
        assert image.width == 6 * 3 * 64
    room = json.loads((tmp_path / "a" / "rooms" / "000000.json").read_text())["000000"]
    text = (tmp_path / "a" / "ATTRIBUTION.txt").read_text()
    assert all(key in text for key in room["models"])
    with pytest.raises(SystemExit, match=r"other settings \(samples\)"):
        command.main(["--out", str(tmp_path / "a"), *common, "--samples", "3"])


@needs_furniture
def test_training_rooms_have_no_held_out_model(
    tmp_path: Path, few_models: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.rooms import plan

    kept = {"Scopia/chair4", "BlendSwap-CC-0/toiletsUnit", "Scopia/table4"}
    monkeypatch.setattr(catalogue, "held_out", lambda uses: kept)
    catalogue.prepare(FURNITURE, tmp_path / "cache")
    found = Catalogue(tmp_path / "cache")

    def seen(split: Split) -> set[str]:
        rooms = [plan.make_room(np.random.default_rng(i), found, split) for i in range(8)]
        return {thing.model for room in rooms for thing in room.objects if thing.model}

    assert not seen("train") & kept
    assert seen("val") & kept


def test_no_views_at_all_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maker = dataset.RoomMaker(tmp_path)
    monkeypatch.setattr(dataset, "_catalogue", lambda cache: None)
    from training.rooms import camera, plan

    monkeypatch.setattr(plan, "make_room", lambda *a: None)
    monkeypatch.setattr(render, "load", lambda room: None)
    monkeypatch.setattr(camera, "views", lambda *a: [])
    with pytest.raises(RoomError, match="no good views in 30 rooms"):
        maker(0, 1, "train")


def test_a_missing_cache_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FurnitureError):
        dataset.RoomMaker(tmp_path / "none")(0, 0, "train")
