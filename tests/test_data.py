"""The data set format, its refusals, batch order and augmentation."""

from __future__ import annotations

import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image
from test_service_images import swapped_profile

from model.classes import IGNORE
from service.images import decode
from training.augment import Augmentation, Box, Picture, jitter, resample
from training.data import DataError, FolderDataset, StepSampler, joined, read_info, read_infos
from training.evaluate import network_size
from training.targets import boundary_edges, surface_normals


def write_folder(root: Path, pictures: int = 4, size: tuple[int, int] = (12, 16)) -> dict[str, Any]:
    """A small, valid data set of three classes; returns what its dataset.json holds."""
    rng = np.random.default_rng(0)
    names = [f"{i:06d}" for i in range(pictures)]
    for folder in ("images", "labels", "depth"):
        (root / folder).mkdir(parents=True)
    for name in names:
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(root / "images" / f"{name}.jpg")
        label = rng.integers(0, 3, size, dtype=np.uint8)
        label[0, 0] = IGNORE
        Image.fromarray(label).save(root / "labels" / f"{name}.png")
        Image.fromarray(rng.integers(0, 9000, size).astype(np.uint16)).save(root / "depth" / f"{name}.png")
    raw = {
        "format": 1,
        "name": "tiny",
        "license": "CC0-1.0",
        "classes": [{"id": i, "name": n, "color": [i, i, i]} for i, n in enumerate(("wall", "floor", "bed"))],
        "splits": {"train": names[:-1], "val": names[-1:]},
    }
    (root / "dataset.json").write_text(json.dumps(raw))
    return raw


def test_a_sample_has_the_values_on_disk(tmp_path: Path) -> None:
    write_folder(tmp_path)
    dataset = FolderDataset(read_info(tmp_path), "train")
    sample = dataset[(0, 1)]
    assert sample["name"] == "000001"
    assert sample["image"].shape == (3, 12, 16)
    assert sample["image"].min() >= 0 and sample["image"].max() <= 1
    depth = np.asarray(Image.open(tmp_path / "depth" / "000001.png"))
    np.testing.assert_allclose(sample["depth"].numpy(), depth / 1000, rtol=1e-6)
    assert sample["label"][0, 0] == IGNORE
    np.testing.assert_array_equal(sample["label"].numpy(), np.asarray(Image.open(tmp_path / "labels" / "000001.png")))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda raw: raw.pop("classes"), "incomplete or wrong"),
        (lambda raw: raw.update(format=9), "format 9, this version reads 1"),
        (lambda raw: raw["classes"].pop(0), "must count up from 0"),
        (lambda raw: raw.update(splits=[]), "incomplete or wrong"),
        (lambda raw: raw["classes"][1].update(name=raw["classes"][0]["name"]), "two classes are called 'wall'"),
        (lambda raw: raw["classes"][1].update(color="#804000"), "the colour of class 'floor' is not three numbers"),
        (lambda raw: raw["classes"][2].update(color=[300, 0, 0]), "the colour of class 'bed' is not three numbers"),
        (lambda raw: raw["classes"][2].update(color=[0.5, 0, 0]), "the colour of class 'bed' is not three numbers"),
        (lambda raw: raw["classes"][0].update(color=None), "incomplete or wrong"),
        (lambda raw: raw["classes"][1].update(name=" "), "class 1 has no name"),
    ],
)
def test_a_wrong_description_is_refused(tmp_path: Path, change: Any, reason: str) -> None:
    raw = write_folder(tmp_path)
    change(raw)
    (tmp_path / "dataset.json").write_text(json.dumps(raw))
    with pytest.raises(DataError, match=reason):
        read_info(tmp_path)


def test_no_description_and_no_json_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_info(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        read_info(tmp_path)


def test_an_empty_or_unknown_split_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path)
    with pytest.raises(DataError, match=r"split 'test' is missing or empty; there are: train \(3\), val \(1\)"):
        FolderDataset(read_info(tmp_path), "test")


def damage_size(root: Path) -> None:
    Image.fromarray(np.zeros((3, 3), np.uint16)).save(root / "depth" / "000000.png")


def damage_label(root: Path) -> None:
    Image.fromarray(np.full((12, 16), 3, np.uint8)).save(root / "labels" / "000000.png")


def damage_mode(root: Path) -> None:
    Image.fromarray(np.zeros((12, 16), np.uint8)).save(root / "depth" / "000000.png")


def damage_file(root: Path) -> None:
    path = root / "images" / "000000.jpg"
    path.write_bytes(path.read_bytes()[:100])


def damage_missing(root: Path) -> None:
    (root / "labels" / "000000.png").unlink()


def damage_bits(root: Path) -> None:
    # Pillow writes no grey of 4 bits: a palette's file, called grey, without its palette.
    picture = Image.new("P", (16, 12))
    picture.putpalette(bytes(3 * 16))
    picture.save(path := root / "labels" / "000000.png", bits=4)
    data = path.read_bytes()
    header = data[12:25] + b"\0" + data[26:29]
    at = data.index(b"PLTE") - 4
    end = at + 12 + int.from_bytes(data[at : at + 4], "big")
    path.write_bytes(data[:12] + header + zlib.crc32(header).to_bytes(4, "big") + data[33:at] + data[end:])


def damage_size_of_photo(root: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(root / "images" / "000000.png")
    (root / "images" / "000000.jpg").unlink()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (damage_size, "3x3 pixels, its picture has 16x12"),
        (damage_label, "label 3 is outside the class set of 3"),
        (damage_mode, "pixel mode L, expected I;16"),
        (damage_file, "cannot be read"),
        (damage_missing, "no such file"),
        (damage_bits, "grey of less than 8 bits"),
        (damage_size_of_photo, "cannot be read .*could be decompression bomb"),
    ],
)
def test_a_damaged_picture_is_refused_by_name(tmp_path: Path, damage: Any, reason: str) -> None:
    write_folder(tmp_path)
    damage(tmp_path)
    with pytest.raises(DataError, match=reason) as caught:
        FolderDataset(read_info(tmp_path), "train")[(0, 0)]
    assert "000000" in str(caught.value)


@pytest.mark.parametrize("corrupt", [False, True])
def test_a_picture_is_turned_as_its_exif_says(tmp_path: Path, corrupt: bool) -> None:
    write_folder(tmp_path)
    path = tmp_path / "images" / "000000.jpg"
    stored = np.asarray(Image.open(path).transpose(Image.Transpose.ROTATE_90))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned clockwise
    Image.fromarray(stored).save(path, exif=exif, quality=95)
    upright = np.rot90(np.asarray(Image.open(path)), -1)
    if corrupt:
        path.write_bytes(path.read_bytes().replace(b"Exif\0\0MM", b"Exif\0\0XX"))
    dataset = FolderDataset(read_info(tmp_path), "train")
    if corrupt:  # and lies on its side
        with pytest.raises(DataError, match="16x12 pixels, its picture has 12x16"):
            dataset.read("000000")
    else:
        assert upright.shape == (12, 16, 3)
        np.testing.assert_array_equal(dataset.read("000000").image, upright)


@pytest.mark.parametrize("ending", [".JPG", ".jpeg", ".PNG"])
def test_photos_have_the_endings_that_cameras_give_them(tmp_path: Path, ending: str) -> None:
    write_folder(tmp_path)
    path = tmp_path / "images" / "000000.jpg"
    stored = np.asarray(Image.open(path))
    if ending == ".PNG":
        Image.fromarray(stored).save(path.with_suffix(ending))
        path.unlink()
    else:
        path.rename(path.with_suffix(ending))
    np.testing.assert_array_equal(FolderDataset(read_info(tmp_path), "train").read("000000").image, stored)


@pytest.mark.parametrize("kind", ["16 bits", "transparent", "profile", "palette", "CMYK"])
def test_photos_are_read_as_they_will_be_served(tmp_path: Path, kind: str) -> None:
    write_folder(tmp_path)
    (tmp_path / "images" / "000000.jpg").unlink()
    path = tmp_path / "images" / "000000.png"
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    if kind == "16 bits":
        Image.fromarray(rng.integers(0, 65536, (12, 16)).astype(np.uint16)).save(path)
    elif kind == "transparent":
        picture.putalpha(Image.fromarray(rng.integers(0, 256, (12, 16), dtype=np.uint8)))
        picture.save(path)
    elif kind == "profile":
        picture.save(path, icc_profile=swapped_profile())
    elif kind == "palette":
        picture.quantize(16).save(path, transparency=3)
    else:
        path = path.with_suffix(".jpg")
        picture.convert("CMYK").save(path)
    served = decode(path.read_bytes(), 10**6)
    found = FolderDataset(read_info(tmp_path), "train").read("000000").image
    np.testing.assert_array_equal(found, served)
    assert found.std() > 20


def test_every_epoch_is_a_permutation_and_any_start_gives_the_same_rest() -> None:
    straight = list(StepSampler(10, 3, epochs=3, seed=5))
    assert len(straight) == len(StepSampler(10, 3, epochs=3, seed=5)) == 9
    for epoch in range(3):
        keys = [key for batch in straight[3 * epoch : 3 * epoch + 3] for key in batch]
        assert {e for e, _ in keys} == {epoch}
        assert len({i for _, i in keys}) == 9  # one of ten is left over by batches of three
    assert straight[0] != [(0, i) for _, i in straight[3]]
    for start in range(10):
        assert list(StepSampler(10, 3, epochs=3, seed=5, start=start)) == straight[start:]


def test_processes_share_the_batches_of_one() -> None:
    whole = list(StepSampler(10, 4, epochs=2, seed=5))
    halves = [list(StepSampler(10, 4, epochs=2, seed=5, rank=rank, processes=2)) for rank in (0, 1)]
    assert [a + b for a, b in zip(*halves, strict=True)] == whole
    # In two parts, each of four pictures: those of one process, shared.
    whole = list(StepSampler(16, 8, epochs=2, seed=5))
    halves = [list(StepSampler(16, 8, epochs=2, seed=5, rank=rank, processes=2, parts=2)) for rank in (0, 1)]
    assert [a[:2] + b[:2] + a[2:] + b[2:] for a, b in zip(*halves, strict=True)] == whole


def coded(height: int, width: int) -> Picture:
    """A picture in which colour, label and depth all tell the pixel's place."""
    row, column = np.mgrid[:height, :width]
    image = np.stack([row, column, np.zeros_like(row)], axis=-1).astype(np.uint8)
    return Picture(image, (row % 200).astype(np.uint8), (1000 + 10 * column).astype(np.uint16))


def test_resampling_to_the_same_size_changes_nothing() -> None:
    picture = coded(20, 30)
    out = resample(picture, Box(0, 0, 30, 20), (20, 30))
    for before, after in zip(picture, out, strict=True):
        np.testing.assert_array_equal(before, after)


def test_resampling_beyond_the_border_ignores_what_is_not_there() -> None:
    out = resample(coded(20, 30), Box(-10, -5, 40, 25), (30, 50))
    assert out.label.shape == (30, 50)
    np.testing.assert_array_equal(out.label[5:25, 10:40], coded(20, 30).label)
    np.testing.assert_array_equal(out.image[5:25, 10:40], coded(20, 30).image)
    border = np.ones((30, 50), bool)
    border[5:25, 10:40] = False
    assert (out.label[border] == IGNORE).all()
    assert (out.depth[border] == 0).all()


def test_a_border_of_less_than_half_a_pixel() -> None:
    out = resample(coded(20, 30), Box(-0.3, -0.2, 30.3, 20.2), (20, 30))
    assert (out.label == coded(20, 30).label).all()  # each nearest pixel is in the picture
    assert np.abs(out.image.astype(int) - coded(20, 30).image).max() < 60  # a little of the border is mixed in


def test_zoom_divides_depth_and_keeps_the_three_aligned() -> None:
    augment = Augmentation((40, 60), zoom=(2.0, 2.0), flip=False, color=0)
    picture = coded(80, 120)
    out = augment(picture, np.random.default_rng(1))
    # A 20x30 window of the 40x60-shaped picture, twice enlarged: neighbours repeat, and depth is halved.
    column = (out.depth.astype(int) * 2 - 1000) / 10
    assert np.abs(column - out.image[..., 1]).max() <= 1
    assert np.abs(out.label.astype(int) - out.image[..., 0]).max() <= 1


@pytest.mark.parametrize(
    ("height", "width"), [(90, 160), (160, 90), (120, 160), (160, 120), (100, 100), (50, 160), (24, 32), (480, 640)]
)
def test_depth_is_learnt_at_the_scale_at_which_it_is_measured(height: int, width: int) -> None:
    """A network sees only how large things are: they must be as far as in evaluation where they are as large."""
    size = (24, 32)
    augment = Augmentation(size, zoom=(0.8, 1.6), color=0)
    far = np.full((height, width), 4000, np.uint16)
    picture = Picture(np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint8), far)
    for seed in range(8):
        view = augment.view(picture, np.random.default_rng(seed))
        larger = size[0] / (view.box.bottom - view.box.top) / (max(network_size(height, width, size)) / max(far.shape))
        depth = augment.show(picture, view, np.random.default_rng(seed)).depth
        np.testing.assert_allclose(depth[depth > 0], 4000 / larger, rtol=0.02)  # whole pixels in evaluation
        drawn = float(np.exp(np.random.default_rng(seed).uniform(*np.log((0.8, 1.6)))))
        if height / width == size[0] / size[1]:
            assert view.zoom == drawn
        else:
            assert view.zoom > drawn


def test_invalid_depth_stays_invalid() -> None:
    picture = Picture(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint16))
    assert not Augmentation((8, 8), zoom=(0.5, 2.0))(picture, np.random.default_rng(0)).depth.any()


def test_depth_beyond_what_fits_is_invalid() -> None:
    depth = np.full((8, 8), 40_000, np.uint16)
    depth[:, :4] = 30_000
    picture = Picture(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8), depth)
    out = Augmentation((8, 8), zoom=(0.5, 0.5), flip=False)(picture, np.random.default_rng(0))
    # 80 m is more than 16 bits of millimetres hold, 60 m is not.
    assert set(np.unique(out.depth)) == {0, 60_000}


def test_flip_mirrors_all_three() -> None:
    augment = Augmentation((20, 30), zoom=(1.0, 1.0), color=0)
    picture = coded(20, 30)
    seen = set()
    for seed in range(20):
        out = augment(picture, np.random.default_rng(seed))
        flipped = out.depth[0, 0] > out.depth[0, -1]
        seen.add(bool(flipped))
        for before, after in zip(picture, out, strict=True):
            np.testing.assert_array_equal(before[:, ::-1] if flipped else before, after)
    assert seen == {True, False}


def test_augmentation_depends_on_seed_epoch_and_picture_alone(tmp_path: Path) -> None:
    write_folder(tmp_path)
    info = read_info(tmp_path)
    first = FolderDataset(info, "train", Augmentation((12, 16)), seed=3)
    again = FolderDataset(info, "train", Augmentation((12, 16)), seed=3)
    first[(0, 2)], first[(5, 0)]  # what was asked before must not matter
    assert first[(1, 0)]["image"].equal(again[(1, 0)]["image"])
    assert not first[(1, 0)]["image"].equal(first[(2, 0)]["image"])


def test_colour_changes_colour_only_within_bytes() -> None:
    image = np.random.default_rng(0).integers(0, 256, (10, 10, 3), dtype=np.uint8)
    np.testing.assert_array_equal(jitter(image, 0.0, np.random.default_rng(0)), image)
    changed = jitter(image, 1.0, np.random.default_rng(0))
    assert changed.dtype == np.uint8
    assert (changed != image).any()


@pytest.mark.parametrize("color", [0.0, 0.7])
def test_grey_is_the_luma_of_the_coloured_picture(color: float) -> None:
    coloured, grey = (Augmentation((40, 60), color=color, grey=share) for share in (0.0, 1.0))
    picture = coded(80, 120)
    for seed in range(5):
        before, after = (augment(picture, np.random.default_rng(seed)) for augment in (coloured, grey))
        assert (before.image[..., 0] != before.image[..., 1]).any()
        luma = np.asarray(Image.fromarray(before.image).convert("L"))
        for channel in range(3):
            np.testing.assert_array_equal(after.image[..., channel], luma)
        np.testing.assert_array_equal(after.label, before.label)
        np.testing.assert_array_equal(after.depth, before.depth)


def test_grey_0_draws_nothing_and_a_share_is_drawn_of_the_pictures() -> None:
    picture = coded(20, 30)

    def draws(grey: float) -> bool:
        augment, rng = Augmentation((20, 30), color=0, grey=grey), np.random.default_rng(0)
        view = augment.view(picture, rng)
        before = rng.bit_generator.state
        augment.show(picture, view, rng)
        return rng.bit_generator.state != before

    assert draws(0.25) and not draws(0)
    images = [Augmentation((20, 30), grey=0.25)(picture, np.random.default_rng(seed)).image for seed in range(200)]
    assert 30 < sum(bool((image[..., 0] == image[..., 1]).all()) for image in images) < 70


# --------------------------------------------------------------------------------------------- several folders


def write_three(root: Path) -> list[Path]:
    """Two folders, and a third that holds the pictures of both, those of the first first."""
    parts = [root / "a", root / "b"]
    whole = write_folder(root / "whole", pictures=1)  # replaced below
    whole |= {"name": "tiny + other", "splits": {"train": [], "val": []}, "intrinsics": {}}
    for part, size in zip(parts, ((48, 64), (30, 44)), strict=True):
        write_plane(part, size)
        raw = json.loads((part / "dataset.json").read_text())
        for split, names in raw["splits"].items():
            whole["splits"][split] += [f"{part.name}-{name}" for name in names]
        for name, values in raw["intrinsics"].items():
            whole["intrinsics"][f"{part.name}-{name}"] = values
            for folder, suffix in (("images", "jpg"), ("labels", "png"), ("depth", "png")):
                file = root / "whole" / folder / f"{part.name}-{name}.{suffix}"
                shutil.copy(part / folder / f"{name}.{suffix}", file)
    change(parts[1], name="other", license="CC-BY-4.0", attribution="by B")
    (root / "whole" / "dataset.json").write_text(json.dumps(whole))
    return [*parts, root / "whole"]


def change(root: Path, **values: Any) -> None:
    raw = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps(raw | values))


def test_several_folders_give_what_one_with_all_their_pictures_gives(tmp_path: Path) -> None:
    a, b, whole = write_three(tmp_path)
    info = joined(read_infos([a, b]))
    more: dict[str, Any] = {"seed": 3, "auxiliary_tasks": ("normals", "edges"), "focal": 0.8}
    for split, pictures in (("train", 6), ("val", 2)):
        two, one = (FolderDataset(i, split, Augmentation((24, 32)), **more) for i in (info, read_info(whole)))
        assert len(two) == len(one) == pictures
        for index in range(pictures):
            sample, expected = two[(1, index)], one[(1, index)]
            folder, name = expected["name"].split("-")
            assert sample.pop("name") == str(tmp_path / folder / name) and expected.pop("name")  # type: ignore[misc]
            assert sample.keys() == expected.keys() == {"image", "label", "depth", "normals", "edges"}
            assert all(value.equal(expected[key]) for key, value in sample.items())  # type: ignore[attr-defined, literal-required]


def test_what_is_said_of_several_folders(tmp_path: Path) -> None:
    a, b, _ = write_three(tmp_path)
    change(a, cameras={"000000": "phone"}, depth={"kind": "raw"})
    change(b, depth={"kind": "raw"})
    info = joined(read_infos([a, b]))
    assert (info.name, info.license, info.attribution) == ("tiny + other", "CC0-1.0 + CC-BY-4.0", "by B")
    assert (info.cameras, info.depth_kind) == ({f"{a}/000000": "phone"}, "raw")
    change(b, depth={"kind": "filled"}, name="tiny", license="CC0-1.0")
    infos = read_infos([a, b])
    both = joined(infos)
    assert (both.name, both.license, both.depth_kind) == ("tiny", "CC0-1.0", "")
    assert joined(infos[:1]) is infos[0]


def test_folders_that_cannot_be_joined(tmp_path: Path) -> None:
    a, b, _ = write_three(tmp_path)
    (tmp_path / "link").symlink_to(a)
    for again in (a, tmp_path / "b" / ".." / "a", tmp_path / "link"):
        with pytest.raises(DataError, match=f"^{again}: this data set folder is given twice$"):
            read_infos([a, b, again])
    raw = json.loads((b / "dataset.json").read_text())
    change(b, classes=[*raw["classes"][:2], {"id": 2, "name": "sofa", "color": [2, 2, 2]}])
    with pytest.raises(DataError, match=f"^{b}: its classes are not those of {a}$"):
        read_infos([a, b])
    change(b, classes=[c | {"color": [9, 9, 9]} for c in raw["classes"]])
    infos = read_infos([a, b])
    assert joined(infos).classes == infos[0].classes != infos[1].classes


# ------------------------------------------------------------------------------------------- auxiliary targets


def write_plane(root: Path, size: tuple[int, int] = (48, 64)) -> tuple[float, float, float, float]:
    """A data set whose pictures show a slanted plane with two classes; returns the intrinsics."""
    raw = write_folder(root, size=size)
    fx, fy, cx, cy = 60.0, 60.0, 30.0, 22.0
    row, column = np.mgrid[: size[0], : size[1]]
    # n . p = -2000 with n = (0.5, 0.3, -sqrt(0.66)): the depth along each ray in millimetres.
    n = np.array([0.5, 0.3, -np.sqrt(0.66)])
    depth = -2000 / (n[0] * (column - cx) / fx + n[1] * (row - cy) / fy + n[2])
    for name in raw["splits"]["train"] + raw["splits"]["val"]:
        Image.fromarray(np.round(depth).astype(np.uint16)).save(root / "depth" / f"{name}.png")
        Image.fromarray((column > 20).astype(np.uint8)).save(root / "labels" / f"{name}.png")
    raw["intrinsics"] = {name: [fx, fy, cx, cy] for name in raw["splits"]["train"] + raw["splits"]["val"]}
    (root / "dataset.json").write_text(json.dumps(raw))
    return fx, fy, cx, cy


def test_auxiliary_targets_are_there_only_when_asked_for(tmp_path: Path) -> None:
    intrinsics = write_plane(tmp_path)
    info = read_info(tmp_path)
    assert set(FolderDataset(info, "train")[(0, 0)]) == {"image", "label", "depth", "name"}
    assert "normals" not in FolderDataset(info, "train", auxiliary_tasks=("edges",))[(0, 0)]
    sample = FolderDataset(info, "train", auxiliary_tasks=("normals", "edges"))[(0, 0)]
    depth, label = sample["depth"].numpy(), sample["label"].numpy().astype(np.uint8)
    np.testing.assert_allclose(
        sample["normals"].permute(1, 2, 0).numpy(), surface_normals(depth, intrinsics, 1), atol=1e-4
    )
    np.testing.assert_array_equal(sample["edges"].numpy(), boundary_edges(label, bridge=1))
    assert sample["edges"].sum() == 2 * 48  # between columns 20 and 21, on both sides


@pytest.mark.parametrize("zoom", [0.5, 1.0, 1.5])
def test_normals_are_those_of_the_picture_itself_at_any_zoom(tmp_path: Path, zoom: float) -> None:
    fx, fy, cx, cy = write_plane(tmp_path)
    name = read_info(tmp_path).splits["train"][0]
    path = tmp_path / "depth" / f"{name}.png"
    with Image.open(path) as file:
        depth = np.asarray(file).astype(np.int64)
    depth += np.random.default_rng(0).integers(-20, 21, depth.shape)  # a sensor's noise, of its own pixels
    depth[:, :3] = 0
    Image.fromarray(depth.astype(np.uint16)).save(path)
    normals = surface_normals(depth, (fx, fy, cx, cy), 1)
    augment = Augmentation((48, 64), zoom=(zoom, zoom), color=0)
    dataset = FolderDataset(read_info(tmp_path), "train", augment, auxiliary_tasks=("normals",))
    picture = Picture(np.zeros((48, 64, 3), np.uint8), np.zeros((48, 64), np.uint8), depth.astype(np.uint16))
    seen = set()
    for epoch in range(8):
        view = augment.view(picture, np.random.default_rng([0, epoch, 0]))
        # A pixel of the crop lies in that of the picture whose square holds its middle.
        row = np.floor(view.box.top + (np.arange(48) + 0.5) / zoom).astype(int)
        column = np.floor(view.box.left + (np.arange(64) + 0.5) / zoom).astype(int)
        expected = np.zeros((48, 64, 3), np.float32)
        for i, j in np.ndindex(48, 64):
            if 0 <= row[i] < 48 and 0 <= column[j] < 64:
                expected[i, j] = normals[row[i], column[j]]
        if view.flip:
            expected = expected[:, ::-1] * np.array([-1, 1, 1], np.float32)
        sample = dataset[(epoch, 0)]
        np.testing.assert_array_equal(sample["normals"].permute(1, 2, 0).numpy(), expected)
        valid = sample["depth"].numpy() > 0
        assert not sample["normals"].numpy()[:, ~valid].any()
        seen.add(view.flip)
    assert seen == {True, False}


def test_normals_without_intrinsics_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path)
    with pytest.raises(DataError, match="no intrinsics for '000000', which normals need"):
        FolderDataset(read_info(tmp_path), "train", auxiliary_tasks=("normals",))
    FolderDataset(read_info(tmp_path), "train", auxiliary_tasks=("edges",))


@pytest.mark.parametrize("zoom", [1.0, 1.6])
def test_depth_for_a_focal_length_does_not_depend_on_zoom_or_lens(tmp_path: Path, zoom: float) -> None:
    fx, _, _, _ = write_plane(tmp_path)
    augment = Augmentation((24, 32), zoom=(zoom, zoom), flip=False, color=0)
    plain = FolderDataset(read_info(tmp_path), "train", augment)
    normal = FolderDataset(read_info(tmp_path), "train", augment, focal=0.75)
    # What is seen of 60 pixels' focal length in 64 pixels' width is 0.9375 longer sides; the zoom is in the depth.
    scale = 0.75 / (fx / 64)
    np.testing.assert_allclose(normal[(3, 0)]["depth"].numpy(), plain[(3, 0)]["depth"].numpy() * scale, rtol=1e-5)


@pytest.mark.parametrize("size", [(45, 80), (80, 45)])
def test_depth_for_a_focal_length_in_pictures_of_another_shape(tmp_path: Path, size: tuple[int, int]) -> None:
    """All that counts is the focal length in longer sides of what is seen."""
    fx, *_ = write_plane(tmp_path, size)
    for name in ("000000", "000001", "000002"):
        Image.fromarray(np.full(size, 3000, np.uint16)).save(tmp_path / "depth" / f"{name}.png")
    augment = Augmentation((24, 32), zoom=(1.0, 1.6), color=0)
    dataset = FolderDataset(read_info(tmp_path), "train", augment, focal=0.75)
    for epoch in range(4):
        view = augment.view(dataset.read("000000"), np.random.default_rng([0, epoch, 0]))
        seen = fx / (view.box.right - view.box.left)
        np.testing.assert_allclose(dataset[(epoch, 0)]["depth"].numpy(), 3 * 0.75 / seen, rtol=1e-3)


def test_depth_for_a_focal_length_at_a_portrait_training_size(tmp_path: Path) -> None:
    fx, *_ = write_plane(tmp_path, (64, 48))
    augment = Augmentation((32, 24), zoom=(1.0, 1.0), flip=False, color=0)
    plain = FolderDataset(read_info(tmp_path), "train", augment)
    normal = FolderDataset(read_info(tmp_path), "train", augment, focal=0.75)
    scale = 0.75 / (fx / 64)  # the longer side is the height
    np.testing.assert_allclose(normal[(0, 0)]["depth"].numpy(), plain[(0, 0)]["depth"].numpy() * scale, rtol=1e-5)


def test_a_focal_length_needs_intrinsics(tmp_path: Path) -> None:
    write_folder(tmp_path)
    with pytest.raises(DataError, match="no intrinsics for '000000', which --focal needs"):
        FolderDataset(read_info(tmp_path), "train", focal=0.8)
