"""Every network there is: exported in agreement with PyTorch, and its file in the service answers as PyTorch does."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from service_client import encode, opened, serving
from test_export import INFO, checkpoint

from deploy import export as exporter
from model.checkpoint import save_checkpoint
from model.networks import NETWORKS, count_parameters
from service.app import create_app
from service.settings import Settings

SIZES = [(192, 256), (150, 203)]  # the second is a multiple of no stride
SINGLE_TASK = ("stl_aspp", "stl_aspp_depth")  # served as one file
BACKBONE_OF = {"mtl_spp": "resnet50"}  # the paper's, whose blocks are of another kind
# The pyramid of MTI-Net as narrow as the tests' patience; HRNet has none.
OPTIONS = {("mti_net", "resnet18"): {"pyramid_width": 64}}
OTHER_DATA = {"name": "other", "license": "MIT", "pictures": 30, "min_depth_m": 0.25, "max_depth_m": 4.0}


def exported(folder: Path, backbone: str, *networks: str) -> tuple[Path, dict[str, Any], torch.nn.Module]:
    """The ONNX file of untrained networks, its card, and the network in PyTorch. Each says that it has its own data."""
    paths = []
    for name, data in zip(networks, (INFO["data"], OTHER_DATA), strict=False):
        options = OPTIONS.get((name, backbone))
        paths.append(checkpoint(folder / name, name, backbone, {**INFO, "data": data}, options))
        spread_maps(paths[-1])
    file = folder / "model.onnx"
    sizes = ",".join(f"{height}x{width}" for height, width in SIZES)
    exporter.main([*map(str, reversed(paths)), "--out", str(file), "--sizes", sizes])
    card = json.loads(onnxruntime.InferenceSession(file).get_modelmeta().custom_metadata_map["segdepth"])
    return file, card, exporter.join([exporter.load_checkpoint(path) for path in paths])[0]


def spread_maps(path: Path) -> None:
    """Scales an untrained network's classifiers so that a picture gets many classes, and depths over metres.

    As they start, one class wins everywhere and depth is flat: maps that agree whatever goes wrong.
    """
    loaded = exporter.load_checkpoint(path)
    network = loaded.network()
    picture = torch.from_numpy(exporter.load_pictures(None, (128, 160), 1)).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        for task, maps in network(picture).items():
            scale = {"segmentation": 1.0, "depth": 0.4}[task] / maps.std(dim=(0, 2, 3))
            classifier = getattr(network.heads[task], "classifier", network.heads[task])
            classifier.weight *= scale[:, None, None, None]
            classifier.bias.copy_(
                (classifier.bias - maps.mean(dim=(0, 2, 3))) * scale + (2.5 if task == "depth" else 0)
            )
    save_checkpoint(path, dataclasses.replace(loaded, weights=network.state_dict()))


def check_agreement(card: dict[str, Any]) -> None:
    agreement = card["agreement"]
    assert (agreement["sizes"], agreement["batches"]) == ([list(size) for size in SIZES], [1, 3])
    assert agreement["equal_labels"] >= 0.999
    assert agreement["max_depth_error_mm"] <= 1
    assert agreement["max_confidence_error"] <= 1


def check_served(file: Path, network: torch.nn.Module, name: str) -> None:
    """The service's answer to a picture of each size has that size and the labels and depths of PyTorch.

    A picture of a listed size is not resampled and a PNG is lossless, so both see the same pixels.
    """
    pictures = [exporter.load_pictures(None, size, 4)[3] for size in SIZES]  # none that the export compared on

    async def answers() -> list[httpx.Response]:
        settings = Settings(model=file, threads=1, timeout_s=300, max_timeout_s=300)
        async with serving(create_app(settings)) as client:
            return [await client.post("/predict", content=encode(picture)) for picture in pictures]

    for picture, (height, width), response in zip(pictures, SIZES, asyncio.run(answers()), strict=True):
        assert response.status_code == 200, response.text[:500]
        body = response.json()
        assert (body["height"], body["width"], body["model"]["network"]) == (height, width, name)
        labels = plane(body["segmentation"]["mask_png"])
        depth = plane(body["depth"]["depth_png"])
        assert labels.shape == depth.shape == (height, width)
        with torch.inference_mode():
            maps = network(torch.from_numpy(picture).permute(2, 0, 1).unsqueeze(0) / 255)
        assert (labels == maps["segmentation"][0].argmax(0).numpy()).mean() >= 0.999
        assert np.abs(depth - 1000 * maps["depth"][0, 0].numpy().clip(0, 65.535)).max() <= 1.1  # rounding and 0.6 mm
        assert len(np.unique(labels)) > 10 and np.ptp(depth) > 1000


def plane(png: str) -> NDArray[Any]:
    return np.asarray(opened(base64.b64decode(png)))


@pytest.mark.parametrize(
    ("name", "backbone"),
    [
        *((name, BACKBONE_OF.get(name, "resnet18")) for name in NETWORKS if name not in SINGLE_TASK),
        ("mti_net", "hrnet_w18"),
    ],
)
def test_it_is_exported_and_served(name: str, backbone: str, tmp_path: Path) -> None:
    file, card, network = exported(tmp_path, backbone, name)
    assert (card["network"], card["backbone"], card["parameters"]) == (name, backbone, count_parameters(network))
    check_agreement(card)
    check_served(file, network, name)


def test_two_single_task_networks_are_exported_and_served_side_by_side(tmp_path: Path) -> None:
    file, card, network = exported(tmp_path, "resnet18", *SINGLE_TASK)
    joined = " + ".join(SINGLE_TASK)
    each = [exporter.load_checkpoint(tmp_path / name).network() for name in SINGLE_TASK]
    assert (card["name"], card["network"]) == ("stl_aspp+stl_aspp_depth-resnet18", joined)
    assert (card["backbone"], card["parameters"]) == ("resnet18", sum(map(count_parameters, each)))
    assert (card["depth"]["min_m"], card["depth"]["max_m"]) == (0.25, 4.0)
    training = card["training"]
    assert (training["data"], training["license"], training["pictures"]) == ("tiny + other", "CC0-1.0 + MIT", 42)
    assert set(training["details"]) == {"segmentation", "depth"}
    assert len(card["evaluations"]) == 2
    check_agreement(card)
    check_served(file, network, joined)
