"""Networks: parameter counts, shapes, gradients, starts, checkpoints and weights."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

import model.weights
from model.backbones import BACKBONES, DepthwiseConv2d, normalize
from model.base import TASKS, Backbone, Features, Network, StagedBackbone
from model.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from model.classes import NYU40, SUN37, ClassSet, class_set
from model.cross_stitch import CrossStitch
from model.heads import ASPPHead, bin_means
from model.hrnet import HRNet
from model.mtan import AttentionMask
from model.mtl import SEModule, SWModule
from model.nddr import NDDRCNN, NDDRLayer
from model.networks import NETWORKS, PAPER_MI, NetworkConfig, count_parameters, supported_backbones
from model.pad_net import Distillation
from model.two_streams import TwoStreamNetwork
from model.weights import WeightsError, load_backbone_weights

FIVE = class_set([f"class {i}" for i in range(5)])
SIZES = [(64, 96), (97, 131)]
DEEP = ("pad_net", "mti_net")  # networks with deep supervision

# Every network on ResNet-18 and on MobileNetV2, one of them on ResNet-50, MTI-Net on HRNet too.
CASES = [(name, backbone) for name in NETWORKS for backbone in ("resnet18", "mobilenet_v2")]
CASES += [("mtl_ssw", "resnet50"), ("mti_net", "hrnet_w18")]


def build(name: str, backbone: str = "resnet18", classes: ClassSet = FIVE, **options: Any) -> Network:
    """A network with a seeded start and running statistics that are not those of the start."""
    torch.manual_seed(0)
    network = NetworkConfig(name, backbone, classes, options).build()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.8, 1.2)  # type: ignore[arg-type]
    return network.eval()


@cache
def parameters(name: str, backbone: str = "resnet50", **options: Any) -> int:
    with torch.device("meta"):
        return count_parameters(NetworkConfig(name, backbone, NYU40, options).build())


def picture(size: tuple[int, int] = (64, 96), batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(min(2, threads))
    yield
    torch.set_num_threads(threads)


# ------------------------------------------------------------------------------------ parameter counts


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("stl_aspp", 0.003),
        ("mtl", 0.003),
        ("mtl_pp", 0.003),
        ("mtl_spp", 0.003),
        ("nddr_cnn", 0.003),
        ("cross_stitch", 0.003),
        ("mtl_ssw", 0.01),
        ("mtl_sw_pp", 0.01),
        ("mtan", 0.04),
        ("mtl_se_aspp", 0.04),
    ],
)
def test_parameters_are_near_the_papers(name: str, tolerance: float) -> None:
    assert parameters(name) / 2**20 == pytest.approx(PAPER_MI[name], rel=tolerance)


@pytest.mark.parametrize(
    ("name", "count", "millions"),
    [
        ("stl_aspp", 39_643_752, 37.81),
        ("stl_aspp_depth", 39_633_729, 37.80),
        ("mtl", 55_769_449, 53.19),
        ("mtl_pp", 69_676_649, 66.45),
        ("mtl_se", 60_711_785, 57.90),
        ("mtl_se_aspp", 74_075_753, 70.64),
        ("mtl_spp", 87_982_953, 83.91),
        ("mtl_sw_pp", 108_630_377, 103.60),
        ("mtl_ssw", 94_723_177, 90.34),
        ("cross_stitch", 79_292_841, 75.62),
        ("nddr_cnn", 101_591_721, 96.89),
        ("mtan", 72_052_713, 68.71),
        ("pad_net", 34_010_774, 32.44),
        ("mti_net", 128_611_421, 122.65),
    ],
)
def test_parameters_of_the_reading(name: str, count: int, millions: float) -> None:
    """Exactly; a change here is a change of the network."""
    assert parameters(name) == count
    assert round(count / 2**20, 2) == millions


def test_parameters_of_options() -> None:
    assert parameters("pad_net", auxiliary_tasks=()) / 2**20 == pytest.approx(26.4, abs=0.05)
    assert parameters("mti_net", auxiliary_tasks=()) / 2**20 == pytest.approx(68.7, abs=0.05)
    # A gate of 16 instead of 32, as PAPER.md rules out, has 84.08.
    assert parameters("mtl_spp", reduction=16) / 2**20 == pytest.approx(84.08, abs=0.01)


def test_listing() -> None:
    """`python -m model --json` has a row for each network on each encoder that it supports, and no other."""
    run = subprocess.run([sys.executable, "-m", "model", "--json"], capture_output=True, text=True, check=True)
    rows = json.loads(run.stdout)
    assert {(r["network"], r["backbone"]) for r in rows} == {(n, b) for n in NETWORKS for b in supported_backbones(n)}
    by_name = {r["network"]: r for r in rows if r["backbone"] == "resnet50"}
    assert {name: row["paper_mi"] for name, row in by_name.items()} == {n: PAPER_MI.get(n) for n in NETWORKS}
    assert by_name["mtl_ssw"]["params"] == parameters("mtl_ssw")
    assert [r["paper_mi"] for r in rows if r["backbone"] == "hrnet_w18"] == [None]


# --------------------------------------------------------------------------------- forward and backward


@pytest.mark.parametrize(("name", "backbone"), CASES)
def test_forward_in_evaluation(name: str, backbone: str) -> None:
    network = build(name, backbone)
    for size in SIZES:
        image = picture(size)
        with torch.inference_mode():
            first, again = network(image), network(image)
        assert [task for task in first if task not in network.auxiliary_tasks] == list(network.tasks)
        for task in network.tasks:
            assert first[task].shape == (2, 5 if task == "segmentation" else 1, *size)
            assert first[task].isfinite().all()
            assert torch.equal(first[task], again[task])


@pytest.mark.parametrize(("name", "backbone"), CASES)
def test_a_finite_gradient_reaches_every_parameter(name: str, backbone: str) -> None:
    network = build(name, backbone).train()
    outputs = network(picture((97, 131) if backbone == "resnet18" else (64, 96)))
    assert ("intermediate" in outputs) == (name in DEEP)
    maps = [outputs[task] for task in (*network.tasks, *network.auxiliary_tasks) if task in outputs]
    maps += [m for prediction in outputs.get("intermediate", []) for m in prediction.values()]
    torch.autograd.backward(torch.stack([m.square().mean() for m in maps]).sum())
    without = [k for k, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not without


@pytest.mark.parametrize("name", NETWORKS)
def test_training_stride_makes_the_maps_of_training_smaller(name: str) -> None:
    network = build(name)
    network.training_stride = 2
    full = network(picture())
    network.train()
    small = network(picture())
    for task in network.tasks:
        assert full[task].shape[2:] == (64, 96) and small[task].shape[2:] == (32, 48)


@pytest.mark.parametrize("name", NETWORKS)
def test_saturation_is_how_much_a_network_sees_of_the_colours(name: str) -> None:
    colourful, network = picture(), build(name)
    luma = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    grey = (colourful * luma).sum(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    with torch.inference_mode():
        all_seen = {s: network(p) for s, p in ((0, grey), (0.5, (colourful + grey) / 2), (1, colourful))}
        for saturation, seen in all_seen.items():
            same = build(name, saturation=saturation)
            same.load_state_dict(network.state_dict())
            found = same(colourful)
            for task in network.tasks:
                assert torch.allclose(found[task], seen[task], rtol=1e-3, atol=1e-4)
    (task, *_) = network.tasks
    assert (all_seen[0][task] - all_seen[1][task]).abs().max() > 1e-2


def test_tasks() -> None:
    with torch.device("meta"):
        tasks = {name: NetworkConfig(name, "resnet18", FIVE).build().tasks for name in NETWORKS}
    one_task: dict[str, tuple[str, ...]] = {"stl_aspp": ("segmentation",), "stl_aspp_depth": ("depth",)}
    assert tasks == {name: one_task.get(name, TASKS) for name in NETWORKS}


@pytest.mark.parametrize("name", ["mtl_ssw", "cross_stitch", "pad_net"])
def test_class_count(name: str) -> None:
    with torch.inference_mode():
        assert build(name, classes=SUN37)(picture(batch=1))["segmentation"].shape == (1, 37, 64, 96)


def test_intermediate_predictions_of_pad_net() -> None:
    network = build("pad_net").train()
    assert network.auxiliary_tasks == ("normals", "edges")
    (prediction,) = network(picture())["intermediate"]
    assert {t: tuple(m.shape) for t, m in prediction.items()} == {
        "segmentation": (2, 5, 4, 6),
        "depth": (2, 1, 4, 6),
        "normals": (2, 3, 4, 6),
        "edges": (2, 1, 4, 6),
    }


@pytest.mark.parametrize("backbone", ["resnet18", "hrnet_w18"])
def test_intermediate_predictions_of_mti_net(backbone: str) -> None:
    network = build("mti_net", backbone, auxiliary_tasks=["normals"]).train()
    assert network.auxiliary_tasks == ("normals",)
    predictions = network(picture())["intermediate"]
    assert [p["normals"].shape[2:] for p in predictions] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    assert all(list(p) == ["segmentation", "depth", "normals"] for p in predictions)


@pytest.mark.parametrize("kind", ["A", "B", "C"])
def test_pad_net_distillations_train(kind: str) -> None:
    network = build("pad_net", distillation=kind, auxiliary_tasks=["edges"]).train()
    outputs = network(picture())
    total = torch.stack([m.square().mean() for m in (*outputs["intermediate"][0].values(), outputs["depth"])]).sum()
    torch.autograd.backward(total + outputs["segmentation"].square().mean())
    assert all(p.grad is not None for p in network.parameters())


def test_networks_need_no_auxiliary_task() -> None:
    for name in DEEP:
        network = build(name, auxiliary_tasks=[]).train()
        assert network.auxiliary_tasks == ()
        assert all(list(p) == list(TASKS) for p in network(picture())["intermediate"])


@pytest.mark.parametrize(
    ("name", "backbone", "options", "message"),
    [
        ("resnet", "resnet18", {}, "unknown network 'resnet'"),
        ("mtl", "vgg", {}, "unknown backbone 'vgg'"),
        ("mtl", "resnet18", {"colour": 1}, "mtl does not take these options"),
        ("mtl", "resnet18", {"tasks": ["normals"]}, "tasks are some of segmentation, depth, not normals"),
        ("mtl", "resnet18", {"tasks": ["depth", "depth"]}, "not depth, depth"),
        ("mti_net", "resnet18", {"pyramid_width": -4}, "mti_net does not take these options"),
        ("mtl", "resnet18", {"aspp_rates": [1, 2, 0]}, r"three whole numbers of at least 1, not \(1, 2, 0\)"),
        ("mtl", "resnet18", {"aspp_rates": [1.5, 2, 3]}, r"three whole numbers of at least 1, not \(1.5, 2, 3\)"),
        ("mtl", "resnet18", {"tasks": []}, "a network has one task or more"),
        ("pad_net", "resnet18", {"width": 130}, "the width of task features is a multiple of 4, not 130"),
        ("mtl", "resnet18", {"reduction": -1, "se": True}, "reduction is a number of at least 1, not -1"),
        ("mtl", "resnet18", {"saturation": 1.5}, "the option saturation is a number from 0 to 1, not 1.5"),
        ("mtl", "resnet18", {"saturation": "0"}, "the option saturation is a number from 0 to 1, not '0'"),
        ("mtl", "resnet18", {"saturation": True}, "the option saturation is a number from 0 to 1, not True"),
        ("mtl", "hrnet_w18", {}, "mtl does not work on hrnet_w18, only on resnet18, resnet34, resnet50, mobilenet_v2"),
        ("mtl", "resnet18", {"sw": [0.9, 0.1]}, "they need se and both tasks"),
        ("mtl", "resnet18", {"context": "crf"}, "context is one of aspp, pp, fcn, not crf"),
        ("pad_net", "resnet18", {"distillation": "D"}, "distillation is A, B or C, not D"),
        (
            "pad_net",
            "resnet18",
            {"auxiliary_tasks": ["depth"]},
            "auxiliary_tasks are some of normals, edges, not depth",
        ),
        ("mti_net", "resnet18", {"auxiliary_tasks": ["edges", "edges"]}, "not edges, edges"),
    ],
)
def test_refused_configurations(name: str, backbone: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        NetworkConfig(name, backbone, FIVE, options).build()
    assert "\n" not in str(caught.value)


# ----------------------------------------------------------------------------------- parts and starts


@pytest.mark.parametrize("size", [(6, 6), (7, 9), (30, 40), (1, 5), (13, 2)])
@pytest.mark.parametrize("bins", [1, 2, 3, 6])
def test_bin_means_are_adaptive_pooling(size: tuple[int, int], bins: int) -> None:
    x = torch.rand(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(bin_means(x, bins), F.adaptive_avg_pool2d(x, bins))


def test_sw_start() -> None:
    """W_seg = [αI | βI], W_depth = [βI | αI], to the bit, after the whole network was initialised."""
    network = build("mtl_ssw", sw=[0.8, 0.2])
    modules = [m for m in network.modules() if isinstance(m, SWModule)]
    assert len(modules) == 3
    for module in modules:
        segmentation, depth = (module.mix[t].get_parameter("weight")[:, :, 0, 0] for t in TASKS)
        eye = torch.eye(len(depth))
        assert torch.equal(segmentation, torch.cat([0.8 * eye, 0.2 * eye], dim=1))
        assert torch.equal(depth, torch.cat([0.2 * eye, 0.8 * eye], dim=1))


def test_cross_stitch_start_and_unit() -> None:
    network = build("cross_stitch")
    assert isinstance(network, CrossStitch)
    assert isinstance(network.exchanges[0], nn.Identity)
    unit = network.exchanges[1]
    weight = unit.get_parameter("weight")  # [to, from, C]
    assert torch.equal(weight[:, :, 0], torch.tensor([[0.9, 0.1], [0.1, 0.9]]))
    assert (weight == weight[:, :, :1]).all()
    a, b = torch.rand(2, 64, 3, 4), torch.rand(2, 64, 3, 4)
    mixed = unit({"segmentation": a, "depth": b})
    torch.testing.assert_close(mixed["segmentation"], 0.9 * a + 0.1 * b)
    torch.testing.assert_close(mixed["depth"], 0.1 * a + 0.9 * b)


def test_nddr_start() -> None:
    network = build("nddr_cnn")
    assert isinstance(network, NDDRCNN)
    layers = [m for m in network.exchanges if isinstance(m, NDDRLayer)]
    assert [layer.reduce["depth"].get_parameter("0.weight").shape[0] for layer in layers] == [64, 64, 128, 256, 512]
    for layer in layers:
        segmentation, depth = (layer.reduce[t].get_parameter("0.weight")[:, :, 0, 0] for t in TASKS)
        eye = torch.eye(len(depth))
        assert torch.equal(segmentation, torch.cat([0.9 * eye, 0.1 * eye], dim=1))
        assert torch.equal(depth, torch.cat([0.1 * eye, 0.9 * eye], dim=1))
    assert {m.momentum for m in network.exchanges.modules() if isinstance(m, nn.BatchNorm2d)} == {0.05}


def test_new_parameters() -> None:
    """The exchange layers, all of them and nothing else; none in other networks."""
    for name, count in (("cross_stitch", 4 * 960), ("nddr_cnn", 4 * (64**2 + 64**2 + 128**2 + 256**2 + 512**2) + 4096)):
        network = build(name)
        assert sum(p.numel() for p in network.new_parameters()) == count
        rest = sum(p.numel() for k, p in network.named_parameters() if not k.startswith("exchanges."))
        assert count + rest == count_parameters(network)
    assert build("mtl").new_parameters() == []


def test_mtan_masks_are_between_0_and_1() -> None:
    values = AttentionMask(8, 16).eval()(torch.randn(2, 8, 5, 7))
    assert values.shape == (2, 16, 5, 7)
    assert ((values > 0) & (values < 1)).all()


def test_distillation_formulas() -> None:
    torch.manual_seed(0)
    tasks = ("segmentation", "depth", "edges")
    features = {t: torch.randn(2, 4, 5, 6) for t in tasks}
    together = Distillation("A", TASKS, tasks, 4)
    assert together.channels == 12
    assert torch.equal(together(features)["depth"], torch.cat([features[t] for t in tasks], dim=1))
    for kind in ("B", "C"):
        module = Distillation(kind, TASKS, tasks, 4)
        assert module.messages is not None
        expected = features["depth"]
        for sender in ("segmentation", "edges"):
            message = module.messages["depth"].get_submodule(sender)
            sent = message.get_submodule("conv")(features[sender])
            if kind == "C":
                sent = sent * message.get_submodule("gate")(features[sender]).sigmoid()
            expected = expected + sent
        torch.testing.assert_close(module(features)["depth"], expected)


# -------------------------------------------------------------------------------------------- encoders


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v2"])
@pytest.mark.parametrize("stride", [16, 32])
def test_encoder_strides(name: str, stride: int) -> None:
    backbone = BACKBONES[name](output_stride=stride).eval()
    with torch.inference_mode():
        features = backbone(picture(batch=1))
        odd = backbone(picture((97, 131), batch=1))
    last = (4, 6) if stride == 16 else (2, 3)
    shapes = [tuple(x.shape[1:]) for x in features]
    sides = [(16, 24), (8, 12), (4, 6), last]
    assert shapes == [(c, *side) for c, side in zip(backbone.channels, sides, strict=True)]
    assert [tuple(x.shape[2:]) for x in odd] == [(25, 33), (13, 17), (7, 9), (7, 9) if stride == 16 else (4, 5)]


def test_encoder_channels() -> None:
    assert BACKBONES["resnet18"]().channels == (64, 128, 256, 512)
    assert BACKBONES["resnet50"]().channels == (256, 512, 1024, 2048)
    assert BACKBONES["mobilenet_v2"]().channels == (24, 32, 96, 320)


def test_default_encoders_are_dilated() -> None:
    """Stage 4: first block stride 1 and dilation 1, later blocks dilation 2; as published at output stride 32."""
    with torch.device("meta"):
        dilated, published = BACKBONES["resnet50"](), BACKBONES["resnet50"](output_stride=32)

    def strides_and_dilations(backbone: Backbone) -> list[Any]:
        convs = [backbone.get_submodule(f"layer4.{i}.conv2") for i in range(3)]
        return [(c.stride, c.dilation) for c in convs]

    assert strides_and_dilations(dilated) == [((1, 1), (1, 1)), ((1, 1), (2, 2)), ((1, 1), (2, 2))]
    assert strides_and_dilations(published) == [((2, 2), (1, 1)), ((1, 1), (1, 1)), ((1, 1), (1, 1))]


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v2"])
def test_stage_by_stage_is_the_whole(name: str) -> None:
    torch.manual_seed(0)
    backbone = BACKBONES[name]().eval()
    assert isinstance(backbone, StagedBackbone)
    with torch.inference_mode():
        whole = backbone(normalize(picture(batch=1)))
        x = backbone.stem(normalize(picture(batch=1)))
        assert x.shape[1] == backbone.stem_channels
        for i in (1, 2, 3, 4):
            inner = backbone.stage_start(i, x)
            assert inner.shape[1] == backbone.inner_channels[i - 1]
            last, x = backbone.stage_end(i, inner), backbone.stage(i, x)
            assert torch.equal(x, last)
            assert torch.equal(x, whole[i - 1])


def test_hrnet() -> None:
    """The four scales, and as many parameters and tensors as the published network without its head."""
    hrnet = HRNet().eval()
    assert count_parameters(hrnet) == 9_562_260
    assert len(hrnet.state_dict()) == 1830
    with torch.inference_mode():
        features: Features = hrnet(picture((97, 131), batch=1))
    assert [tuple(x.shape[1:]) for x in features] == [(18, 25, 33), (36, 13, 17), (72, 7, 9), (144, 4, 5)]
    names = (
        "transition1.1.0.0.weight",
        "transition2.2.0.0.weight",
        "stage2.0.fuse_layers.0.1.0.weight",
        "stage4.2.fuse_layers.3.0.2.0.weight",
        "stage3.3.branches.2.3.bn2.running_var",
    )
    assert set(names) <= hrnet.state_dict().keys()
    with pytest.raises(ValueError, match="output stride 32"):
        BACKBONES["hrnet_w18"](output_stride=16)


def test_backbones_of_a_network() -> None:
    assert len(build("mtl").backbones()) == 1
    assert len(build("mti_net").backbones()) == 1
    streams = build("nddr_cnn").backbones()
    assert len(streams) == 2
    assert streams[0] is not streams[1]
    assert not {id(p) for p in streams[0].parameters()} & {id(p) for p in streams[1].parameters()}


# ------------------------------------------------------------------------ start from single-task networks


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v2"])
def test_cross_stitch_equals_its_single_task_networks(backbone: str) -> None:
    """With (α, β) = (1, 0) nothing is exchanged: the maps are those of the two networks it was filled from."""
    segmentation, depth = build("stl_aspp", backbone), build("stl_aspp_depth", backbone)
    with torch.no_grad():
        for p in depth.parameters():
            p.mul_(1.05)  # else both encoders have one seeded start
    network = build("cross_stitch", backbone, alpha=1.0, beta=0.0)
    assert isinstance(network, TwoStreamNetwork)
    network.load_single_task(segmentation.state_dict(), depth.state_dict())
    with torch.inference_mode():
        maps = network(picture((97, 131)))
        assert torch.equal(maps["segmentation"], segmentation(picture((97, 131)))["segmentation"])
        assert torch.equal(maps["depth"], depth(picture((97, 131)))["depth"])


def test_load_single_task_copies() -> None:
    segmentation, depth = build("stl_aspp"), build("stl_aspp_depth")
    network = build("nddr_cnn")
    assert isinstance(network, TwoStreamNetwork)
    exchanges = {k: v.clone() for k, v in network.exchanges.state_dict().items()}
    network.load_single_task(segmentation.state_dict(), depth.state_dict())
    own = network.state_dict()
    for task, source in (("segmentation", segmentation), ("depth", depth)):
        for name, tensor in source.state_dict().items():
            assert torch.equal(own[name.replace("backbone.", f"streams.{task}.")], tensor)
    assert all(torch.equal(exchanges[k], v) for k, v in network.exchanges.state_dict().items())


@pytest.mark.parametrize(
    ("segmentation", "depth", "message"),
    [
        (("stl_aspp_depth", "resnet18", FIVE), ("stl_aspp", "resnet18", FIVE), "the segmentation weights are not"),
        (("stl_aspp", "resnet34", FIVE), ("stl_aspp_depth", "resnet18", FIVE), "has no place here"),
        (("stl_aspp", "resnet18", FIVE), ("stl_aspp_depth", "mobilenet_v2", FIVE), "the depth weights .* is missing"),
        (("stl_aspp", "resnet18", SUN37), ("stl_aspp_depth", "resnet18", FIVE), "has the shape"),
        (("mtl", "resnet18", FIVE), ("stl_aspp_depth", "resnet18", FIVE), "'heads.depth.* has no place here"),
    ],
)
def test_load_single_task_refuses(
    segmentation: tuple[str, str, ClassSet], depth: tuple[str, str, ClassSet], message: str
) -> None:
    network = build("cross_stitch")
    assert isinstance(network, TwoStreamNetwork)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    weights = [NetworkConfig(*which).build().state_dict() for which in (segmentation, depth)]
    with pytest.raises(ValueError, match=message) as caught:
        network.load_single_task(*weights)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


# ----------------------------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("name", NETWORKS)
def test_classifiers_are_found(name: str) -> None:
    config = NetworkConfig(name, supported_backbones(name)[0], FIVE)
    of_classes = {key for key, tensor in config.build().state_dict().items() if len(FIVE) in tensor.shape[:1]}
    # None of another size: 5 is the width of no layer.
    assert config.classifiers() == of_classes


@pytest.mark.parametrize("name", NETWORKS)
def test_checkpoint_round_trip(name: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"pad_net": {"width": 32}, "mti_net": {"pyramid_width": 32}}.get(name, {})
    options = {"saturation": 0.5, **options}
    if not options.keys() & {"width", "pyramid_width"} and "dropout" in inspect.signature(NETWORKS[name]).parameters:
        options["dropout"] = 0.2
    network = build(name, "mobilenet_v2", **options)
    config = NetworkConfig(name, "mobilenet_v2", FIVE, options)
    path = tmp_path / "checkpoint.safetensors"
    state = {"rng.cpu": torch.get_rng_state()}
    save_checkpoint(path, Checkpoint(config, network.state_dict(), {"training": {"lr": 1e-4}}, state))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    loaded = load_checkpoint(path)
    assert loaded.config == config
    assert loaded.info == {"training": {"lr": 1e-4}}
    assert torch.equal(loaded.training_state["rng.cpu"], state["rng.cpu"])
    again = loaded.network()
    assert not again.training
    with torch.inference_mode():
        first, second = network(picture(batch=1)), again(picture(batch=1))
    assert all(torch.equal(first[t], second[t]) for t in network.tasks)


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return build("mtl", "mobilenet_v2").state_dict()


def header(**changes: Any) -> dict[str, str]:
    whole: dict[str, Any] = {
        "format": 1,
        "network": "mtl",
        "backbone": "mobilenet_v2",
        "options": {},
        "classes": [{"id": 0, "name": "wall", "color": [1, 2, 3]}],
    } | changes
    return {"segdepth": json.dumps({k: v for k, v in whole.items() if v is not None})}


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "its header is missing or incomplete"),
        ({"segdepth": "{"}, "its header is missing or incomplete"),
        (header(classes=None), "its header is missing or incomplete"),
        (header(classes=[{"id": 0}]), "its header is missing or incomplete"),
        (header(format=2), "format 2, this version reads 1"),
    ],
)
def test_checkpoint_with_a_wrong_header(metadata: dict[str, str] | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_file({"network.a": torch.zeros(1)}, path, metadata)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_file_that_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_checkpoint(path)
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_checkpoint(path)
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_checkpoint(path)


def test_checkpoint_whose_weights_do_not_fit(weights: dict[str, Tensor]) -> None:
    missing = {k: v for k, v in weights.items() if "heads.depth.classifier" not in k}
    extra = weights | {"more": torch.zeros(1)}
    for config, tensors in (
        (NetworkConfig("mtl", "mobilenet_v2", FIVE), missing),
        (NetworkConfig("mtl", "mobilenet_v2", FIVE), extra),
        (NetworkConfig("mtl", "mobilenet_v2", SUN37), weights),  # another number of classes
        (NetworkConfig("mtl_pp", "mobilenet_v2", FIVE), weights),
    ):
        with pytest.raises(CheckpointError, match="the weights do not fit the network") as caught:
            Checkpoint(config, tensors).network()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("network", "options"),
    [("gone", {}), ("mtl", {"saturation": 7}), ("mtl", {"gone": 1}), ("mti_net", {"pyramid_width": -64})],
)
def test_checkpoint_of_a_network_that_cannot_be_built(
    weights: dict[str, Tensor], network: str, options: dict[str, Any]
) -> None:
    config = NetworkConfig(network, "mobilenet_v2", FIVE, options)
    with pytest.raises(CheckpointError, match=r"^the network cannot be built: .*(gone|saturation|negative)") as caught:
        Checkpoint(config, weights).network()
    assert "\n" not in str(caught.value)


# -------------------------------------------------------------------------------------- backbone weights


def classifier_weights(backbone: Backbone, name: str) -> dict[str, Tensor]:
    """A state dict as published: with the classifier that we leave out, and without batch counters."""
    state = {k: v for k, v in backbone.state_dict().items() if not k.endswith("num_batches_tracked")}
    heads = {
        "resnet18": ["fc.weight"],
        "mobilenet_v2": ["features.18.0.weight", "classifier.1.weight"],
        "hrnet_w18": [
            "incre_modules.0.0.conv1.weight",
            "downsamp_modules.0.0.weight",
            "final_layer.0.weight",
            "classifier.bias",
        ],
    }
    return state | {key: torch.zeros(3) for key in heads[name]}


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "hrnet_w18"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_backbone_weights_from_a_file(name: str, suffix: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    source, target = BACKBONES[name](), BACKBONES[name]()
    path = tmp_path / f"weights{suffix}"
    state = classifier_weights(source, name)
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    load_backbone_weights(target, name, str(path))
    loaded = target.state_dict()
    assert all(torch.equal(v, loaded[k]) for k, v in source.state_dict().items())


def test_backbone_weights_fill_both_streams(tmp_path: Path) -> None:
    source = BACKBONES["resnet18"]()
    path = tmp_path / "weights.safetensors"
    save_file(source.state_dict(), path)
    network = build("cross_stitch")
    for backbone in network.backbones():
        load_backbone_weights(backbone, "resnet18", str(path))
        loaded = backbone.state_dict()
        assert all(torch.equal(v, loaded[k]) for k, v in source.state_dict().items())


def test_backbone_weights_none_leaves_the_start() -> None:
    backbone = BACKBONES["mobilenet_v2"]()
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    load_backbone_weights(backbone, "mobilenet_v2", "none")
    assert all(torch.equal(before[k], v) for k, v in backbone.state_dict().items())


def test_backbone_weights_that_do_not_load(tmp_path: Path) -> None:
    other = tmp_path / "resnet18.pth"
    torch.save(BACKBONES["resnet18"]().state_dict(), other)
    text = tmp_path / "text.pth"
    text.write_text("no weights")
    cut = tmp_path / "cut.pth"
    cut.write_bytes(other.read_bytes()[:100_000])
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"\x08\x00\x00")
    for path, message in (
        (other, "not the weights of mobilenet_v2"),
        (text, "cannot be read as PyTorch weights"),
        (cut, "cannot be read as PyTorch weights"),
        (damaged, "not a safetensors file"),
        (tmp_path / "absent.pth", "no such weights file"),
    ):
        with pytest.raises(WeightsError, match=message) as caught:
            load_backbone_weights(BACKBONES["mobilenet_v2"](), "mobilenet_v2", str(path))
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_every_backbone_has_an_address_with_a_hash() -> None:
    assert model.weights.IMAGENET_URLS.keys() == BACKBONES.keys()
    for url in model.weights.IMAGENET_URLS.values():
        digits = url.rsplit("-", 1)[1].removesuffix(".pth")
        assert len(digits) == 8
        assert int(digits, 16) >= 0


def test_download_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(WeightsError, match=r"could not be downloaded \(no network\); give --weights PATH"):
        load_backbone_weights(BACKBONES["resnet18"](), "resnet18", "imagenet")


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2), (1, 3)])
@pytest.mark.parametrize("size", [(8, 12), (7, 11)])
def test_depthwise_convolutions_in_bf16_are_the_plain_ones(stride: int, dilation: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    fast = DepthwiseConv2d(6, 6, 3, stride, dilation, dilation, groups=6, bias=False)
    # Values that bf16 holds exactly, so that only the rounding of sums is left.
    fast.weight.data = torch.randint(-3, 4, fast.weight.shape).float()
    image = torch.randint(-4, 5, (2, 6, *size)).float()
    results = []
    for autocast in (False, True):
        x = image.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = fast(x.bfloat16() if autocast else x)
        (y.float().square().sum() / 256).backward()
        assert x.grad is not None and fast.weight.grad is not None
        results.append((y.float(), x.grad, fast.weight.grad))
        fast.zero_grad()
    for plain, bf16 in zip(*results, strict=True):
        torch.testing.assert_close(bf16, plain, rtol=0.02, atol=0.05)


def test_a_gate_multiplies_its_feature() -> None:
    """Equations 2 to 5, part by part."""
    module = SEModule(6, 16, 8, pool=True).eval()
    x = torch.randn(2, 6, 5, 4)
    u = module.reduce(x)
    s = u * module.gate(u.mean((2, 3), keepdim=True)).expand_as(u)
    expected = F.max_pool2d(module.expand(s), 2, ceil_mode=True)
    assert expected.shape == (2, 8, 3, 2)
    torch.testing.assert_close(module(x), expected)


def test_aspp_pools_by_the_mean_and_dilates_by_its_rates() -> None:
    head = ASPPHead(16, 3, (1, 2, 3)).eval()
    x = torch.randn(2, 16, 7, 9)
    pooled = head.pool(x.mean((2, 3), keepdim=True)).expand(-1, -1, 7, 9)
    parts = [branch(x) for branch in head.branches]
    expected = head.classifier(head.conv(head.project(torch.cat([*parts, pooled], 1))))
    torch.testing.assert_close(head(x), expected)
    convolutions = [m for branch in head.branches for m in branch.modules() if isinstance(m, nn.Conv2d)]
    assert [(m.kernel_size[0], m.dilation[0]) for m in convolutions] == [(1, 1), (3, 1), (3, 2), (3, 3)]
