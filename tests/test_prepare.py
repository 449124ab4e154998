"""Official files, built here in the official layout, to the folder format; what is refused; the check of a folder."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from model.classes import IGNORE, NYU40, SUN37
from training import prepare, prepare_nyud
from training.data import DataError, FolderDataset, read_info
from training.prepare_check import check_folder
from training.prepare_folder import make_splits
from training.prepare_matlab import load_old_mat, open_mat73
from training.prepare_nyud import prepare_nyud as run_nyud
from training.prepare_sunrgbd import decode_depth, prepare_sunrgbd, sample_path

h5py = pytest.importorskip("h5py", reason="reading MATLAB 7.3 needs h5py")
scipy_io = pytest.importorskip("scipy.io", reason="reading MATLAB files needs scipy")

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
needs_nyud = pytest.mark.skipif(not (SHARED / "nyud").is_dir(), reason=f"no real files at {SHARED / 'nyud'}")
needs_sun = pytest.mark.skipif(not (SHARED / "sunrgbd").is_dir(), reason=f"no real files at {SHARED / 'sunrgbd'}")


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def read_png(path: Path) -> NDArray[Any]:
    with Image.open(path) as picture:
        return np.asarray(picture)


# ------------------------------------------------------------------------------------------------- NYUD-v2, made here


class Nyud:
    """The official files in small: (pictures, 3, width, height) and so on, `scenes` as references."""

    def __init__(self, folder: Path, count: int = 12, size: tuple[int, int] = (20, 30), **create: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.mat, self.splits, self.classes = folder / "nyu.mat", folder / "splits.mat", folder / "classMapping40.mat"
        self.out = folder / "out"
        rng = np.random.default_rng(0)
        height, width = size
        self.images = rng.integers(0, 256, (count, height, width, 3)).astype(np.uint8)
        self.labels = rng.integers(0, 895, (count, height, width)).astype(np.uint16)
        self.depths = rng.uniform(0.713, 9.995, (count, height, width)).astype(np.float32)
        self.raw = np.where(rng.random(self.depths.shape) < 0.2, 0, self.depths).astype(np.float32)
        self.mapping = rng.integers(1, 41, 894).astype(np.uint8)
        self.train = [i + 1 for i in range(count) if i % 4]
        self.test = [i + 1 for i in range(count) if i % 4 == 0]
        with h5py.File(self.mat, "w") as file:
            file.create_dataset("images", data=self.images.transpose(0, 3, 2, 1), **create)
            for name, values in (("depths", self.depths), ("rawDepths", self.raw), ("labels", self.labels)):
                file.create_dataset(name, data=values.transpose(0, 2, 1), **{k: v for k, v in create.items() if v})
            references = file.create_dataset("scenes", (1, count), h5py.ref_dtype)
            group = file.create_group("#refs#")
            for i in range(count):
                letters = np.array([[ord(c)] for c in f"room_{i // 2:04d}"], np.uint16)
                references[0, i] = group.create_dataset(f"s{i}", data=letters).ref
        self.write_splits(self.train, self.test)
        self.write_classes([c.name for c in NYU40])

    def write_splits(self, train: list[int], test: list[int]) -> None:
        column = {"trainNdxs": np.array(train, np.uint16)[:, None], "testNdxs": np.array(test, np.uint16)[:, None]}
        scipy_io.savemat(self.splits, column)

    def write_classes(self, names: list[str]) -> None:
        cells = np.array([np.array([n]) for n in names] + [None], dtype=object)[:-1][None]
        scipy_io.savemat(self.classes, {"mapClass": self.mapping[None], "className": cells})

    def change(self, do: Callable[[Any], None]) -> None:
        with h5py.File(self.mat, "r+") as file:
            do(file)

    def run(self, **options: Any) -> None:
        run_nyud(self.mat, self.splits, self.classes, self.out, **({"val": 0.0} | options))


@pytest.fixture
def nyud(tmp_path: Path) -> Nyud:
    return Nyud(tmp_path)


@pytest.mark.parametrize("depth", ["filled", "raw"])
def test_nyud_keeps_every_pixel(nyud: Nyud, depth: str) -> None:
    nyud.run(depth=depth)
    info = read_info(nyud.out)
    assert info.classes == NYU40
    assert info.depth_kind == depth
    assert "research only" in info.license
    assert info.splits == {"train": [f"{n:04d}" for n in nyud.train], "test": [f"{n:04d}" for n in nyud.test]}
    dataset = FolderDataset(info, "train")
    source = {"filled": nyud.depths, "raw": nyud.raw}[depth]
    for name in info.splits["train"] + info.splits["test"]:
        i = int(name) - 1
        picture = dataset.read(name)
        assert (picture.image == nyud.images[i]).all()
        expected = np.concatenate([[IGNORE], nyud.mapping.astype(int) - 1])[nyud.labels[i]]
        assert (picture.label == expected).all()
        assert np.abs(picture.depth / 1000 - source[i]).max() <= 0.00051
        assert ((picture.depth == 0) == (source[i] == 0)).all()
    assert sorted(p.name for p in nyud.out.iterdir()) == ["dataset.json", "depth", "images", "labels", "prepare.json"]


@pytest.mark.parametrize(
    "create",
    [
        {"chunks": None},
        {"chunks": True, "compression": "gzip"},
    ],
    ids=["contiguous", "guessed chunks"],
)
def test_nyud_reads_any_storage(tmp_path: Path, nyud: Nyud, create: dict[str, Any]) -> None:
    nyud.run()
    other = Nyud(tmp_path / "other", **create)
    other.run()
    assert tree(other.out / "images") == tree(nyud.out / "images")
    assert tree(other.out / "depth") == tree(nyud.out / "depth")


def test_nyud_decompresses_chunks_that_span_pictures_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Data:
        def __init__(self, chunks: tuple[int, ...]) -> None:
            self.chunks, self.dtype, self.shape, self.reads = chunks, np.dtype(np.uint8), (1449, 480, 640), 0

        def __getitem__(self, where: slice) -> NDArray[np.uint8]:
            self.reads += 1
            held = min(where.stop, 1449) - where.start
            return np.broadcast_to(np.arange(where.start, where.start + held) % 251, (4, 4, held)).T.astype(np.uint8)

    for chunks, reads in (((1, 480, 640), 100), ((25, 48, 64), 4), ((1449, 8, 8), 1)):
        data = Data(chunks)
        reader = prepare_nyud.PictureReader(Path("x.mat"), "labels", data)
        assert [int(reader[i][0, 0]) for i in range(100)] == [i % 251 for i in range(100)]
        assert data.reads == reads
        assert reader.step * 480 * 640 <= prepare_nyud.MAX_SLAB_BYTES
    with pytest.raises(DataError, match=r"x.mat: 'labels' is stored in chunks of 425 MiB.*h5repack"):
        prepare_nyud.PictureReader(Path("x.mat"), "labels", Data((1449, 480, 641)))


def test_nyud_goes_on_where_it_was(nyud: Nyud, monkeypatch: pytest.MonkeyPatch) -> None:
    nyud.run()
    whole = tree(nyud.out)
    shutil.rmtree(nyud.out)

    convert = prepare_nyud.to_millimetres

    def killed(metres: Any, where: str) -> Any:
        if where.endswith("picture 6"):
            raise KeyboardInterrupt
        return convert(metres, where)

    with monkeypatch.context() as patch:
        patch.setattr(prepare_nyud, "to_millimetres", killed)
        with pytest.raises(KeyboardInterrupt):
            nyud.run()
    assert len(list((nyud.out / "images").iterdir())) == 5
    with pytest.raises(DataError, match=r"dataset.json: no such file"):
        read_info(nyud.out)
    (nyud.out / "images" / "0006.png.1.tmp").write_bytes(b"half")  # of a process that was killed

    converted: list[str] = []

    def counted(metres: Any, where: str) -> Any:
        converted.append(where)
        return convert(metres, where)

    monkeypatch.setattr(prepare_nyud, "to_millimetres", counted)
    nyud.run()
    assert len(converted) == 7
    assert tree(nyud.out) == whole


def test_nyud_refuses_to_go_on_with_other_settings(nyud: Nyud) -> None:
    nyud.run()
    before = tree(nyud.out)
    with pytest.raises(DataError, match=r"was begun with depth 'filled', not 'raw'; give another --out"):
        nyud.run(depth="raw")
    with pytest.raises(DataError, match=r"was begun with val 0.0, not 0.3"):
        nyud.run(val=0.3)
    assert tree(nyud.out) == before


def test_nyud_refuses_a_folder_of_something_else(nyud: Nyud) -> None:
    nyud.out.mkdir()
    (nyud.out / "thesis.txt").write_text("do not touch")
    with pytest.raises(DataError, match=r"is not empty and was not made by training\.prepare"):
        nyud.run()
    assert [p.name for p in nyud.out.iterdir()] == ["thesis.txt"]


def test_nyud_jpg_is_smaller_and_close(nyud: Nyud) -> None:
    nyud.run(pictures="jpg")
    with Image.open(nyud.out / "images" / "0001.jpg") as picture:
        difference = np.abs(np.asarray(picture).astype(int) - nyud.images[0])
    assert difference.mean() < 4  # noise, the worst case


# ------------------------------------------------------------------------------------------------ splits


def test_val_takes_whole_scenes_and_is_seeded(nyud: Nyud) -> None:
    nyud.run(val=0.3, seed=1)
    splits = read_info(nyud.out).splits
    assert splits["trainval"] == [f"{n:04d}" for n in nyud.train]
    assert sorted(splits["train"] + splits["val"]) == splits["trainval"]
    assert splits["test"] == [f"{n:04d}" for n in nyud.test]
    scene = {f"{i + 1:04d}": i // 2 for i in range(12)}
    assert not {scene[n] for n in splits["train"]} & {scene[n] for n in splits["val"]}


def test_make_splits() -> None:
    train = [f"p{i}" for i in range(795)]
    groups = [i // 3 for i in range(795)]
    first = make_splits(train, ["t"], groups, 0.05, 0)
    assert abs(len(first["val"]) - 0.05 * 795) <= 2
    assert first == make_splits(train, ["t"], groups, 0.05, 0)
    assert first["val"] != make_splits(train, ["t"], groups, 0.05, 1)["val"]
    assert make_splits(train, ["t"], groups, 0, 0) == {"train": train, "test": ["t"]}
    with pytest.raises(DataError, match=r"--val 0.05: of 2 training pictures that would hold out 0"):
        make_splits(["a", "b"], ["t"], [0, 0], 0.05, 0)


# ------------------------------------------------------------------------------------------------ refusals


def drop(name: str) -> Callable[[Nyud], None]:
    def do(file: Any) -> None:
        del file[name]

    return lambda nyud: nyud.change(do)


def replace(name: str, values: NDArray[Any]) -> Callable[[Nyud], None]:
    def do(file: Any) -> None:
        del file[name]
        file[name] = values

    return lambda nyud: nyud.change(do)


def truncate(nyud: Nyud) -> None:
    nyud.mat.write_bytes(nyud.mat.read_bytes()[:-2000])


def high_label(nyud: Nyud) -> None:
    def do(file: Any) -> None:
        file["labels"][3, 0, 0] = 895

    nyud.change(do)


def huge_depth(nyud: Nyud) -> None:
    def do(file: Any) -> None:
        file["depths"][3, 0, 0] = 2500

    nyud.change(do)


REFUSED: dict[str, tuple[Callable[[Nyud], Any], str]] = {
    "no mat": (lambda n: n.mat.unlink(), r"nyu.mat: no such file$"),
    "no splits": (lambda n: n.splits.unlink(), r"splits.mat: no such file$"),
    "no classes": (lambda n: n.classes.unlink(), r"classMapping40.mat: no such file$"),
    "truncated": (truncate, r"nyu.mat: truncated; download it again"),
    "not hdf5": (lambda n: n.mat.write_bytes(b"<html>404</html>" * 99), r"nyu.mat: not a MATLAB 7.3 file"),
    "splits damaged": (lambda n: n.splits.write_bytes(b"<html>" * 99), r"splits.mat: not a MATLAB file, or damaged"),
    "splits truncated": (
        lambda n: n.splits.write_bytes(n.splits.read_bytes()[:180]),
        r"splits.mat: (not a MATLAB file, or damaged|variable 'trainNdxs' is missing)",
    ),
    "splits is the mat": (lambda n: shutil.copy(n.mat, n.splits), r"splits.mat: (MATLAB 7.3|not a MATLAB file)"),
    "no labels": (drop("labels"), r"nyu.mat: variable 'labels' is missing$"),
    "no depths": (drop("depths"), r"nyu.mat: variable 'depths' is missing$"),
    "axes not reversed": (
        replace("images", np.zeros((20, 30, 3, 12), np.uint8)),
        r"'images' has shape \(20, 30, 3, 12\), expected \(pictures, 3, width, height\)",
    ),
    "depth of another size": (
        replace("depths", np.ones((12, 30, 21), np.float32)),
        r"'depths' has shape \(12, 30, 21\), expected \(12, 30, 20\)",
    ),
    "one label map too few": (
        replace("labels", np.ones((11, 30, 20), np.uint16)),
        r"'labels' has shape \(11, 30, 20\), expected \(12, 30, 20\)",
    ),
    "float labels": (replace("labels", np.ones((12, 30, 20))), r"'labels' is float64, expected unsigned integer"),
    "label outside the mapping": (high_label, r"label 895 in picture 4, .*classMapping40.mat maps 1 to 894"),
    "depth not in metres": (huge_depth, r"'depths', picture 4: depth 2500.0 where metres were expected"),
    "empty split": (lambda n: n.write_splits([], [1]), r"splits.mat: 'trainNdxs' is empty"),
    "split of another file": (
        lambda n: n.write_splits([1], [1449]),
        r"'testNdxs' goes from 1449 to 1449, the pictures from 1 to 12",
    ),
    "picture in both splits": (lambda n: n.write_splits([1, 2], [2]), r"splits.mat: a picture is in the splits twice"),
    "other classes": (
        lambda n: n.write_classes([c.name for c in NYU40[:13]]),
        r"'className' has 13 names, not NYU's 40",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_nyud_refuses_with_one_line_and_leaves_no_data_set(
    nyud: Nyud, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, message = REFUSED[case]
    spoil(nyud)
    files = ["--mat", nyud.mat, "--splits", nyud.splits, "--classes", nyud.classes, "--out", nyud.out]
    with pytest.raises(SystemExit) as stopped:
        prepare.main(["nyud", *map(str, files), "--val", "0"])
    text = str(stopped.value)  # sys.exit with a text: printed to stderr, exit status 1
    assert text.startswith("prepare: ")
    assert "\n" not in text
    assert re.search(message, text), text
    assert not (nyud.out / "dataset.json").exists()
    assert not list(nyud.out.rglob("*.tmp"))
    complete = {len(list((nyud.out / f).glob("*"))) for f in ("images", "labels", "depth") if nyud.out.exists()}
    assert complete in ({3}, set())  # the pictures before the bad one, whole; or nothing at all


def test_nyud_without_scenes_says_what_to_do(nyud: Nyud) -> None:
    drop("scenes")(nyud)
    with pytest.raises(DataError, match=r"'scenes' is missing, by which --val is drawn; give --val 0"):
        nyud.run(val=0.3)
    assert not nyud.out.exists()
    nyud.run()


def test_what_reads_matlab_files_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(DataError, match=r"^h5py is not installed.*\[prepare\]"), open_mat73(tmp_path / "a.mat"):
        pass
    with pytest.raises(DataError, match=r"^scipy.io is not installed.*\[prepare\]"):
        load_old_mat(tmp_path / "a.mat", [])


def test_damaged_data_inside_a_mat_is_one_line(tmp_path: Path) -> None:
    nyud = Nyud(tmp_path, chunks=True, compression="gzip")
    with h5py.File(nyud.mat) as file:
        offset = file["depths"].id.get_chunk_info(0).byte_offset
    content = bytearray(nyud.mat.read_bytes())
    content[offset : offset + 64] = b"\0" * 64
    nyud.mat.write_bytes(content)
    with pytest.raises(DataError, match=r"nyu.mat: 'depths', picture 1 cannot be read"):
        nyud.run()


# ------------------------------------------------------------------------------------------------ SUN RGB-D


def rotate(millimetres: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """How SUN RGB-D stores millimetres."""
    return (millimetres << 3) | (millimetres >> 13)


SAMPLES = {  # sample: (camera, size)
    "SUNRGBD/kv1/NYUdata/NYU0001": (24, 32),
    "SUNRGBD/kv2/kinect2data/000002_2014-05-26_14-23-37_260595134347_rgbf000103-resize": (30, 40),
    "SUNRGBD/realsense/lg/2014_10_21-18_15_27-1311000073": (20, 30),
    "SUNRGBD/xtion/sun3ddata/brown_bm_1/brown_bm_1/0000103-000003465970": (22, 28),
}
PREFIX = "/n/fs/sun3d/data/"


class Sun:
    """The official tree in small. The labels are in the order of SUNRGBDMeta, which is not that of the split."""

    def __init__(self, root: Path, samples: dict[str, tuple[int, int]] = SAMPLES) -> None:
        self.root, self.out = root, root / "out"
        rng = np.random.default_rng(0)
        self.label, self.depth, self.raw = {}, {}, {}
        for sample, (height, width) in samples.items():
            folder = root / sample
            for part in ("image", "depth", "depth_bfx"):
                (folder / part).mkdir(parents=True)
            image = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
            Image.fromarray(image).save(folder / "image" / "0000103.jpg", quality=90)
            depth = rng.integers(500, 9500, (height, width)).astype(np.uint16)
            raw = np.where(rng.random(depth.shape) < 0.3, 0, depth).astype(np.uint16)
            Image.fromarray(rotate(depth)).save(folder / "depth_bfx" / "x_abs.png")
            Image.fromarray(rotate(raw)).save(folder / "depth" / "x_abs.png")
            (folder / "intrinsics.txt").write_text("529.5 0 365.0 \n0 529.6 265.0 \n0 0 1 \n")
            label = rng.integers(0, 38, (height, width)).astype(np.uint8)
            self.label[sample], self.depth[sample], self.raw[sample] = label, depth, raw
        self.toolbox = root / "SUNRGBDtoolbox"
        (self.toolbox / "Metadata").mkdir(parents=True)
        (self.toolbox / "traintestSUNRGBD").mkdir()
        self.seg = self.toolbox / "Metadata" / "SUNRGBD2Dseg.mat"
        names = list(samples)
        self.write_split(names[2:][::-1], names[:2])
        meta = np.zeros((1, len(names)), dtype=[("sequenceName", object), ("rgbpath", object), ("K", object)])
        for i, name in enumerate(names):
            meta[0, i] = (np.array([name]), np.array([f"{PREFIX}{name}/image/0000103.jpg"]), np.eye(3))
        scipy_io.savemat(self.toolbox / "Metadata" / "SUNRGBDMeta.mat", {"SUNRGBDMeta": meta})
        self.write_labels([self.label[name] for name in names])

    def write_split(self, train: list[str], test: list[str]) -> None:
        def cells(samples: list[str]) -> NDArray[Any]:
            row = np.empty((1, len(samples)), object)
            for i, sample in enumerate(samples):
                row[0, i] = np.array([PREFIX + sample])
            return row

        path = self.toolbox / "traintestSUNRGBD" / "allsplit.mat"
        scipy_io.savemat(path, {"alltrain": cells(train), "alltest": cells(test)})

    def write_labels(self, maps: list[NDArray[Any]]) -> None:
        with h5py.File(self.seg, "w") as file:
            references = file.create_dataset("SUNRGBD2Dseg/seglabel", (len(maps), 1), h5py.ref_dtype)
            for i, values in enumerate(maps):
                references[i, 0] = file.create_dataset(f"#refs#/{i}", data=values.T, compression="gzip").ref


@pytest.fixture
def sun(tmp_path: Path) -> Sun:
    return Sun(tmp_path / "official")


def test_sun_depth_is_decoded_in_16_bits() -> None:
    every = np.arange(65536, dtype=np.uint16)
    shifted = np.array([((int(d) >> 3) | (int(d) << 13)) & 0xFFFF for d in every])
    assert (decode_depth(every) == np.minimum(shifted, 8000)).all()
    assert decode_depth(rotate(np.array([0, 1, 2500, 7999, 8000, 9000], np.uint16))).tolist() == [
        0,
        1,
        2500,
        7999,
        8000,
        8000,
    ]


@pytest.mark.parametrize("depth", ["filled", "raw"])
def test_sun_keeps_every_pixel(sun: Sun, depth: str) -> None:
    prepare_sunrgbd(sun.root, sun.out, depth, val=0)
    info = read_info(sun.out)
    assert info.classes == SUN37
    assert info.depth_kind == depth
    assert sorted(info.cameras.values()) == ["kv1", "kv2", "realsense", "xtion"]
    assert info.intrinsics["kv1_NYUdata_NYU0001"] == (529.5, 529.6, 365.0, 265.0)
    dataset = FolderDataset(info, "train")
    names = {sample: "_".join(sample.split("/")[1:]) for sample in SAMPLES}
    assert sorted(names.values()) == sorted(info.splits["train"] + info.splits["test"])
    assert set(info.splits["test"]) == {names[s] for s in list(SAMPLES)[:2]}
    for sample, name in names.items():
        picture = dataset.read(name)
        assert picture.label.shape == SAMPLES[sample]
        assert (picture.label == np.array([IGNORE, *range(37)])[sun.label[sample]]).all()
        assert (picture.depth == {"filled": sun.depth, "raw": sun.raw}[depth][sample].clip(max=8000)).all()
        official = (sun.root / sample / "image" / "0000103.jpg").read_bytes()
        assert (sun.out / "images" / f"{name}.jpg").read_bytes() == official
        assert info.cameras[name] == sample.split("/")[1]


def test_sun_val_and_resume(sun: Sun) -> None:
    prepare_sunrgbd(sun.root, sun.out, val=0)
    whole = tree(sun.out)
    (sun.out / "dataset.json").unlink()
    (sun.out / "depth" / "kv1_NYUdata_NYU0001.png").unlink()
    prepare_sunrgbd(sun.root, sun.out, val=0)
    assert tree(sun.out) == whole
    with pytest.raises(DataError, match="was begun with depth 'filled', not 'raw'"):
        prepare_sunrgbd(sun.root, sun.out, "raw", val=0)


def test_sun_paths_in_their_spellings() -> None:
    for text in ("/n/fs/sun3d/data/SUNRGBD/kv1/a/b", "/n/fs/sun3d/data/SUNRGBD/kv1//a/b/", "SUNRGBD/kv1/a/b "):
        assert sample_path(text) == "SUNRGBD/kv1/a/b"


KV1 = "SUNRGBD/kv1/NYUdata/NYU0001"
SUN_REFUSED: dict[str, tuple[Callable[[Sun], Any], str]] = {
    "no SUNRGBD": (lambda s: shutil.rmtree(s.root / "SUNRGBD"), r"has no folder SUNRGBD; give the folder that holds"),
    "no toolbox": (lambda s: shutil.rmtree(s.toolbox), r"allsplit.mat: no such file"),
    "no labels": (lambda s: s.seg.unlink(), r"SUNRGBD2Dseg.mat: no such file"),
    "truncated": (lambda s: s.seg.write_bytes(s.seg.read_bytes()[:-500]), r"SUNRGBD2Dseg.mat: truncated"),
    "a sample missing": (lambda s: shutil.rmtree(s.root / KV1), r"NYU0001: no such folder"),
    "no picture": (lambda s: (s.root / KV1 / "image" / "0000103.jpg").unlink(), r"image: 0 files .jpg, expected one"),
    "half a picture": (
        lambda s: (s.root / KV1 / "image" / "0000103.jpg").write_bytes(
            (s.root / KV1 / "image" / "0000103.jpg").read_bytes()[:-300]
        ),
        r"0000103.jpg: cannot be read",
    ),
    "depth of another size": (
        lambda s: Image.fromarray(np.ones((9, 9), np.uint16)).save(s.root / KV1 / "depth_bfx" / "x_abs.png"),
        r"x_abs.png: 9x9 pixels, its picture has 32x24",
    ),
    "depth of 8 bits": (
        lambda s: Image.fromarray(np.ones((24, 32), np.uint8)).save(s.root / KV1 / "depth_bfx" / "x_abs.png"),
        r"x_abs.png: pixel mode L, expected 16 bits",
    ),
    "labels not transposed": (
        lambda s: s.write_labels([v.T for v in s.label.values()]),
        r"label map 1 .* has shape \(32, 24\), its picture \(24, 32\)",
    ),
    "label outside the set": (
        lambda s: s.write_labels([np.full_like(v, 38) for v in s.label.values()]),
        r"label map 1 .*holds 38 \(uint8\), expected 0 to 37",
    ),
    "labels of another version": (lambda s: s.write_labels([]), r"0 label maps, SUNRGBDMeta.mat has 4 samples"),
    "no intrinsics": (lambda s: (s.root / KV1 / "intrinsics.txt").unlink(), r"intrinsics.txt: no such file"),
    "empty intrinsics": (lambda s: (s.root / KV1 / "intrinsics.txt").write_text(""), r"not a camera's 3x3 matrix"),
    "empty split": (lambda s: s.write_split([], [KV1]), r"allsplit.mat: 'alltrain' is empty"),
    "unknown sample": (
        lambda s: s.write_split(["SUNRGBD/kv1/NYUdata/NYU9999"], [KV1]),
        r"NYU9999 is in allsplit.mat, not in SUNRGBDMeta.mat",
    ),
}


@pytest.mark.parametrize("case", SUN_REFUSED)
def test_sun_refuses_with_one_line_and_leaves_no_data_set(sun: Sun, case: str) -> None:
    spoil, message = SUN_REFUSED[case]
    spoil(sun)
    with pytest.raises(SystemExit) as stopped:
        prepare.main(["sunrgbd", "--root", str(sun.root), "--out", str(sun.out), "--val", "0"])
    text = str(stopped.value)
    assert text.startswith("prepare: ")
    assert "\n" not in text
    assert re.search(message, text), text
    assert not (sun.out / "dataset.json").exists()
    assert not list(sun.out.rglob("*.tmp"))


# ------------------------------------------------------------------------------------------------ check, and the page


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six plausible pictures of a user's own, written as docs/your-own-data.md says."""
    page = (ROOT / "docs" / "your-own-data.md").read_text(encoding="utf-8")
    root = tmp_path / "mine"
    (script,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (description,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    rng = np.random.default_rng(0)
    for name in json.loads(description)["intrinsics"]:
        scope = {
            "root": root,
            "name": name,
            "image": rng.integers(0, 256, (480, 640, 3)).astype(np.uint8),
            "class_ids": rng.integers(0, 3, (480, 640)),
            "unlabelled": rng.random((480, 640)) < 0.1,
            "metres": np.where(rng.random((480, 640)) < 0.1, np.nan, rng.uniform(1, 5, (480, 640))),
        }
        exec(script, scope)
    (root / "dataset.json").write_text(description, encoding="utf-8")
    return root


def test_the_page_on_own_data_makes_a_folder_without_errors(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare.main(["check", str(folder)])
    printed = capsys.readouterr().out
    assert "no errors" in printed
    assert "splits: train 2, val 1, test 1" in printed
    assert "sizes: 640x480 4" in printed
    assert "labels: 10.0% void" in printed
    assert re.search(r"0 floor +33\.\d+% +4", printed)
    assert re.search(r"depth: 10\.\d% invalid", printed)
    assert "50%: 3.0" in printed
    assert "warning" not in printed


def spoil_file(path: str, values: NDArray[Any]) -> Callable[[Path], None]:
    return lambda root: Image.fromarray(values).save(root / path)


def spoil_json(**changes: Any) -> Callable[[Path], None]:
    def do(root: Path) -> None:
        content = json.loads((root / "dataset.json").read_text())
        (root / "dataset.json").write_text(json.dumps(content | changes))

    return do


def all_depths(values: NDArray[Any]) -> Callable[[Path], None]:
    def do(root: Path) -> None:
        for path in (root / "depth").iterdir():
            Image.fromarray(values).save(path)

    return do


CHECK_ERRORS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "label outside": (
        spoil_file("labels/kitchen-001.png", np.full((480, 640), 3, np.uint8)),
        r"kitchen-001.png: label 3 is outside the class set of 3",
    ),
    "depth of another size": (
        spoil_file("depth/kitchen-001.png", np.ones((240, 320), np.uint16)),
        r"kitchen-001.png: 320x240 pixels, its picture has 640x480",
    ),
    "depth of 8 bits": (
        spoil_file("depth/kitchen-001.png", np.ones((480, 640), np.uint8)),
        r"kitchen-001.png: pixel mode L, expected I;16",
    ),
    "labels as colours": (
        spoil_file("labels/kitchen-001.png", np.ones((480, 640, 3), np.uint8)),
        r"kitchen-001.png: pixel mode RGB, expected L",
    ),
    "a file missing": (lambda r: (r / "labels" / "kitchen-001.png").unlink(), r"labels/kitchen-001.png: no such file"),
    "half a file": (
        lambda r: (r / "depth" / "kitchen-001.png").write_bytes((r / "depth" / "kitchen-001.png").read_bytes()[:999]),
        r"depth/kitchen-001.png: cannot be read",
    ),
    "depth in metres": (all_depths(np.full((480, 640), 3, np.uint16)), r"the median is 0.003 m, implausible"),
    "depth in tenths of a millimetre": (
        all_depths(np.full((480, 640), 30000, np.uint16)),
        r"the median is 30.000 m, implausible for rooms",
    ),
    "no depth": (all_depths(np.zeros((480, 640), np.uint16)), r"depth: not one valid value"),
    "train and test overlap": (
        spoil_json(splits={"train": ["kitchen-001", "kitchen-002"], "val": ["study-001"], "test": ["kitchen-001"]}),
        r"1 pictures, as 'kitchen-001', are in 'train' and 'test'",
    ),
    "trainval and test overlap": (
        spoil_json(
            splits={
                "train": ["kitchen-001", "kitchen-002"],
                "val": ["study-001"],
                "trainval": ["kitchen-001", "kitchen-002", "study-001", "hall-001"],
                "test": ["hall-001"],
            }
        ),
        r"1 pictures, as 'hall-001', are in 'trainval' and 'test'",
    ),
    "twice in a split": (
        spoil_json(splits={"train": ["kitchen-001"] * 2, "val": ["study-001"], "test": ["hall-001"]}),
        r"a picture is in split 'train' twice",
    ),
    "no pictures": (spoil_json(splits={"train": []}), r"no split has a picture"),
}


@pytest.mark.parametrize("case", CHECK_ERRORS)
def test_check_finds(folder: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, message = CHECK_ERRORS[case]
    spoil(folder)
    with pytest.raises(SystemExit) as stopped:
        prepare.main(["check", str(folder)])
    assert re.search(r"\d+ errors?$", str(stopped.value))
    assert re.search(message, capsys.readouterr().err)


def test_check_warns(folder: Path) -> None:
    Image.fromarray(np.zeros((480, 640), np.uint16)).save(folder / "depth" / "kitchen-001.png")
    Image.fromarray(np.full((480, 640), 255, np.uint8)).save(folder / "labels" / "kitchen-002.png")
    Image.fromarray(np.zeros((480, 640, 3), np.uint8)).save(folder / "images" / "forgotten.png")
    content = json.loads((folder / "dataset.json").read_text())
    content["classes"].append({"id": 3, "name": "sofa", "color": [9, 9, 9]})
    del content["intrinsics"]["hall-001"], content["splits"]["test"]
    content["intrinsics"]["study-001"] = [0.9, 1.2, 0.5, 0.5]
    content["splits"]["val"].append("study-002")
    for folder_of in ("images", "labels", "depth"):
        (of,) = (folder / folder_of).glob("kitchen-001.*")
        shutil.copy(of, of.with_stem("study-002"))
    depth = np.full((480, 640), 2000, np.uint16)
    depth[:48] = 65535
    Image.fromarray(depth).save(folder / "depth" / "study-002.png")
    (folder / "dataset.json").write_text(json.dumps(content))
    report = check_folder(folder)
    assert not report.errors
    text = "\n".join(report.warnings)
    for part in (
        "kitchen-001: no valid depth at all",
        "kitchen-002: no label at all",
        "2 pictures in images/ are in no split, as 'forgotten'",
        "no pixel of 1 classes: sofa",
        "split 'test' is missing or empty",
        "study-001: intrinsics (0.9, 1.2, 0.5, 0.5) do not suit 640x480 pixels",
        "the pixels of 1 pictures are not square",
        "of the valid depths are 65535",
        "1 photos of 'val' are, pixel for pixel, photos of 'train': 'study-002' is 'kitchen-001'",
    ):
        assert part in text


def test_check_of_no_data_set() -> None:
    with pytest.raises(SystemExit, match=r"prepare: .*dataset.json: no such file"):
        prepare.main(["check", "/nonexistent"])


def test_check_takes_trainval_for_train_and_val(folder: Path) -> None:
    parts = {"train": ["kitchen-001", "kitchen-002"], "val": ["study-001"]}
    spoil_json(splits=parts | {"trainval": parts["train"] + parts["val"], "test": ["hall-001"]})(folder)
    assert not check_folder(folder).errors


@pytest.mark.parametrize(
    "values", [[1, 2, 3], [0, 0, 0, 0], [float("nan"), 500, 320, 240], [500, -500, 320, 240], ["500"] * 4, "wide"]
)
def test_check_knows_intrinsics_are_four_numbers(folder: Path, values: Any) -> None:
    spoil_json(intrinsics={"hall-001": values})(folder)
    with pytest.raises(DataError, match=r"the intrinsics of 'hall-001' are not fx, fy, cx, cy"):
        check_folder(folder)


# ------------------------------------------------------------------------------------------------ the real files


@needs_nyud
def test_nyud_with_the_real_split_and_mapping(tmp_path: Path) -> None:
    nyud = Nyud(tmp_path, count=1449, size=(6, 8))
    run_nyud(nyud.mat, SHARED / "nyud" / "splits.mat", SHARED / "nyud" / "classMapping40.mat", nyud.out, val=0.05)
    splits = read_info(nyud.out).splits
    assert {k: len(v) for k, v in splits.items() if k in ("trainval", "test")} == {"trainval": 795, "test": 654}
    assert len(splits["train"]) + len(splits["val"]) == 795
    assert 38 <= len(splits["val"]) <= 42
    assert splits["test"][:3] == ["0001", "0002", "0009"]
    mapping = scipy_io.loadmat(SHARED / "nyud" / "classMapping40.mat")["mapClass"][0].astype(int)
    assert [NYU40[mapping[i] - 1].name for i in (2, 4)] == ["cabinet", "chair"]  # labels 3 and 5
    expected = np.concatenate([[IGNORE], mapping - 1])[nyud.labels[1448]]
    assert (read_png(nyud.out / "labels" / "1449.png") == expected).all()


@needs_nyud
def test_nyud_real_pictures(tmp_path: Path) -> None:
    """Five real pictures in the official layout: each 40-class label stored as a label that maps to it."""
    pairs = SHARED / "nyud" / "pairs"
    mapping = scipy_io.loadmat(SHARED / "nyud" / "classMapping40.mat")["mapClass"][0].astype(int)
    back = np.array([0, *(int(np.argmax(mapping == k)) + 1 for k in range(1, 41))], np.uint16)
    numbers = [n for n in (1, 433, 651, 1216, 1449) if read_png(pairs / f"{n:04d}_rgb.png").shape == (480, 640, 3)]
    assert len(numbers) >= 4
    images = np.stack([read_png(pairs / f"{n:04d}_rgb.png") for n in numbers])
    labels = np.stack([read_png(pairs / f"{n:04d}_label40.png") for n in numbers])
    metres = read_png(pairs / "0433_depth_mm.png").astype(np.float32) / 1000
    mat = tmp_path / "nyu.mat"
    with h5py.File(mat, "w") as file:
        file["images"] = images.transpose(0, 3, 2, 1)
        file["labels"] = back[labels].transpose(0, 2, 1)
        file["rawDepths"] = np.stack([metres] * len(numbers)).transpose(0, 2, 1)
    half = {"trainNdxs": [[1], [2]], "testNdxs": [[i] for i in range(3, len(numbers) + 1)]}
    scipy_io.savemat(tmp_path / "splits.mat", half)
    out = tmp_path / "out"
    run_nyud(mat, tmp_path / "splits.mat", SHARED / "nyud" / "classMapping40.mat", out, "raw", val=0)
    for i in range(len(numbers)):
        assert (read_png(out / "images" / f"{i + 1:04d}.png") == images[i]).all()
        assert (read_png(out / "labels" / f"{i + 1:04d}.png") == np.where(labels[i] == 0, 255, labels[i] - 1)).all()
    assert (read_png(out / "depth" / "0001.png") == read_png(pairs / "0433_depth_mm.png")).all()
    report = check_folder(out)
    assert not report.errors
    assert any(line.strip().startswith("0 wall") for line in report.summary)
    assert len(read_info(out).intrinsics) == len(numbers)


@needs_sun
@pytest.mark.parametrize("depth", ["filled", "raw"])
def test_sun_real_samples(tmp_path: Path, depth: str) -> None:
    real = {
        "SUNRGBD/kv2/kinect2data/2014-12-18_11-31-54_260595134347": "2014-12-18_11-31-54_260595134347",
        "SUNRGBD/kv1/b3dodata/img_0063": "img_0063",
    }
    sun = Sun(tmp_path / "official", {})
    for sample, name in real.items():
        shutil.copytree(SHARED / "sunrgbd" / name, sun.root / sample)
    sun.write_split([next(iter(real))], [list(real)[1]])
    meta = np.zeros((1, 2), dtype=[("rgbpath", object)])
    shapes = []
    for i, sample in enumerate(real):
        (picture,) = (sun.root / sample / "image").glob("*.jpg")
        meta[0, i] = (np.array([f"{PREFIX}{sample}/image/{picture.name}"]),)
        shapes.append(read_png(picture).shape[:2])
    scipy_io.savemat(sun.toolbox / "Metadata" / "SUNRGBDMeta.mat", {"SUNRGBDMeta": meta})
    sun.write_labels([np.ones(shape, np.uint8) for shape in shapes])
    prepare_sunrgbd(sun.root, sun.out, depth, val=0)
    for name, focal in (
        ("kv2_kinect2data_2014-12-18_11-31-54_260595134347", 529.5),
        ("kv1_b3dodata_img_0063", 520.532),
    ):
        metres = read_png(sun.out / "depth" / f"{name}.png") / 1000
        if depth == "filled":
            assert (metres > 0).mean() > 0.99
        assert metres[metres > 0].min() > 0.5
        assert 1 < np.median(metres[metres > 0]) < 4
        assert metres.max() < 6
        assert read_info(sun.out).intrinsics[name][0] == focal
    assert not check_folder(sun.out).errors
