"""Evaluation: what each protocol and option measures, with networks whose answer is known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from model.checkpoint import Checkpoint, save_checkpoint
from model.classes import class_set
from model.networks import NetworkConfig
from training import evaluate as evaluation
from training.data import DataError, FolderDataset, read_info
from training.evaluate import evaluate, format_result, network_size, predict, predict_averaged

CLASSES = class_set(("floor", "wall", "table"))


def write_folder(root: Path, sizes: Sequence[tuple[int, int]] = ((48, 64), (48, 64)), **more: Any) -> Path:
    """Pictures whose red channel is 60 times the class; depth is 1 m to the left and 2 m to the right."""
    names = [f"p{i}" for i in range(len(sizes))]
    for part in ("images", "labels", "depth"):
        (root / part).mkdir(parents=True)
    for i, (name, (height, width)) in enumerate(zip(names, sizes, strict=True)):
        label = np.zeros((height, width), np.uint8)
        label[height // 2 :] = 1 + i % 2
        image = np.zeros((height, width, 3), np.uint8)
        image[..., 0] = label * 60
        depth = np.full((height, width), 1000, np.uint16)
        depth[:, width // 2 :] = 2000
        label[0, 0], depth[0, 0] = 255, 0
        Image.fromarray(image).save(root / "images" / f"{name}.png")
        Image.fromarray(label).save(root / "labels" / f"{name}.png")
        Image.fromarray(depth).save(root / "depth" / f"{name}.png")
    content = {
        "format": 1,
        "name": "stripes",
        "license": "CC0-1.0",
        "classes": [{"id": c.id, "name": c.name, "color": list(c.color)} for c in CLASSES],
        "splits": {"test": names},
    }
    (root / "dataset.json").write_text(json.dumps(content | more))
    return root


class Oracle(nn.Module):
    """Reads the class from the red channel, and says the depth is 1 m everywhere."""

    def __init__(self, *tasks: str) -> None:
        super().__init__()
        self.tasks = tasks
        self.weight = nn.Parameter(torch.zeros(1))
        self.sizes: list[tuple[int, int]] = []

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        self.sizes.append((image.shape[2], image.shape[3]))
        red = image[:, :1] * 255 / 60
        outputs = {
            "segmentation": -50 * (red - torch.arange(3.0).view(1, 3, 1, 1)).abs(),
            "depth": torch.ones_like(red),
            "normals": torch.tensor([0.0, 0.0, -2.0]).view(1, 3, 1, 1).expand(-1, -1, *red.shape[2:]),
            "edges": torch.full_like(red, 3.0),
        }
        return {task: outputs[task] for task in self.tasks}


def test_a_known_network_gets_known_figures(tmp_path: Path) -> None:
    dataset = FolderDataset(read_info(write_folder(tmp_path)), "test")
    result = evaluate(Oracle("segmentation", "depth"), dataset, (48, 64))
    values = result["values"]
    assert (values["miou"], values["pixel_acc"]) == (1.0, 1.0)
    pixels = 48 * 64 - 1
    assert values["rmse"] == pytest.approx((48 * 32 / pixels) ** 0.5)  # wrong by 1 m on the right
    assert values["delta1"] == pytest.approx(1 - 48 * 32 / pixels)
    assert result["iou"] == {"floor": 1.0, "wall": 1.0, "table": 1.0}
    assert result["protocol"] == "mtl"
    assert result["augmentation"] is None
    assert "cameras" not in result
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert "stripes test, 2 pictures, protocol mtl" in format_result(result)


@pytest.mark.parametrize("task", ["segmentation", "depth"])
def test_what_is_not_a_number_is_said(tmp_path: Path, task: str) -> None:
    class Broken(Oracle):
        def forward(self, image: Tensor) -> dict[str, Tensor]:
            outputs = super().forward(image)
            return outputs | {task: outputs[task] * float("nan")}

    dataset = FolderDataset(read_info(write_folder(tmp_path)), "test")
    assert not evaluate(Oracle("segmentation", "depth"), dataset, (48, 64))["notes"]
    (note,) = evaluate(Broken("segmentation", "depth"), dataset, (48, 64))["notes"]
    assert note.startswith("of 2 pictures the network gives what is not a number")


@pytest.mark.parametrize("task", ["segmentation", "depth"])
def test_a_network_of_one_task_has_the_figures_of_that_task(tmp_path: Path, task: str) -> None:
    dataset = FolderDataset(read_info(write_folder(tmp_path)), "test")
    for options in ({}, {"flip": True, "scales": (1.0, 0.5)}):
        result = evaluate(Oracle(task), dataset, (48, 64), **options)  # type: ignore[arg-type]
        assert ("miou" in result["values"]) == (task == "segmentation")
        assert ("rmse" in result["values"]) == (task == "depth")
        assert bool(result["iou"]) == (task == "segmentation")


def test_auxiliary_tasks_are_measured_against_labels_made_here(tmp_path: Path) -> None:
    intrinsics = {"p0": [60.0, 60.0, 31.5, 23.5]}
    dataset = FolderDataset(read_info(write_folder(tmp_path, intrinsics=intrinsics)), "test")
    values = evaluate(Oracle("normals", "edges"), dataset, (48, 64))["values"]
    assert values["normals_mean"] == pytest.approx(0, abs=1e-4)  # two walls that face the camera, p1 without intrinsics
    assert values["normals_11.25"] == 1.0
    assert 0 < values["ods_f"] < 0.3  # edges everywhere: all found, few of them right
    averaged = evaluate(Oracle("normals", "edges"), dataset, (48, 64), flip=True)["values"]
    assert averaged == pytest.approx(values)
    without = FolderDataset(read_info(write_folder(tmp_path / "without")), "test")
    assert "normals_mean" not in evaluate(Oracle("normals"), without, (48, 64))["values"]


def test_figures_of_each_camera(tmp_path: Path) -> None:
    root = write_folder(tmp_path, ((48, 64),) * 3, cameras={"p0": "kv1", "p1": "xtion", "p2": "kv1"})
    result = evaluate(Oracle("segmentation", "depth"), FolderDataset(read_info(root), "test"), (48, 64))
    assert {name: part["pictures"] for name, part in result["cameras"].items()} == {"kv1": 2, "xtion": 1}
    assert result["cameras"]["xtion"]["values"]["rmse"] == pytest.approx(result["values"]["rmse"])
    assert "xtion (1): miou 1.0000" in format_result(result)


def test_nothing_valid_gives_no_figure(tmp_path: Path) -> None:
    root = write_folder(tmp_path, ((48, 64),))
    Image.fromarray(np.zeros((48, 64), np.uint16)).save(root / "depth" / "p0.png")
    Image.fromarray(np.full((48, 64), 255, np.uint8)).save(root / "labels" / "p0.png")
    result = evaluate(Oracle("segmentation", "depth"), FolderDataset(read_info(root), "test"), (48, 64))
    assert result["values"] == {}
    assert set(result["iou"].values()) == {None}
    json.dumps(result, allow_nan=False)


# --------------------------------------------------------------------------------------------------------- protocols


def test_eigen_crops_and_is_named(tmp_path: Path) -> None:
    root = write_folder(tmp_path, ((480, 640),), depth={"kind": "raw"})
    depth = np.full((480, 640), 9000, np.uint16)  # beyond the crop all is wrong by 8 m
    depth[45:471, 41:601] = 1000
    depth[100] = 20000  # beyond the cap
    Image.fromarray(depth).save(root / "depth" / "p0.png")
    dataset = FolderDataset(read_info(root), "test")
    eigen = evaluate(Oracle("depth"), dataset, (48, 64), protocol="eigen")
    assert eigen["values"]["rmse"] == 0
    assert eigen["notes"] == []
    assert "protocol eigen (raw depth)" in format_result(eigen)
    assert evaluate(Oracle("depth"), dataset, (48, 64))["values"]["rmse"] > 3


def test_eigen_says_where_it_could_not_crop_and_refuses_filled_depth(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "small", ((480, 640), (48, 64)))
    result = evaluate(Oracle("depth"), FolderDataset(read_info(root), "test"), (48, 64), protocol="eigen")
    assert result["notes"] == ["1 of 2 pictures are not 480x640: not cropped"]
    assert "note: 1 of 2" in format_result(result)
    filled = write_folder(tmp_path / "filled", depth={"kind": "filled"})
    with pytest.raises(DataError, match=r"protocol eigen is for raw depth, this is filled; .*--depth raw"):
        evaluate(Oracle("depth"), FolderDataset(read_info(filled), "test"), (48, 64), protocol="eigen")


# ------------------------------------------------------------------------------------------ test-time augmentation


class Lopsided(nn.Module):
    """Depends on the place: logits and depth grow to the right, normals point to the right."""

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        across = torch.linspace(0, 1, image.shape[3]).expand(1, 1, image.shape[2], -1)
        normals = torch.cat([torch.ones_like(across), torch.zeros_like(across), -torch.ones_like(across)], 1)
        return {"segmentation": torch.cat([across, 1 - across], 1), "depth": 1 + across, "normals": normals}


def test_flip_averages_with_the_mirrored_picture() -> None:
    image = torch.rand(1, 3, 24, 32, generator=torch.Generator().manual_seed(0))
    plain, averaged = predict(Lopsided(), image, (24, 32)), predict_averaged(Lopsided(), image, (24, 32), flip=True)
    softmax = plain["segmentation"].softmax(1)
    torch.testing.assert_close(averaged["segmentation"], (softmax + softmax.flip(3)) / 2)
    torch.testing.assert_close(averaged["depth"], torch.full((1, 1, 24, 32), 1.5))
    torch.testing.assert_close(averaged["normals"][0, :, 0, 0], torch.tensor([0.0, 0.0, -(0.5**0.5)]))


def test_scales_run_at_those_sizes_and_scale_depth_back() -> None:
    """A network for which everything is as near as it looks large: at scale s it says 1 / s."""

    class Apparent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sizes: list[tuple[int, int]] = []

        def forward(self, image: Tensor) -> dict[str, Tensor]:
            self.sizes.append((image.shape[2], image.shape[3]))
            return {"depth": torch.full_like(image[:, :1], 64 / image.shape[3])}

    network = Apparent()
    averaged = predict_averaged(network, torch.zeros(1, 3, 48, 64), (48, 64), (0.75, 1.0, 1.25))
    assert network.sizes == [(36, 48), (48, 64), (60, 80)]
    torch.testing.assert_close(averaged["depth"], torch.ones(1, 1, 48, 64))


@pytest.mark.parametrize(
    ("picture", "size", "run"),
    [
        ((480, 640), (240, 320), (240, 320)),
        ((640, 480), (240, 320), (320, 240)),
        ((480, 640), (320, 240), (240, 320)),
        ((640, 480), (320, 240), (320, 240)),
        ((480, 480), (240, 320), (240, 240)),
        ((360, 640), (240, 320), (180, 320)),
        ((640, 360), (240, 320), (320, 180)),
    ],
)
def test_the_training_size_is_turned_for_the_picture(
    picture: tuple[int, int], size: tuple[int, int], run: tuple[int, int]
) -> None:
    assert network_size(*picture, size) == run


def test_averaging_over_nothing_is_the_plain_prediction(tmp_path: Path) -> None:
    image = torch.rand(1, 3, 30, 40)
    plain, averaged = predict(Lopsided(), image, (24, 32)), predict_averaged(Lopsided(), image, (24, 32))
    torch.testing.assert_close(averaged["segmentation"], plain["segmentation"].softmax(1))
    torch.testing.assert_close(averaged["depth"], plain["depth"])


def test_the_result_says_that_averaging_was_used(tmp_path: Path) -> None:
    dataset = FolderDataset(read_info(write_folder(tmp_path)), "test")
    network = Oracle("segmentation")
    result = evaluate(network, dataset, (48, 64), scales=(0.5, 1.0), flip=True)
    assert result["augmentation"] == {"scales": [0.5, 1.0], "flip": True}
    assert len(network.sizes) == 2 * 2 * len(dataset)
    assert "averaged over scales 0.5, 1 and mirrored" in format_result(result)


# ------------------------------------------------------------------------------------------------- the command line


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command on a folder with a checkpoint whose network is replaced by an oracle of the tasks asked for."""
    root = write_folder(tmp_path / "data")
    path = tmp_path / "checkpoint.safetensors"

    def command(*options: str, tasks: tuple[str, ...] = ("segmentation", "depth"), data: Path = root) -> str:
        config = NetworkConfig("mtl", "resnet18", CLASSES, {})
        save_checkpoint(
            path, Checkpoint(config, {"w": torch.zeros(1)}, {"training": {"size": [48, 64], "zoom": [1.0, 1.5]}})
        )
        monkeypatch.setattr(Checkpoint, "network", lambda self: Oracle(*tasks))
        evaluation.main([str(path), "--data", str(data), "--device", "cpu", "--workers", "0", *options])
        return capsys.readouterr().out

    return command


def test_command_prints_for_people_and_json(run: Any) -> None:
    assert "stripes test, 2 pictures, protocol eigen" in run("--protocol", "eigen")
    result = json.loads(run("--json", "--flip", "--scales", "0.75,1"))
    assert result["augmentation"] == {"scales": [0.75, 1.0], "flip": True}
    assert result["notes"] == ["scales 0.75: outside the zoom 1 to 1.5 of its training"]


def test_command_takes_the_colours_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    config = NetworkConfig("mtl", "resnet18", CLASSES, {})
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, Checkpoint(config, config.build().state_dict(), {"training": {"size": [48, 64]}}))
    command = [str(path), "--data", str(write_folder(tmp_path / "data")), "--device", "cpu", "--workers", "0", "--json"]
    results = []
    for more in ([], ["--saturation", "1"], ["--saturation", "0"]):
        evaluation.main([*command, *more])
        results.append(json.loads(capsys.readouterr().out))
    plain, all_of_them, none = results
    assert [result["saturation"] for result in results] == [1.0, 1.0, 0.0]
    assert plain == all_of_them and none["values"]["rmse"] != plain["values"]["rmse"]
    assert plain["notes"] == [] and none["notes"] == ["the network sees 0% of the colours"]
    trained = NetworkConfig("mtl", "resnet18", CLASSES, {"saturation": 0.5})
    save_checkpoint(path, Checkpoint(trained, trained.build().state_dict(), {"training": {"size": [48, 64]}}))
    evaluation.main(command)
    assert json.loads(capsys.readouterr().out)["saturation"] == 0.5


def test_command_computes_delta_m(run: Any, tmp_path: Path) -> None:
    files = []
    for task in ("segmentation", "depth"):
        files.append(tmp_path / f"{task}.json")
        files[-1].write_text(run("--json", tasks=(task,)))
    assert "delta_m +0.00 % against" in run("--baseline", *map(str, files))
    worse = json.loads(files[0].read_text())
    worse["values"]["miou"] = 0.8
    files[0].write_text(json.dumps(worse))
    result = json.loads(run("--json", "--baseline", *map(str, files)))
    assert result["delta_m"] == pytest.approx((1 / 0.8 - 1) / 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocol": "eigen"}, "measured with protocol eigen, not mtl"),
        ({"split": "val"}, "measured with split val, not test"),
        ({"values": None}, "not a result of evaluate --json"),
        ({"values": {"pixel_acc": 0.5}}, "--baseline: the baseline has none of"),
        ({"values": {"normals_mean": 20.0}}, "the baseline has normals_mean .normals., the network measured here has"),
    ],
)
def test_command_refuses_a_baseline_that_does_not_compare(
    run: Any, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "single.json"
    path.write_text(json.dumps(json.loads(run("--json")) | change))
    with pytest.raises(SystemExit, match=message):
        run("--baseline", str(path))
    with pytest.raises(SystemExit, match="no such file"):
        run("--baseline", str(tmp_path / "missing.json"))


def test_command_refuses_two_baselines_of_one_task_and_odd_scales(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "single.json"
    path.write_text(run("--json"))
    with pytest.raises(SystemExit, match="another baseline has"):
        run("--baseline", str(path), str(path))
    for scales in ("", "a", "0", "1,,2"):
        with pytest.raises(SystemExit, match="2"):
            run("--scales", scales)


def test_command_refuses_other_classes(run: Any, tmp_path: Path) -> None:
    other = write_folder(tmp_path / "other", classes=[{"id": 0, "name": "sky", "color": [1, 2, 3]}])
    with pytest.raises(SystemExit, match="its classes are not those of"):
        run(data=other)
    colours = [{"id": c.id, "name": c.name, "color": [7, 7, 7]} for c in CLASSES]
    assert "miou 1.0000" in run(data=write_folder(tmp_path / "colours", classes=colours))


def test_command_refuses_devices_and_workers_that_cannot_be(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for device in ("foo", "meta") if torch.cuda.is_available() else ("foo", "meta", "cuda"):
        with pytest.raises(SystemExit, match=rf"^evaluate: --device {device}: [^\n]+$"):
            run("--device", device)
    with pytest.raises(SystemExit):
        run("--workers", "-1")
    assert capsys.readouterr().err.endswith("error: --workers must be at least 0\n")


@pytest.mark.parametrize("size", [(48, 64), (64, 48)])
def test_depth_for_one_focal_length_is_brought_to_that_of_the_picture(tmp_path: Path, size: tuple[int, int]) -> None:
    # The network says 1 m everywhere for a lens of half a width; these pictures have one of a whole width.
    folder = write_folder(tmp_path, intrinsics={name: [64.0, 64.0, 31.5, 23.5] for name in ("p0", "p1")})
    values = evaluate(Oracle("depth"), FolderDataset(read_info(folder), "test"), size, focal=0.5)["values"]
    pixels = 48 * 64 - 1
    assert values["rmse"] == pytest.approx(((48 * 32 - 1) / pixels) ** 0.5)  # now the left is wrong by 1 m


def test_pictures_whose_focal_length_is_not_known_are_counted_in_a_note(tmp_path: Path) -> None:
    dataset = FolderDataset(read_info(write_folder(tmp_path, intrinsics={"p0": [64.0, 64.0, 31.5, 23.5]})), "test")
    result = evaluate(Oracle("depth"), dataset, (48, 64), focal=0.5)
    assert result["notes"] == ["1 of 2 pictures have no intrinsics: depth as of a focal length of 0.5"]
    assert evaluate(Oracle("depth"), dataset, (48, 64))["notes"] == []
    assert evaluate(Oracle("segmentation"), dataset, (48, 64), focal=0.5)["notes"] == []
    known = write_folder(tmp_path / "known", intrinsics={name: [64.0, 64.0, 31.5, 23.5] for name in ("p0", "p1")})
    assert evaluate(Oracle("depth"), FolderDataset(read_info(known), "test"), (48, 64), focal=0.5)["notes"] == []
