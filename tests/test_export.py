"""Export: the contract, agreement with PyTorch, the model card, and the file in the running service."""

from __future__ import annotations

import argparse
import io
import json
import shutil
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from deploy import export as exporter
from deploy import quantize as quantize_module
from deploy.quantize import QuantizationError, measure
from model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, with_saturation
from model.classes import NYU40
from model.networks import NETWORKS, NetworkConfig
from service.card import ModelCard
from service.engine import OnnxEngine, read_card
from training.data import FolderDataset, read_info

ROOT = Path(__file__).parent.parent

INFO: dict[str, Any] = {
    "training": {
        **{"epochs": 1, "batch_size": 4, "lr": 1e-4, "weights": "none", "size": [96, 128], "zoom": [1.0, 1.5]},
        **{"color": 0.5, "loss_weights": [1.0, 1.0], "precision": "fp32", "seed": 0, "data": "ignored"},
    },
    "data": {"name": "tiny", "license": "CC0-1.0", "pictures": 12, "min_depth_m": 0.5, "max_depth_m": 8.0},
    "evaluations": [
        {
            "epoch": 1,
            "data": "tiny",
            "split": "val",
            "protocol": "mtl",
            "pictures": 2,
            "values": {"miou": 0.5},
            "iou": {},
        }
    ],
}


def checkpoint(
    path: Path,
    network: str,
    backbone: str,
    info: dict[str, Any] = INFO,
    options: dict[str, Any] | None = None,
    momentum: float | None = 0.1,
) -> Path:
    """An untrained network whose normalisation has seen pictures, so that its outputs are of ordinary size.

    Args:
        momentum: Of that normalisation. With 0.1 it does not get far from its start, and layer by layer less is left of
            the picture: a network that hardly looks at it, if it has no residuals. With None, the mean of what it has
            seen, it looks; untrained, it then has many pixels of two classes as likely as each other, which
            half precision or int8 would turn over.
    """
    torch.manual_seed(0)
    config = NetworkConfig(network, backbone, NYU40, options or {})
    built = config.build().train()
    for module in built.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = momentum
    with torch.no_grad():
        for _ in range(3):
            built(torch.rand(2, 3, 64, 64))
        if "depth" in built.tasks:
            head = built.heads["depth"]
            getattr(head, "classifier", head).bias.fill_(2.5)  # metres; a negative depth would be cut to 0
    save_checkpoint(path, Checkpoint(config, built.state_dict(), info))
    return path


def export(path: Path, out: Path, *more: str) -> dict[str, Any]:
    exporter.main([str(path), "--out", str(out), "--sizes", "96x128,128x96", *more])
    card: dict[str, Any] = json.loads(onnxruntime.InferenceSession(out).get_modelmeta().custom_metadata_map["segdepth"])
    return card


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("checkpoint") / "c.safetensors", "mtl_ssw", "mobilenet_v2")


@pytest.fixture(scope="module")
def exported(trained: Path) -> Path:
    out = trained.with_name("model.onnx")
    export(trained, out)
    return out


@pytest.fixture(scope="module")
def looking(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A network whose maps depend on the picture, and its file, for sizes that were not given."""
    folder = tmp_path_factory.mktemp("looking")
    path = checkpoint(folder / "c.safetensors", "mtl_ssw", "mobilenet_v2", momentum=None)
    exporter.main([str(path), "--out", str(folder / "model.onnx")])
    return path, folder / "model.onnx"


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(7).integers(0, 256, shape, dtype=np.uint8)


def test_the_file_keeps_the_contract(exported: Path) -> None:
    session = onnxruntime.InferenceSession(exported)
    (image,) = session.get_inputs()
    assert (image.name, image.type) == ("image", "tensor(uint8)")
    assert image.shape[3] == 3 and all(isinstance(side, str) for side in image.shape[:3])
    assert [(o.name, o.type) for o in session.get_outputs()] == [
        ("labels", "tensor(uint8)"),
        ("depth", "tensor(uint16)"),
        ("confidence", "tensor(uint8)"),
    ]


@pytest.mark.parametrize("shape", [(1, 96, 128), (2, 128, 96), (1, 97, 131), (5, 64, 64)])
def test_any_size_and_batch_agrees_with_pytorch(looking: tuple[Path, Path], shape: tuple[int, ...]) -> None:
    trained, exported = looking
    image = noise(*shape, 3)
    network = exporter.load_checkpoint(trained).network()
    with torch.inference_mode():
        maps = network(torch.from_numpy(image).permute(0, 3, 1, 2) / 255)
    labels, depth, confidence = onnxruntime.InferenceSession(exported).run(None, {"image": image})
    assert labels.shape == depth.shape == confidence.shape == shape
    assert (labels == maps["segmentation"].argmax(1).numpy()).mean() >= 0.999
    metres = maps["depth"][:, 0].numpy()
    assert np.abs(depth / 1000 - metres.clip(0, 65.535)).max() <= 0.0011
    probability = maps["segmentation"].softmax(1).amax(1).numpy()
    assert np.abs(confidence / 255 - probability).max() <= 0.5 / 255 + 1e-3


@pytest.mark.parametrize(
    "shape", [(2, 5, 6, 8, 96, 128), (1, 40, 7, 9, 97, 131), (3, 2, 24, 32, 24, 32), (1, 1, 6, 8, 96, 128)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_maps_are_enlarged_as_pytorch_does(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    n, channels, height, width, *size = shape
    prediction = torch.from_numpy(np.random.default_rng(0).normal(size=(n, channels, height, width))).to(dtype)
    enlarged = exporter.upsample(prediction, torch.zeros(n, 3, *size))
    expected = torch.nn.functional.interpolate(prediction.double(), size=size, mode="bilinear", align_corners=False)
    within = 2e-3 if dtype == torch.float16 and channels == 1 else 1e-5  # Of several channels, in full precision.
    torch.testing.assert_close(enlarged.double(), expected, rtol=within, atol=within)


def test_the_classes_of_a_pixel_are_compared_side_by_side(looking: tuple[Path, Path], tmp_path: Path) -> None:
    """Also after ONNX Runtime has optimised the graph, which moves transpositions about."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(looking[1], options, providers=["CPUExecutionProvider"])
    proto = onnx.load(options.optimized_model_filepath)
    axes = {a.name: a.i for node in proto.graph.node if node.op_type == "ArgMax" for a in node.attribute}
    assert axes["axis"] in (3, -1)


def test_what_a_network_does_not_see_of_colours_is_in_the_file(looking: tuple[Path, Path], tmp_path: Path) -> None:
    trained, seeing = looking
    card = export(trained, tmp_path / "blind.onnx", "--saturation", "0")
    assert card["training"]["details"]["options"] == {"saturation": 0}
    assert card["input"]["saturation"] == 0
    assert read_card(seeing).training.details["options"] == {}
    # Both have the same grey: 0.299 R + 0.587 G + 0.114 B = 100.
    blocks = (noise(1, 6, 8, 1) % 2).repeat(16, axis=1).repeat(16, axis=2)
    vivid, grey = (blocks * np.array(color, np.uint8) for color in ((254, 0, 211), (100, 100, 100)))
    off = {}
    for file in (tmp_path / "blind.onnx", seeing):
        session = onnxruntime.InferenceSession(file)
        one, other = (session.run(["depth"], {"image": image})[0].astype(int) for image in (vivid, grey))
        assert np.ptp(one) > 100
        off[file.name] = np.abs(one - other).max()
    assert off["blind.onnx"] <= 1 and off["model.onnx"] > 100


def test_the_card_is_the_service_s(exported: Path) -> None:
    card = read_card(exported)
    assert (card.network, card.backbone, card.precision) == ("mtl_ssw", "mobilenet_v2", "fp32")
    assert card.parameters == 3_569_337
    assert [c.name for c in card.classes] == [c.name for c in NYU40]
    assert card.input.sizes == [(96, 128), (128, 96)]
    assert (card.depth.min_m, card.depth.max_m, card.depth.focal_px) == (0.5, 8.0, None)
    assert card.training.license == "CC0-1.0"
    assert card.evaluations[0].values == {"miou": 0.5}
    assert card.agreement["batches"] == [1, 3]
    assert card.agreement["equal_labels"] >= 0.999
    assert card.agreement["max_depth_error_mm"] <= 1


def test_the_card_names_all_the_data_that_went_in(tmp_path: Path) -> None:
    own = {**INFO["data"], "attribution": "by A"}
    earlier = [{**own, "name": "before", "license": "CC-BY-4.0", "attribution": "by B", "pictures": 30}, own]
    paths = [
        checkpoint(tmp_path / name, name, "mobilenet_v2", {**INFO, "data": own, "earlier_data": earlier})
        for name in ("stl_aspp", "stl_aspp_depth")
    ]
    _, parts = exporter.join([exporter.load_checkpoint(path) for path in paths])
    args = argparse.Namespace(name=None, version=None, description="")
    training = exporter.make_card(parts, 0, [(480, 640)], "fp32", [], args)["training"]
    assert (training["data"], training["license"]) == ("tiny + before", "CC0-1.0 + CC-BY-4.0")
    assert (training["attribution"], training["pictures"]) == ("by A + by B", 42)

    # One that was trained on several, of which `before` was among what it had started from, too.
    together = {**own, "name": "tiny + before", "license": "CC0-1.0 + CC-BY-4.0", "attribution": "", "max_depth_m": 9.0}
    info = {**INFO, "data": {**together, "sets": [own, earlier[0]]}, "earlier_data": earlier[:1]}
    _, parts = exporter.join([exporter.load_checkpoint(checkpoint(tmp_path / "several", "mtl", "mobilenet_v2", info))])
    card = exporter.make_card(parts, 0, [(480, 640)], "fp32", [], args)
    assert card["training"] == training | {"details": card["training"]["details"]}
    assert card["depth"]["max_m"] == 9.0


def test_the_card_says_what_a_training_began_with(tmp_path: Path) -> None:
    def card(**training: Any) -> dict[str, Any]:
        info = {**INFO, "training": {**INFO["training"], **training}}
        path = checkpoint(tmp_path / "one", "mtl_ssw", "mobilenet_v2", info)
        _, parts = exporter.join([exporter.load_checkpoint(path)])
        args = argparse.Namespace(name=None, version=None, description="")
        return exporter.make_card(parts, 0, [(480, 640)], "fp32", [], args)

    def origin(**training: Any) -> dict[str, Any]:
        details = card(**training)["training"]["details"]
        return {key: details[key] for key in ("start", "single_task", "weights") if key in details}

    assert origin(weights="/data/w.pth") == {"weights": "w.pth"}
    assert origin(weights="imagenet", start="a.safetensors", single_task=None) == {"start": "a.safetensors"}
    assert origin(weights="imagenet", single_task=["none"]) == {"weights": "imagenet"}
    assert origin(weights="imagenet", single_task=["runs/a.safetensors"]) == {"single_task": ["a.safetensors"]}
    details = card(ema=0.998, weighting="dwa", accumulate=2)["training"]["details"]
    assert (details["ema"], details["weighting"], details["accumulate"]) == (0.998, "dwa", 2)


def test_other_options_are_another_model(looking: tuple[Path, Path]) -> None:
    """Its figures were not measured, and by default it has another version."""
    trained, seeing = looking
    args = argparse.Namespace(name=None, version=None, description="")
    blind, same = (
        exporter.make_card([with_saturation(load_checkpoint(trained), saturation)], 0, [(96, 128)], "fp32", [], args)
        for saturation in (0.0, 1.0)
    )
    assert blind["evaluations"] == [] and blind["input"]["saturation"] == 0
    assert blind["version"] not in (same["version"], read_card(seeing).version)
    assert len(same["evaluations"]) == len(read_card(seeing).evaluations) == 1
    assert same["evaluations"][0]["values"] == {"miou": 0.5}


def test_figures_by_test_time_augmentation_are_not_the_service_s(tmp_path: Path) -> None:
    result = {"data": "x", "split": "test", "protocol": "mtl", "values": {"miou": 0.5}, "augmentation": None}
    file = tmp_path / "result.json"
    file.write_text(json.dumps(result))
    assert exporter.read_evaluation(file, ["a"], {1.0})["values"] == {"miou": 0.5}
    file.write_text(json.dumps({**result, "augmentation": {"scales": [1.0], "flip": True}}))
    with pytest.raises(exporter.ExportError, match="test-time augmentation"):
        exporter.read_evaluation(file, ["a"], {1.0})


def test_figures_at_another_saturation_are_not_those_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    file.write_text(json.dumps({"data": "x", "split": "test", "protocol": "mtl", "values": {}, "saturation": 0.0}))
    assert exporter.read_evaluation(file, ["a"], {0.0, 1.0})["data"] == "x"
    with pytest.raises(exporter.ExportError, match=r"measured at saturation 0\.0"):
        exporter.read_evaluation(file, ["a"], {1.0})


def test_figures_of_other_weights_are_not_those_of_the_file(trained: Path, tmp_path: Path) -> None:
    loaded = load_checkpoint(trained)
    other = {**loaded.weights, next(iter(loaded.weights)): next(iter(loaded.weights.values())) + 1}
    digests = {loaded.digest(), replace(loaded, weights=other).digest()}
    assert len(digests) == 2 and load_checkpoint(trained).digest() in digests
    file = tmp_path / "result.json"
    file.write_text(json.dumps({"data": "x", "split": "test", "protocol": "mtl", "values": {}, "weights": "b"}))
    assert exporter.read_evaluation(file, ["a", "b"], {1.0})["data"] == "x"
    with pytest.raises(SystemExit, match="measured with other weights"):
        export(trained, tmp_path / "model.onnx", "--evaluation", str(file))


def test_figures_from_before_a_training_stopped_are_not_those_of_the_file(trained: Path) -> None:
    whole = load_checkpoint(trained)
    ((figures),) = whole.info["evaluations"]
    for step, epochs, kept in ((20, 2, [figures]), (10, 2, [figures]), (13, 2, []), (20, 1, [figures])):
        info = {**whole.info, "progress": {"step": step, "steps": 20}}
        info["training"] = {**info["training"], "epochs": epochs}
        assert exporter.evaluation_of(replace(whole, info=info)) == kept
    assert exporter.evaluation_of(whole) == [figures]


def test_a_training_that_came_to_nothing_is_refused_and_one_that_stopped_is_named(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def traced(_: torch.nn.Module) -> Any:
        raise exporter.ExportError("traced")

    monkeypatch.setattr(exporter, "to_onnx", traced)
    whole = load_checkpoint(trained)
    name = next(iter(whole.weights))
    broken = {**whole.weights, name: torch.full_like(whole.weights[name], float("nan"))}
    info = {**whole.info, "progress": {"step": 3, "steps": 8}}
    for weights, file in ((broken, "broken"), (whole.weights, "stopped")):
        save_checkpoint(tmp_path / file, replace(whole, weights=weights, info=info))
    with pytest.raises(SystemExit, match=f"broken: {name} is not finite"):
        export(tmp_path / "broken", tmp_path / "model.onnx")
    with pytest.raises(SystemExit, match="traced"):
        export(tmp_path / "stopped", tmp_path / "model.onnx")
    assert "stopped: its training stopped at step 3 of 8" in capsys.readouterr().out
    args = argparse.Namespace(name=None, version=None, description="")
    card = exporter.make_card([load_checkpoint(tmp_path / "stopped")], 0, [(96, 128)], "fp32", [], args)
    assert card["training"]["details"]["progress"] == {"step": 3, "steps": 8}


def test_a_card_that_the_service_would_refuse_is_not_written(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.onnx"
    with pytest.raises(SystemExit, match=r"the service would refuse the model card: input\.sizes"):
        export(trained, out, "--sizes", "9000x320")
    assert not out.exists()


def test_the_card_says_for_which_focal_length_depth_is_metric(tmp_path: Path) -> None:
    def focal_px(**trainings: dict[str, Any]) -> float | None:
        paths = [
            checkpoint(tmp_path / name, name, "mobilenet_v2", {**INFO, "training": {**INFO["training"], **training}})
            for name, training in trainings.items()
        ]
        _, parts = exporter.join([exporter.load_checkpoint(path) for path in paths])
        args = argparse.Namespace(name=None, version=None, description="")
        card = exporter.make_card(parts, 0, [(480, 640)], "fp32", [], args)
        return ModelCard.model_validate_json(json.dumps(card)).depth.focal_px

    # In longer sides of what was trained on, 96 x 128, whatever is served.
    assert focal_px(mtl_ssw={"focal": 0.75}) == 96.0
    assert focal_px(mtl_ssw={"focal": 0.0}) is None
    assert focal_px(mtl_ssw={}) is None
    # Of two joined checkpoints, the depth one decides.
    assert focal_px(stl_aspp_depth={"focal": 0.8, "size": [320, 240]}, stl_aspp={"focal": 0.75}) == 256.0


def test_no_path_of_the_exporting_machine_is_in_the_file(exported: Path) -> None:
    assert str(Path(exporter.__file__).parents[1]).encode() not in exported.read_bytes()


def test_the_service_s_engine_runs_it(exported: Path) -> None:
    engine = OnnxEngine(exported)
    engine.warm_up(lambda done, total: None)
    prediction = engine.infer(noise(3, 96, 128, 3))
    assert prediction.depth.dtype == np.uint16 and prediction.depth.shape == (3, 96, 128)
    engine.close()


@pytest.fixture(scope="module")
def half(trained: Path) -> Path:
    out = trained.with_name("half.onnx")
    export(trained, out, "--precision", "fp16")
    return out


def test_half_precision_stays_within_its_bound(half: Path) -> None:
    card = read_card(half)
    assert card.precision == "fp16"
    assert card.agreement["reference"] == "PyTorch fp32"
    assert half.stat().st_size < 0.6 * 4 * card.parameters
    weights = {onnx.TensorProto.DataType.Name(w.data_type) for w in onnx.load(half).graph.initializer if w.dims}
    assert "FLOAT16" in weights


def test_in_half_precision_depth_and_softmax_are_in_full(trained: Path, half: Path) -> None:
    image = noise(2, 96, 128, 3)
    labels, depth, confidence = onnxruntime.InferenceSession(half).run(None, {"image": image})
    # Depth from a layer in half precision would consist of such numbers only.
    in_half = np.round((depth / 1000).astype(np.float16).astype(np.float64) * 1000)
    assert (depth > 1000).all() and (in_half != depth).mean() > 0.1
    with torch.inference_mode():
        maps = exporter.load_checkpoint(trained).network()(torch.from_numpy(image).permute(0, 3, 1, 2) / 255)
    assert (labels == maps["segmentation"].argmax(1).numpy()).mean() >= 0.995
    assert np.abs(depth / 1000 / maps["depth"][:, 0].numpy() - 1).max() <= 0.01
    assert np.abs(confidence / 255 - maps["segmentation"].softmax(1).amax(1).numpy()).max() <= 0.02


def test_disagreement_leaves_no_file(
    trained: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A graph whose depth is off by 1 %, as a bug in a unit would have it.
    proto = onnx.load(exported)
    changed = 0
    for weight in proto.graph.initializer:
        values = onnx.numpy_helper.to_array(weight)
        if values.shape == () and values == 1000:
            weight.CopyFrom(onnx.numpy_helper.from_array(np.array(990, values.dtype), weight.name))
            changed += 1
    assert changed
    monkeypatch.setattr(exporter, "to_onnx", lambda module: proto)
    with pytest.raises(SystemExit, match="disagree"):
        export(trained, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [(96, 128), (128, 96)])
@pytest.mark.parametrize("batch", exporter.BATCHES)
@pytest.mark.parametrize("output", range(3), ids=exporter.OUTPUTS)
def test_every_size_batch_and_output_is_compared(
    size: tuple[int, int], batch: int, output: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = True

    class Session:
        """As the reference, but for one output at one size and batch."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            pass

        def run(self, names: list[str], inputs: dict[str, Any]) -> list[Any]:
            maps = [out.numpy() for out in reference(torch.from_numpy(inputs["image"]))]
            if wrong and inputs["image"].shape[:3] == (batch, *size):
                maps[output] = maps[output] + np.array(3, maps[output].dtype)
            return maps

    def reference(image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        first = image[..., 0]
        return first % 40, torch.from_numpy(first.numpy().astype(np.uint16) + np.uint16(1000)), first // 2

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    sizes = [(96, 128), (128, 96)]
    with pytest.raises(exporter.ExportError, match="disagree"):
        exporter.compare(reference, Path("m.onnx"), sizes, None, "fp32")  # type: ignore[arg-type]
    wrong = False
    assert exporter.compare(reference, Path("m.onnx"), sizes, None, "fp32")["equal_labels"] == 1.0  # type: ignore[arg-type]


def test_the_bundled_model_is_the_bundled_weights() -> None:
    """The file that is served, made by a network of today's code: a change of what a layer computes shows here."""
    part = exporter.load_checkpoint(ROOT / "checkpoints" / "segdepth-rooms.safetensors")
    session = onnxruntime.InferenceSession(ROOT / "service" / "bundled" / "segdepth.onnx")
    image = exporter.load_pictures(ROOT / "examples" / "images", (240, 320), 2)
    labels, depth = session.run(["labels", "depth"], {"image": image})
    with torch.inference_mode():
        outputs = part.network().eval()(torch.from_numpy(image).permute(0, 3, 1, 2) / 255)
    # The weights are rounded to half precision, which the file was made before.
    assert (outputs["segmentation"].argmax(1).numpy() == labels).mean() > 0.99
    off = np.abs(outputs["depth"][:, 0].numpy() * 1000 - depth)
    assert np.median(off) < 5 and off.max() < 100


def test_reasons_not_to_export_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no such checkpoint"):
        export(tmp_path / "nothing", tmp_path / "m.onnx")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(SystemExit, match="not a safetensors file"):
        export(tmp_path / "text", tmp_path / "m.onnx")


def test_what_the_card_and_the_comparison_want_is_looked_for_first(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "to_onnx", lambda module: pytest.fail("it was traced"))
    (tmp_path / "empty.json").touch()
    (tmp_path / "other.json").write_text('{"data": "boxes"}')
    (tmp_path / "list.json").write_text("[1]")
    for option, value, reason in [
        ("--evaluation", "none.json", r"none.json: not what evaluate.py --json writes .FileNotFoundError"),
        ("--evaluation", "empty.json", r"empty.json: not what evaluate.py --json writes .JSONDecodeError"),
        ("--evaluation", "list.json", r"list.json: not what evaluate.py --json writes .AttributeError"),
        ("--evaluation", "other.json", r"other.json: not what evaluate.py --json writes .KeyError: 'split'"),
        ("--pictures", "nowhere", r"nowhere: no .jpg or .png picture to compare on"),
    ]:
        with pytest.raises(SystemExit, match=reason) as refused:
            export(trained, tmp_path / "m.onnx", option, str(tmp_path / value))
        assert "\n" not in str(refused.value)


def test_by_default_it_serves_the_size_of_the_training(looking: tuple[Path, Path]) -> None:
    assert read_card(looking[1]).input.sizes == [(96, 128), (128, 96)]


def test_single_task_networks_are_exported_in_pairs_of_both_tasks(trained: Path, tmp_path: Path) -> None:
    segmentation, depth = (checkpoint(tmp_path / name, name, "mobilenet_v2") for name in ("stl_aspp", "stl_aspp_depth"))
    for given, message in [
        ([segmentation], "stl_aspp has one task, segmentation; give a checkpoint of depth as well"),
        ([depth], "stl_aspp_depth has one task, depth; give a checkpoint of segmentation as well"),
        ([depth, depth], "one of segmentation and one of depth, not stl_aspp_depth .depth., stl_aspp_depth .depth."),
        ([trained, trained], "not mtl_ssw .segmentation and depth., mtl_ssw"),
        ([trained, depth], "not mtl_ssw .segmentation and depth., stl_aspp_depth .depth."),
        ([segmentation, depth, depth], "not stl_aspp .segmentation., stl_aspp_depth"),
    ]:
        with pytest.raises(SystemExit, match=message) as refused:
            exporter.main([*map(str, given), "--out", str(tmp_path / "m.onnx")])
        assert "\n" not in str(refused.value)
    other = exporter.load_checkpoint(depth)
    other.info["training"]["size"] = [96, 160]
    save_checkpoint(tmp_path / "other", other)
    message = r"the checkpoints were trained at \d+x\d+ and 96x160; give --sizes"
    with pytest.raises(SystemExit, match=message):
        exporter.main([str(segmentation), str(tmp_path / "other"), "--out", str(tmp_path / "m.onnx")])
    assert not (tmp_path / "m.onnx").exists()


def test_what_cannot_be_written_or_read_is_one_line(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.jpg").write_bytes(b"no picture")
    for more, message in [
        (["--out", str(tmp_path)], "is a folder"),
        (["--out", str(tmp_path / "file" / "m.onnx")], "File exists|Not a directory"),
        (["--out", "/proc/m.onnx"], "--out /proc/m.onnx: "),
        (["--out", str(tmp_path / "m.onnx"), "--pictures", str(tmp_path / "pictures")], "a.jpg: cannot be read: not a"),
    ]:
        with pytest.raises(SystemExit, match=message) as refused:
            exporter.main([str(trained), *more])
        assert "\n" not in str(refused.value)
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize("name", NETWORKS)
def test_what_eases_tracing_changes_no_map(name: str, tmp_path: Path) -> None:
    network = exporter.load_checkpoint(checkpoint(tmp_path / "c", name, "mobilenet_v2")).network()
    image = torch.from_numpy(noise(1, 3, 64, 96)) / 255
    with torch.inference_mode():
        before = network(image)
        after = exporter.ready_to_trace(network)(image)
    assert not [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for task, expected in before.items():
        torch.testing.assert_close(after[task], expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


# --- int8 -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pictures to calibrate with, three to measure with, one of them a portrait."""
    root = tmp_path_factory.mktemp("data")
    for folder in ("images", "labels", "depth"):
        (root / folder).mkdir()
    splits: dict[str, list[str]] = {
        "train": [f"t{i}" for i in range(4)],
        "val": ["v0", "v1", "v2"],
        "unlabelled": ["u"],
    }
    for names in splits.values():
        for name in names:
            height, width = (160, 120) if name == "v2" else (120, 160)
            picture = exporter.load_pictures(None, (height, width), 3)[len(name) + ord(name[-1]) % 3 - 2]
            Image.fromarray(picture).save(root / "images" / f"{name}.jpg")
            label = np.full((height, width), 255 if name == "u" else 3, np.uint8)
            Image.fromarray(label).save(root / "labels" / f"{name}.png")
            Image.fromarray(np.full((height, width), 0 if name == "u" else 2600, np.uint16)).save(
                root / "depth" / f"{name}.png"
            )
    info = {
        **{"format": 1, "name": "four", "license": "CC0-1.0", "splits": splits},
        "classes": [{"id": c.id, "name": c.name, "color": c.color} for c in NYU40],
        "intrinsics": {"v0": [140.0, 140.0, 79.5, 59.5]},
    }
    (root / "dataset.json").write_text(json.dumps(info))
    return root


def int8(data: Path, *more: str) -> list[str]:
    return ["--precision", "int8", "--calibration", str(data), *more]


@pytest.fixture(scope="module")
def quantized(trained: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("int8") / "int8.onnx"
    printed = io.StringIO()
    with redirect_stdout(printed):
        export(trained, out, *int8(data, "--max-miou-loss", "1", "--max-rmse-loss", "1"))
    assert "measured on 3 pictures of four val" in printed.getvalue()
    assert [path.name for path in out.parent.iterdir()] == ["int8.onnx"]
    return out


def test_int8_runs_in_the_service_s_engine_and_its_card_says_what_is_lost(exported: Path, quantized: Path) -> None:
    assert quantized.stat().st_size < 0.35 * exported.stat().st_size
    engine = OnnxEngine(quantized, threads=1)
    engine.warm_up(lambda done, total: None)
    card = engine.card
    assert (card.precision, card.network, card.parameters) == ("int8", "mtl_ssw", 3_569_337)
    agreement = card.agreement
    assert {key: agreement[key] for key in ("reference", "data", "split", "pictures")} == {
        "reference": "ONNX Runtime fp32",
        **{"data": "four", "split": "val", "pictures": 3},
    }
    assert (agreement["calibration_split"], agreement["calibration_pictures"]) == ("train", 4)
    before, after = agreement["fp32"], agreement["int8"]
    assert agreement["miou_loss"] == before["miou"] - after["miou"]
    assert agreement["rmse_loss"] == after["rmse"] / before["rmse"] - 1

    full = OnnxEngine(exported, threads=1)
    for shape in ((3, 96, 128), (1, 128, 96), (2, 160, 96)):  # any number of pictures of any size, as in fp32
        batch = exporter.load_pictures(None, shape[1:], shape[0])
        got, expected = engine.infer(batch), full.infer(batch)
        assert got.labels.shape == got.depth.shape == got.confidence.shape == shape
        assert (got.labels == expected.labels).mean() > 0.8
        assert np.abs(got.depth.astype(int) - expected.depth).mean() < 0.02 * expected.depth.mean()


def test_int8_keeps_what_decides_in_full_precision(quantized: Path) -> None:
    graph = onnx.load(quantized).graph
    maker = {name: node.op_type for node in graph.node for name in node.output}
    types = {w.name: onnx.TensorProto.DataType.Name(w.data_type) for w in graph.initializer}
    convolutions = [(maker.get(n.input[1]), types.get(n.input[1])) for n in graph.node if n.op_type == "Conv"]
    # The two classifiers; two layers in each of eight gates; two layers after global pooling.
    assert convolutions.count((None, "FLOAT")) == 2 + 16 + 2
    assert convolutions.count(("DequantizeLinear", None)) == len(convolutions) - 20 == 89
    shapes = {w.name: w.dims for w in graph.initializer}
    scales = {n.output[0]: n.input[1] for n in graph.node if n.op_type == "DequantizeLinear"}
    assert all(len(shapes[scales[n.input[1]]]) == 1 for n in graph.node if n.op_type == "Conv" and n.input[1] in scales)


def test_int8_that_loses_too_much_is_not_written(
    trained: Path, exported: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "to_onnx", lambda module: onnx.load(exported))  # It is the same graph, sooner.
    with pytest.raises(
        SystemExit, match=r"mIoU changes by .* points .*--max-miou-loss .* rmse by .* on four val; nothing was written"
    ) as e:
        export(trained, tmp_path / "m.onnx", *int8(data, "--max-miou-loss", "-1"))
    assert "\n" not in str(e.value)
    assert not list(tmp_path.iterdir())


def test_pictures_whose_pixels_are_not_square_are_stretched_as_they_will_be(
    exported: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = shutil.copytree(data, tmp_path / "data")
    described = json.loads((root / "dataset.json").read_text())
    for name in ("v0", "v1", "t0"):  # Squeezed to a square.
        described["intrinsics"][name] = [105.0, 140.0, 59.5, 59.5]
        for file in root.glob(f"*/{name}.*"):
            Image.open(file).resize((120, 120), Image.Resampling.NEAREST).save(file)
    (root / "dataset.json").write_text(json.dumps(described))
    boxes = []
    real = quantize_module.fit

    def fit(*args: Any, **named: Any) -> Any:
        canvas, box = real(*args, **named)
        boxes.append((box.size, box.height, box.width))
        return canvas, box

    monkeypatch.setattr(quantize_module, "fit", fit)
    info = read_info(root)
    measure(exported, exported, FolderDataset(info, "val"))
    assert boxes == [((120, 120), 96, 128), ((120, 120), 96, 128), ((160, 120), 128, 96)]
    boxes.clear()
    calibration = quantize_module.Calibration(info, "train", 2, [(96, 128), (128, 96)])
    while calibration.get_next():
        pass
    assert boxes == [((120, 120), 96, 128), ((120, 160), 96, 128)]


def test_nothing_to_measure_with_is_said(exported: Path, data: Path) -> None:
    with pytest.raises(QuantizationError, match="split 'unlabelled' has no labels or no depth to measure with"):
        measure(exported, exported, FolderDataset(read_info(data), "unlabelled"))


def test_reasons_not_to_quantise_are_one_line(trained: Path, data: Path, tmp_path: Path) -> None:
    for more, message in [
        (["--precision", "int8"], "--precision int8 and --calibration DATA_FOLDER belong together"),
        (["--calibration", str(data)], "belong together"),
        (int8(tmp_path / "nothing"), "dataset.json: no such file"),
        (int8(data, "--calibration-pictures", "5"), "'train' has 4 pictures, and 5 are wanted"),
        (int8(data, "--calibration-pictures", "0"), "'train' has 4 pictures, and 0 are wanted"),
        (int8(data, "--calibration-split", "other"), "split 'other' is missing or empty"),
        (int8(data, "--measured-split", "other"), "split 'other' is missing or empty"),
    ]:
        with pytest.raises(SystemExit, match=message) as refused:
            export(trained, tmp_path / "m.onnx", *more)
        assert "\n" not in str(refused.value)
    other = json.loads((data / "dataset.json").read_text())
    other["classes"] = other["classes"][:5]
    (tmp_path / "dataset.json").write_text(json.dumps(other))
    with pytest.raises(SystemExit, match=r"the classes of .* are not those of the checkpoint"):
        export(trained, tmp_path / "m.onnx", *int8(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["dataset.json"]
