"""Training as a user runs it: the script in a process of its own, killed, stopped and resumed."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from deploy.export import main as main_of_export
from model import networks
from model.backbones import normalize
from model.base import Backbone
from model.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from model.classes import IGNORE, NYU40, class_set
from model.mtl import MultiTaskNetwork
from model.networks import NetworkConfig
from training import train as train_module
from training.boxes import write_dataset
from training.data import FolderDataset, read_info
from training.describe import class_weights, measure_depth_range
from training.losses import segmentation_loss
from training.start import CHECKPOINT, TrainingError, load_other_training
from training.train import (
    PRESETS,
    ahead,
    choose_kernels,
    lock_folder,
    main,
    parse_args,
    parse_size,
    poly,
    schedule,
    without_effect,
)
from training.weighting import WEIGHTINGS, make_weighting

ROOT = Path(__file__).resolve().parents[1]
STEPS_PER_EPOCH = 8


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "boxes"
    write_dataset(folder, count=40, seed=0, size=(64, 48), workers=1)  # 32 to train on, 4 to validate
    return folder


def command(boxes: Path, out: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, str(ROOT / "training" / "train.py")),
        *("--data", str(boxes), "--out", str(out), "--network", "mtl_ssw", "--backbone", "mobilenet_v2"),
        *("--weights", "none", "--epochs", "3", "--batch-size", "4", "--workers", "1", "--device", "cpu"),
        *more,
    ]


def run(boxes: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(boxes, out, *more), capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def straight(boxes: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """The end of an uninterrupted run."""
    out = tmp_path_factory.mktemp("straight")
    done = run(boxes, out)
    assert done.returncode == 0, done.stderr
    assert "miou" in done.stdout
    assert any((out / "tensorboard").iterdir())
    return load_checkpoint(out / CHECKPOINT)


def interrupt(boxes: Path, out: Path, signal_number: int, after_step: int) -> int:
    """Starts a run, sends it a signal in the middle of an epoch, and gives its exit status."""
    process = subprocess.Popen(command(boxes, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 200
        while (
            not (out / CHECKPOINT).is_file() or load_checkpoint(out / CHECKPOINT).info["progress"]["step"] < after_step
        ):
            assert process.poll() is None and time.monotonic() < deadline, "ended before it could be interrupted"
            time.sleep(0.02)
        time.sleep(0.15)  # into the next epoch
        os.kill(process.pid, signal_number)
        return process.wait(60)
    finally:
        process.kill()
        process.wait()


def assert_same_end(out: Path, straight: Checkpoint) -> None:
    resumed = load_checkpoint(out / CHECKPOINT)
    assert resumed.weights.keys() == straight.weights.keys()
    for name, value in straight.weights.items():
        assert torch.equal(value, resumed.weights[name]), name
    assert resumed.info["evaluations"] == straight.info["evaluations"]
    assert not resumed.training_state


def test_the_end_has_weights_settings_and_figures(straight: Checkpoint) -> None:
    assert straight.info["progress"] == {"step": 3 * STEPS_PER_EPOCH, "steps": 3 * STEPS_PER_EPOCH}
    assert straight.info["training"]["size"] == [48, 64]
    assert straight.info["data"]["name"] == "boxes"
    assert [e["epoch"] for e in straight.info["evaluations"]] == [1, 2, 3]
    assert all(e["protocol"] == "mtl" and e["split"] == "val" for e in straight.info["evaluations"])
    assert not straight.training_state
    assert straight.network().tasks == ("segmentation", "depth")


def test_killed_and_resumed_equals_straight_bit_for_bit(boxes: Path, tmp_path: Path, straight: Checkpoint) -> None:
    assert interrupt(boxes, tmp_path, signal.SIGKILL, STEPS_PER_EPOCH) == -signal.SIGKILL
    assert load_checkpoint(tmp_path / CHECKPOINT).training_state
    done = run(boxes, tmp_path, "--resume")
    assert done.returncode == 0, done.stderr
    assert_same_end(tmp_path, straight)
    again = run(boxes, tmp_path, "--resume")
    assert again.returncode == 0
    assert "has ended" in again.stdout


def test_interrupted_at_the_keyboard_it_saves_and_goes_on(boxes: Path, tmp_path: Path, straight: Checkpoint) -> None:
    assert interrupt(boxes, tmp_path, signal.SIGINT, 1) == 128 + signal.SIGINT
    assert load_checkpoint(tmp_path / CHECKPOINT).training_state
    assert run(boxes, tmp_path, "--resume").returncode == 0
    assert_same_end(tmp_path, straight)


def test_one_training_to_a_folder(boxes: Path, tmp_path: Path) -> None:
    with lock_folder(tmp_path):
        done = run(boxes, tmp_path)
        assert done.returncode == 1
        assert done.stderr.endswith(f"train: --out {tmp_path}: another training writes there\n")
    assert few_steps(boxes, tmp_path).info["progress"]["step"] == 4


def test_weights_that_are_not_finite_are_not_saved(
    boxes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, steps = train_module.multi_task_loss, 0

    def loss(*args: Any) -> dict[str, Tensor]:
        nonlocal steps
        steps += 1
        losses = real(*args)
        # A good loss in the last step too, but its gradient is not a number.
        return {name: one + (0 * one).sqrt() for name, one in losses.items()} if steps == 4 else losses

    monkeypatch.setattr(train_module, "multi_task_loss", loss)
    with pytest.raises(SystemExit, match=r"^train: the weights after step 4 are not finite; .* is as it was; try a"):
        few_steps(boxes, tmp_path)
    former = load_checkpoint(tmp_path / CHECKPOINT)
    assert former.info["progress"]["step"] == 2 and former.training_state
    assert all(values.isfinite().all() for values in former.weights.values())


def test_what_cannot_be_written_leaves_the_former_file(tmp_path: Path) -> None:
    config = NetworkConfig("mtl", "mobilenet_v2", class_set(["wall", "floor"]))
    former = Checkpoint(config, {"a": torch.ones(3)}, {"data": {}}, {})
    save_checkpoint(tmp_path / CHECKPOINT, former)
    (tmp_path / f".{CHECKPOINT}.partial").mkdir()
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_checkpoint(tmp_path / CHECKPOINT, replace(former, weights={"a": torch.zeros(3)}))
    assert load_checkpoint(tmp_path / CHECKPOINT).weights["a"].tolist() == [1, 1, 1]


def test_stopped_within_an_epoch_and_resumed_equals_straight(boxes: Path, tmp_path: Path, straight: Checkpoint) -> None:
    assert interrupt(boxes, tmp_path, signal.SIGTERM, STEPS_PER_EPOCH) == 128 + signal.SIGTERM
    step = load_checkpoint(tmp_path / CHECKPOINT).info["progress"]["step"]
    assert STEPS_PER_EPOCH <= step < 3 * STEPS_PER_EPOCH
    # Refused with other settings, and without --resume; the checkpoint is left alone.
    for more, reason in (
        (("--resume", "--lr", "0.5"), "was trained with lr 0.0001, not 0.5"),
        (("--resume", "--network", "mtl_spp"), "its network differs"),
        ((), "give --resume"),
    ):
        refused = run(boxes, tmp_path, *more)
        assert refused.returncode == 1
        assert reason in refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1
    done = run(boxes, tmp_path, "--resume")
    assert done.returncode == 0, done.stderr
    assert_same_end(tmp_path, straight)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_killed_worker_ends_the_training(boxes: Path, tmp_path: Path) -> None:
    """The other one ignores SIGTERM: waited for, it would keep the process, and torchrun, for ever."""
    more = ("--epochs", "1000", "--workers", "2", "--val-split", "none")
    process = subprocess.Popen(command(boxes, tmp_path, *more), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    workers: list[int] = []
    try:
        deadline = time.monotonic() + 200
        while not (tmp_path / CHECKPOINT).is_file():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        workers = children(process.pid)
        os.kill(workers[0], signal.SIGKILL)
        assert process.wait(60) == 1
        assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    finally:
        process.kill()
        process.wait()


UNTHOUGHT_OF = """
import sys
from training import data, train
name, real = sys.argv.pop(1), data.upright_rgb

def read(picture):
    if picture.filename.endswith(name):
        raise RuntimeError("no one thought of this")
    return real(picture)

data.upright_rgb = read
train.main()
"""


@pytest.mark.parametrize("damage", ["of a picture", "no one thought of"])
def test_what_goes_wrong_in_a_worker_ends_the_training(boxes: Path, tmp_path: Path, damage: str) -> None:
    """In a validation picture, with the workers of the training waiting for more to do."""
    data = shutil.copytree(boxes, tmp_path / "data")
    picture = data / "images" / f"{read_info(data).splits['val'][1]}.jpg"
    start = command(data, tmp_path / "out")
    if damage == "of a picture":
        picture.write_bytes(picture.read_bytes()[:100])
    else:
        start[1:2] = ["-c", UNTHOUGHT_OF, picture.name]
    with open(tmp_path / "stderr", "wb") as stderr:
        process = subprocess.Popen(start, stdout=subprocess.DEVNULL, stderr=stderr, cwd=ROOT)
    workers: set[int] = set()
    try:
        deadline = time.monotonic() + 100
        while process.poll() is None:
            assert time.monotonic() < deadline, "hangs"
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                workers |= set(children(process.pid))
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 1 and len(workers) >= 2
    said = (tmp_path / "stderr").read_text()
    if damage == "of a picture":
        assert said.splitlines()[-1].startswith(f"train: {picture}: cannot be read") and "Traceback" not in said
    else:
        assert "RuntimeError: no one thought of this" in said


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (("--data", "nowhere"), "dataset.json: no such file"),
        (("--weights", "nowhere.pth"), "nowhere.pth: no such weights file"),
        (("--batch-size", "33"), "fewer than a batch of 33"),
        (("--options", '{"depht": 1}'), "does not take these options"),
        (("--network", "mtl", "--options", '{"tasks": ["normals"]}'), "tasks are some of segmentation, depth, not n"),
        (("--precision", "fp16"), "--precision fp16 needs CUDA, this is cpu"),
        (("--accumulate", "3"), "does not divide into 3 parts"),
        (("--val-split", "train"), "says nothing; give --val-split none"),
        (("--train-split", "trainval"), "split 'trainval' is missing or empty"),
        (("--warmup", "24"), "the whole training has only 24 steps"),
        (("--exchange-lr", "10"), "mtl_ssw has no such layers"),
        (("--single-task", "none"), "--single-task is for cross_stitch and nddr_cnn"),
        (("--network", "nddr_cnn"), "starts from two checkpoints: --single-task SEG DEPTH"),
        (("--network", "nddr_cnn", "--single-task", "a", "b"), "a: no such checkpoint"),
        (("--network", "stl_aspp", "--weighting", "famo"), "this network has only segmentation"),
        (("--weighting", "pcgrad", "--compile"), "--weighting pcgrad needs a gradient per task"),
        (("--device", "foo"), "train: --device foo: Expected one of cpu, cuda"),
        (("--device", "meta"), "train: --device meta: "),
        (
            ("--options", '{"aspp_rates": [1, 2]}'),
            "the rates of ASPP are three whole numbers of at least 1, not (1, 2)",
        ),
        (("--options", '{"reduction": 0}'), "reduction is a number of at least 1, not 0"),
        (
            ("--weighting", "mgda", "--freeze", "backbone"),
            "--weighting mgda needs a gradient per task; it cannot go with",
        ),
        (("--freeze", "backbone", "decoder"), "--freeze decoder: the network has no such part; it has backbone, back"),
        (("--freeze", "backbone", "se", "sw", "heads"), "--freeze backbone se sw heads leaves nothing to train"),
        (("--loss-stride", "5"), "--loss-stride 5 does not divide the training size 48x64"),
    ],
)
def test_a_start_that_cannot_be_is_one_line(boxes: Path, tmp_path: Path, more: tuple[str, ...], reason: str) -> None:
    with pytest.raises(SystemExit) as refused:
        main(command(boxes, tmp_path / "out", *more)[2:])
    assert reason in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_bf16_is_refused_where_cudnn_has_no_convolutions_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    args = train_module.parse_args(["--data", "x", "--out", "y", "--precision", "bf16"])
    capability = [7, 5]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: tuple(capability))
    with pytest.raises(TrainingError, match=r"compute capability 8\.0"):
        train_module.refuse_impossible(args, torch.device("cuda"), [])
    capability[:] = [8, 0]
    train_module.refuse_impossible(args, torch.device("cuda"), [])


def test_a_refusal_is_the_exit_status_and_one_line_of_stderr(boxes: Path, tmp_path: Path) -> None:
    done = run(boxes, tmp_path / "out", "--data", "nowhere")
    assert done.returncode == 1
    assert done.stderr.startswith("train: ") and len(done.stderr.strip().splitlines()) == 1


def test_poly_schedule() -> None:
    assert poly(0, 100) == 1.0
    assert poly(50, 100) == pytest.approx(0.5**0.9)
    assert poly(100, 100) == 0.0


def test_size_is_height_by_width() -> None:
    assert parse_size("480x640") == (480, 640)
    with pytest.raises(SystemExit):
        parse_args(["--data", "d", "--out", "o", "--size", "480"])
    with pytest.raises(SystemExit):
        parse_args(["--data", "d", "--out", "o", "--batch-size", "1"])


@pytest.mark.parametrize("share", ["-0.1", "1.1", "nan"])
def test_grey_is_a_share(share: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_args(["--data", "d", "--out", "o", "--grey", share])
    assert capsys.readouterr().err.endswith("--grey is a share, 0 to 1\n")
    assert parse_args(["--data", "d", "--out", "o", "--grey", "1"]).grey == 1


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("--focal -0.85", "--focal and --class-balance must be at least 0"),
        ("--focal nan", "--focal and --class-balance must be at least 0"),
        ("--class-balance -1", "--focal and --class-balance must be at least 0"),
        ("--loss-weights -1 1", "--loss-weights and --auxiliary-weights must be at least 0"),
        ("--auxiliary-weights 1 nan", "--loss-weights and --auxiliary-weights must be at least 0"),
        ("--color -3", "--color is a strength, 0 to 1"),
        ("--zoom 1 inf", "--zoom: give 0.01 <= MIN <= MAX <= 100"),
        ("--zoom 1e-9 1", "--zoom: give 0.01 <= MIN <= MAX <= 100"),
        ("--workers -1", "--workers must be at least 0"),
        ("--seed -1", "--seed: give 0 to 2^63 - 1"),
        ("--start s --single-task a b", "--start and --single-task are two starts; give one of them"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(words: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_args(["--data", "d", "--out", "o", *words.split()])
    assert capsys.readouterr().err.endswith(f"error: {reason}\n")


@pytest.mark.parametrize("out", ["file", "file/within"])
def test_an_out_that_is_no_folder_is_one_line(boxes: Path, tmp_path: Path, out: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match=f"^train: --out {tmp_path / out}: (File exists|Not a directory)$"):
        main(command(boxes, tmp_path / out)[2:])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA")
def test_cuda_where_there_is_none_is_one_line(boxes: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"^train: --device cuda: [^\n]+$"):
        main(command(boxes, tmp_path / "out", "--device", "cuda")[2:])


def test_network_options_are_an_object(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_args(["--data", "d", "--out", "o", "--options", "[0.1]"])
    assert capsys.readouterr().err.endswith("--options is a JSON object\n")


def test_warmup_rises_to_the_poly_schedule() -> None:
    assert schedule(0, 100, 0) == 1.0
    assert schedule(0, 100, 4) == pytest.approx(0.25)
    assert schedule(1, 100, 4) == pytest.approx(0.5 * 0.99**0.9)
    assert schedule(50, 100, 4) == poly(50, 100)


def test_a_preset_sets_defaults_only() -> None:
    needed = ["--data", "d", "--out", "o"]
    paper, strong = parse_args(needed), parse_args([*needed, "--preset", "strong"])
    assert (paper.preset, paper.optimizer, paper.lr, paper.batch_size) == ("paper", "adam", 1e-4, 8)
    for name, value in PRESETS["strong"].items():
        assert getattr(strong, name) == value != getattr(paper, name)
    assert parse_args([*needed, "--preset=strong", "--epochs", "7", "--ema", "0"]).epochs == 7
    assert parse_args([*needed, "--epochs", "7", "--preset", "strong"]).epochs == 7


# ------------------------------------------------------------------------------- every way to train, in few steps


def few_steps(boxes: Path, out: Path, *more: str) -> Checkpoint:
    """Two epochs of two steps in this process."""
    main(command(boxes, out, "--epochs", "2", "--batch-size", "16", "--workers", "0", "--val-split", "none", *more)[2:])
    return load_checkpoint(out / CHECKPOINT)


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """SIGTERM to this process in a step."""
    seen = 0
    real = train_module.multi_task_loss

    def loss(*args: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*args)

    monkeypatch.setattr(train_module, "multi_task_loss", loss)


@pytest.mark.parametrize(
    "more",
    [
        ("--weighting", "uncertainty", "--optimizer", "sgd", "--accumulate", "2"),
        ("--weighting", "dwa", "--preset", "strong", "--warmup", "2", "--epochs", "2"),
        ("--weighting", "famo", "--optimizer", "adamw", "--weight-decay", "0.1", "--clip", "0.5"),
        ("--weighting", "rlw", "--accumulate", "2"),
        ("--weighting", "gradnorm", "--network", "mtl"),
        ("--weighting", "mgda", "--network", "mtl"),
        ("--weighting", "imtl_g", "--network", "mtan"),
        ("--weighting", "nash_mtl", "--network", "mtl"),
        ("--weighting", "aligned_mtl", "--network", "mtl"),
        ("--weighting", "pcgrad", "--network", "pad_net", "--loss-stride", "2"),
        ("--weighting", "cagrad", "--network", "nddr_cnn", "--single-task", "none", "--exchange-lr", "10"),
    ],
    ids=lambda more: more[1],
)
def test_every_weighting_resumes_bit_for_bit(
    boxes: Path, tmp_path: Path, more: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    end = few_steps(boxes, tmp_path / "straight", *more)
    assert end.info["training"]["weighting"] == more[1] and not end.training_state
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(SystemExit) as stopped:
            few_steps(boxes, tmp_path / "stopped", *more)
    assert stopped.value.code == 128 + signal.SIGTERM
    half = load_checkpoint(tmp_path / "stopped" / CHECKPOINT)
    assert 0 < half.info["progress"]["step"] < 4 and half.training_state
    few_steps(boxes, tmp_path / "stopped", "--resume", *more)
    assert_same_end(tmp_path / "stopped", end)


def test_heads_learn_though_a_weighting_stops_what_is_shared(
    boxes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WEIGHTINGS["mgda"], "combine", lambda self, products, losses: torch.zeros(len(losses)))
    few = ("--optimizer", "sgd", "--network", "mtl")
    start = few_steps(boxes, tmp_path / "start", *few, "--lr", "1e-30").weights
    end = few_steps(boxes, tmp_path / "end", *few, "--lr", "0.1", "--weighting", "mgda").weights
    moved = {name for name in start if name.endswith("weight") and not torch.equal(start[name], end[name])}
    assert moved and {name.split(".")[0] for name in moved} == {"heads"}


def test_the_log_has_the_weights_of_the_tasks(boxes: Path, tmp_path: Path) -> None:
    constants = ("--weighting", "famo", "--weighting-options", '{"lr": 0.5}')
    end = few_steps(boxes, tmp_path, *constants, "--log-every", "1")
    assert end.info["training"]["weighting_options"] == {"lr": 0.5}
    log = EventAccumulator(str(tmp_path / "tensorboard"))
    log.Reload()
    weights = [[event.value for event in log.Scalars(f"weight/{task}")] for task in ("segmentation", "depth")]
    assert [sum(step) for step in zip(*weights, strict=True)] == pytest.approx([2.0] * 4)
    assert "train/segmentation" in log.Tags()["scalars"]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--network", "stl_aspp", "--depth-loss", "berhu"), "--depth-loss does nothing here: stl_aspp has only seg"),
        (("--network", "stl_aspp", "--focal", "0.8"), "--focal does nothing here"),
        (("--network", "stl_aspp_depth", "--class-balance", "0.3"), "--class-balance does nothing here"),
        (("--auxiliary-weights", "1", "1"), "--auxiliary-weights does nothing here: mtl_ssw has only segmentation and"),
        (("--network", "mti_net", "--auxiliary-weights", "1", "1"), None),
        (("--start", "x", "--weights", "no-such-file"), "--weights does nothing here: the start is another training's"),
        (
            ("--weighting", "famo", "--loss-weights", "1", "2"),
            "--loss-weights changes only the length of steps: --weighting famo undoes the rest",
        ),
        (("--weighting", "famo", "--loss-weights", "1", "0"), None),
        (("--weighting", "mgda", "--loss-weights", "1", "2"), None),
        (("--preset", "strong"), None),
        (("--size", "480x640"), None),
        (("--options", '{"aspp_rates": [1, 2, 3]}', "--size", "48x64"), None),
        (("--size", "240x320"), "rate 24, 36 of ASPP sees nothing but"),
        (
            ("--size", "120x160"),
            "rate 12, 24, 36 of ASPP sees nothing but the cell that it stands on, since the map has 8x10; "
            "what fits is --options '{\"aspp_rates\": [1, 2, 3]}'",
        ),
    ],
    ids=lambda value: "-".join(value)[:50] if isinstance(value, tuple) else "",
)
def test_what_has_no_effect_is_told(more: tuple[str, ...], told: str | None) -> None:
    fits = () if "--size" in more else ("--size", "480x640")
    args = parse_args(["--data", "d", "--out", "o", "--backbone", "mobilenet_v2", *fits, *more])
    network = NetworkConfig(args.network, args.backbone, NYU40, args.options).build()
    tasks = (*network.tasks, *network.auxiliary_tasks)
    lines = without_effect(args, network, make_weighting(args.weighting, tasks, {}), args.size)
    assert [line[: len(told or "")] for line in lines] == ([told] if told else [])


def test_a_training_tells_it(boxes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few_steps(boxes, tmp_path / "flip", "--auxiliary-weights", "1", "2")
    assert "--auxiliary-weights does nothing here" in capsys.readouterr().out
    flip = load_checkpoint(tmp_path / "flip" / CHECKPOINT).weights
    still = few_steps(boxes, tmp_path / "still", "--no-flip").weights
    assert any(not torch.equal(flip[name], still[name]) for name in flip)


def test_every_weighting_is_tried_above() -> None:
    mark = next(m for m in test_every_weighting_resumes_bit_for_bit.pytestmark if m.name == "parametrize")  # type: ignore[attr-defined]
    assert {more[1] for more in mark.args[1]} | {"fixed"} == set(WEIGHTINGS)


def test_a_network_may_give_normals_and_edges_too(boxes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Further(MultiTaskNetwork):
        auxiliary_tasks = ("normals", "edges")

        def __init__(self, backbone: Backbone, classes: int) -> None:
            super().__init__(backbone, classes)
            self.further = nn.Conv2d(backbone.channels[3], 4, 1)

        def forward(self, image: Tensor) -> dict[str, Tensor]:
            maps = self.upsample(self.further(self.backbone(normalize(image)).x4), image)
            return super().forward(image) | {"normals": maps[:, :3], "edges": maps[:, 3:]}

    monkeypatch.setitem(networks.NETWORKS, "further", Further)
    more = ("--network", "further", "--val-split", "val", "--log-every", "1")
    end = few_steps(boxes, tmp_path / "run", *more)
    assert {"miou", "abs_rel", "normals_mean", "ods_f"} <= end.info["evaluations"][-1]["values"].keys()
    log = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert {"train/normals", "train/edges"} <= set(log.Tags()["scalars"])
    exported = tmp_path / "further.onnx"
    main_of_export([str(tmp_path / "run" / CHECKPOINT), "--out", str(exported), "--name", "further"])
    assert {found.name for found in onnx.load(exported).graph.output} == {"labels", "depth", "confidence"}


def test_two_streams_start_from_single_task_networks(boxes: Path, tmp_path: Path) -> None:
    still = ("--lr", "1e-12")
    single = [few_steps(boxes, tmp_path / n, "--network", n, *still) for n in ("stl_aspp", "stl_aspp_depth")]
    files = [str(tmp_path / n / CHECKPOINT) for n in ("stl_aspp", "stl_aspp_depth")]
    both = few_steps(boxes, tmp_path / "both", "--network", "cross_stitch", "--single-task", *files, *still)
    for task, one in zip(("segmentation", "depth"), single, strict=True):
        name = f"heads.{task}.classifier.weight"
        torch.testing.assert_close(both.weights[name], one.weights[name])
        torch.testing.assert_close(
            both.weights[f"streams.{task}.features.0.0.weight"], one.weights["backbone.features.0.0.weight"]
        )
    assert both.info["training"]["single_task"] == files and both.info["training"]["preset"] == "paper"
    assert both.info["evaluations"] == []
    assert both.info["earlier_data"] == [single[0].info["data"]]
    assert both.config.options == single[0].config.options == single[1].config.options
    other = tmp_path / "other rates.safetensors"
    options = {**single[1].config.options, "aspp_rates": [1, 2, 3]}
    save_checkpoint(other, replace(single[1], config=replace(single[1].config, options=options)))
    with pytest.raises(
        SystemExit, match=r"one was made with aspp_rates .*, the other with \[1, 2, 3\]; give --options"
    ):
        few_steps(boxes, tmp_path / "rates", "--network", "cross_stitch", "--single-task", files[0], str(other))
    painted = shutil.copytree(boxes, tmp_path / "painted")
    described(painted, classes=[c | {"color": [1, 2, 3]} for c in described(painted)["classes"]])
    few_steps(painted, tmp_path / "in other colours", "--network", "cross_stitch", "--single-task", *files, *still)
    again = few_steps(
        boxes, tmp_path / "again", "--network", "cross_stitch", "--start", str(tmp_path / "both" / CHECKPOINT), *still
    )
    assert again.info["earlier_data"] == [both.info["data"]]
    torch.testing.assert_close(
        again.weights["streams.depth.features.0.0.weight"], both.weights["streams.depth.features.0.0.weight"]
    )
    with pytest.raises(SystemExit, match="the segmentation weights are not of a single-task network"):
        few_steps(boxes, tmp_path / "swapped", "--network", "cross_stitch", "--single-task", *files[::-1])


def test_a_training_starts_from_another_ones_end(boxes: Path, tmp_path: Path, straight: Checkpoint) -> None:
    file = tmp_path / "other.safetensors"
    save_checkpoint(file, straight)
    still = ("--lr", "1e-12", "--start", str(file))
    depth, segmentation = (f"heads.{task}.classifier.weight" for task in ("depth", "segmentation"))
    again = few_steps(boxes, tmp_path / "again", *still)
    torch.testing.assert_close(again.weights[depth], straight.weights[depth])
    torch.testing.assert_close(again.weights[segmentation], straight.weights[segmentation])
    assert again.info["training"]["start"] == "other.safetensors"
    # Licences ask the same of what was trained on from there, as often as that may be.
    assert straight.info["earlier_data"] == [] and again.info["earlier_data"] == [straight.info["data"]]
    former = {**straight.info["data"], "name": "before that"}
    save_checkpoint(file, replace(straight, info={**straight.info, "earlier_data": [former]}))
    assert few_steps(boxes, tmp_path / "third", *still).info["earlier_data"] == [straight.info["data"], former]

    config = replace(straight.config, classes=class_set([c.name + "!" for c in straight.config.classes]))
    save_checkpoint(file, Checkpoint(config, straight.weights, straight.info))
    others = few_steps(boxes, tmp_path / "others", *still)
    torch.testing.assert_close(others.weights[depth], straight.weights[depth])
    assert not torch.allclose(others.weights[segmentation], straight.weights[segmentation])

    moved = {k: v + 1 if v.is_floating_point() else v for k, v in straight.weights.items()}
    files = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    for path, weights in zip(files, (straight.weights, moved), strict=True):
        save_checkpoint(path, replace(straight, weights=weights))
    mean = few_steps(boxes, tmp_path / "mean", "--lr", "1e-12", "--start", *map(str, files))
    for name in (depth, segmentation):
        torch.testing.assert_close(mean.weights[name], straight.weights[name] + 0.5)
    assert mean.info["training"]["start"] == "one.safetensors + two.safetensors"
    assert mean.info["earlier_data"] == [straight.info["data"]]
    # What changes no layer is compared, too; and what is given is taken.
    other = replace(straight, config=replace(straight.config, options={"dropout": 0.25}))
    save_checkpoint(files[1], other)
    with pytest.raises(SystemExit, match=r"--start: one was made with dropout as it is, the other with 0\.25"):
        few_steps(boxes, tmp_path / "differ", "--start", *map(str, files))
    given = few_steps(boxes, tmp_path / "given", "--start", *map(str, files), "--options", '{"dropout": 0.1}')
    assert given.config.options == {"dropout": 0.1}
    save_checkpoint(files[1], replace(straight, weights=moved))
    with pytest.raises(SystemExit, match=r"other.safetensors: its classes are not those of .*one.safetensors"):
        few_steps(boxes, tmp_path / "mixed", "--start", str(files[0]), str(file))

    for more, reason in [
        (("--network", "mtl"), "is mtl_ssw on mobilenet_v2, not mtl on mobilenet_v2"),
        (("--options", '{"context": "fcn"}'), "was made with other --options"),
    ]:
        with pytest.raises(SystemExit, match=reason):
            few_steps(boxes, tmp_path / "refused", *still, *more)


@pytest.mark.parametrize("name", ["mtl_ssw", "pad_net", "mti_net"])
def test_other_classes_get_new_classifiers_wherever_there_are_such(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also as many others, whose weights would fit."""
    other = NetworkConfig(name, "resnet18", class_set(["wall", "floor"]))
    before = {k: torch.full_like(v, 7) for k, v in other.build().state_dict().items()}
    network = NetworkConfig(name, "resnet18", class_set(["cat", "dog"])).build()
    args = argparse.Namespace(network=name, backbone="resnet18", start=[Path("other.safetensors")])
    load_other_training(network, [Checkpoint(other, before)], args, class_set(["cat", "dog"]))
    new = {k for k, v in network.state_dict().items() if not torch.equal(v, before[k])}
    assert new == {k for k in before if "segmentation" in k and "classifier" in k}
    assert len(new) == {"mtl_ssw": 2, "pad_net": 4, "mti_net": 10}[name]
    taken = f"{len(before) - len(new)} of its {len(before)} tensors are taken; its segmentation classifier is new"
    said = capsys.readouterr().out
    assert said == f"other.safetensors: {taken}, for the 2 classes of the data are not its 2\n"


def test_other_colours_are_no_other_classes(capsys: pytest.CaptureFixture[str]) -> None:
    classes = class_set(["wall", "floor"])
    network = NetworkConfig("mtl", "resnet18", classes).build()
    painted = tuple(replace(c, color=(1, 2, 3)) for c in classes)
    other = NetworkConfig("mtl", "resnet18", painted)
    before = {k: torch.full_like(v, 7) for k, v in other.build().state_dict().items()}
    args = argparse.Namespace(network="mtl", backbone="resnet18", start=[Path("other.safetensors")])
    load_other_training(network, [Checkpoint(other, before)], args, classes)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert capsys.readouterr().out == ""


def test_only_classifiers_may_be_of_another_shape() -> None:
    """Options that change other layers are refused, whatever the classes are."""
    names = ["wall", "floor"], ["cat", "dog", "bird"]
    network = NetworkConfig("mtl_ssw", "resnet18", class_set(names[1]), {"reduction": 4}).build()
    args = argparse.Namespace(network="mtl_ssw", backbone="resnet18", start=[Path("other.safetensors")])
    for other_names in names:
        other = NetworkConfig("mtl_ssw", "resnet18", class_set(other_names))
        with pytest.raises(TrainingError, match=r"^other.safetensors: was made with other --options \({}\)$"):
            load_other_training(network, [Checkpoint(other, other.build().state_dict())], args, class_set(names[1]))


def test_network_options_are_those_of_the_start_and_those_given(boxes: Path, tmp_path: Path) -> None:
    options = {"dropout": 0.25, "saturation": 0}
    few_steps(boxes, tmp_path / "first", "--options", json.dumps(options))
    start = ("--start", str(tmp_path / "first" / CHECKPOINT))
    assert few_steps(boxes, tmp_path / "same", *start).config.options == options
    other = few_steps(boxes, tmp_path / "other", *start, "--options", '{"saturation": 1}').config.options
    assert other == {"dropout": 0.25, "saturation": 1}
    # A training that goes on has its own, also where the file that it started from is gone.
    (tmp_path / "first" / CHECKPOINT).unlink()
    assert few_steps(boxes, tmp_path / "same", *start, "--resume").config.options == options


def test_a_resumed_training_has_all_its_curves_and_its_origin(
    boxes: Path, tmp_path: Path, straight: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "start.safetensors"
    save_checkpoint(file, straight)
    more = ("--epochs", "3", "--log-every", "1", "--val-split", "val", "--focal", "0.85", "--eval-every", "1")
    real = train_module.save_checkpoint
    saved = []

    def stop_after_an_epoch(path: Path, checkpoint: Checkpoint) -> None:
        real(path, checkpoint)
        saved.append(checkpoint)
        raise KeyboardInterrupt

    monkeypatch.setattr(train_module, "save_checkpoint", stop_after_an_epoch)
    with pytest.raises(SystemExit, match="130"):
        few_steps(boxes, tmp_path / "run", *more, "--start", str(file))
    monkeypatch.setattr(train_module, "save_checkpoint", real)
    step = saved[0].info["progress"]["step"]
    end = few_steps(boxes, tmp_path / "run", *more, "--resume")
    assert end.info["training"]["start"] == "start.safetensors"
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    steps = end.info["progress"]["steps"]
    assert [e.step for e in events.Scalars("train/loss")] == [*range(1, steps + 1)]
    assert [e.step for e in events.Scalars("val/miou")] == [step, 2 * step, 3 * step]


@pytest.mark.parametrize(("mm", "span"), [(2000, (2.0, 2.01)), (65535, (65.52, 65.53))])
def test_the_range_of_depth_is_never_empty(tmp_path: Path, mm: int, span: tuple[float, float]) -> None:
    """As of a wall that is filmed from the front; the service refuses a card with an empty one."""
    write_dataset(tmp_path / "flat", 4, size=(32, 24))
    for file in (tmp_path / "flat" / "depth").iterdir():
        Image.fromarray(np.full((24, 32), mm, np.uint16)).save(file)
    assert measure_depth_range(FolderDataset(read_info(tmp_path / "flat"), "train")) == span


@pytest.fixture(scope="module")
def plain(boxes: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A few steps with every option as it is."""
    return few_steps(boxes, tmp_path_factory.mktemp("plain") / "run")


@pytest.mark.parametrize(
    "more",
    [
        ("--zoom", "1", "2"),
        ("--color", "0.9"),
        ("--grey", "1"),
        ("--depth-loss", "log_l1"),
        ("--class-balance", "0.5"),
        ("--loss-weights", "1", "3"),
        ("--loss-stride", "2"),
        ("--lr", "3e-4"),
        ("--warmup", "2"),
        ("--clip", "0.001"),
        ("--weight-decay", "0.1"),
        ("--optimizer", "adamw", "--weight-decay", "0.1"),
        ("--optimizer", "sgd"),
        ("--precision", "bf16"),
        ("--weighting", "uncertainty"),
        ("--seed", "1"),
    ],
    ids=" ".join,
)
def test_every_option_changes_the_training(
    boxes: Path, tmp_path: Path, plain: Checkpoint, more: tuple[str, ...]
) -> None:
    name = "heads.depth.conv.0.weight"
    other = few_steps(boxes, tmp_path / "other", *more)
    assert not torch.equal(other.weights[name], plain.weights[name])
    if "adamw" in more:  # It decays weights, and Adam adds their decay to the gradient.
        adam = few_steps(boxes, tmp_path / "adam", "--weight-decay", "0.1")
        assert not torch.equal(other.weights[name], adam.weights[name])


def test_the_options_of_other_networks_change_their_training(boxes: Path, tmp_path: Path) -> None:
    stitched = ("--network", "cross_stitch", "--single-task", "none")
    ends = [few_steps(boxes, tmp_path / factor, *stitched, "--exchange-lr", factor) for factor in ("1", "100")]
    slow, fast = ([p.detach() for p in end.network().new_parameters()] for end in ends)
    assert slow and all(not torch.equal(one, other) for one, other in zip(slow, fast, strict=True))
    auxiliary = ("--network", "pad_net", "--auxiliary-weights")
    one, other = (few_steps(boxes, tmp_path / f"pad{w}", *auxiliary, w, "50").weights for w in ("10", "20"))
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_sgd_has_momentum_and_decay() -> None:
    network = NetworkConfig("cross_stitch", "mobilenet_v2", class_set(["a", "b"]), {}).build()
    args = argparse.Namespace(optimizer="sgd", lr=0.1, weight_decay=0.01, exchange_lr=100.0, network="cross_stitch")
    optimizer = train_module.make_optimizer(network, args)
    assert [(g["momentum"], g["weight_decay"], g["factor"]) for g in optimizer.param_groups] == [
        (0.9, 0.01, 1.0),
        (0.9, 0.01, 100.0),
    ]
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(network.parameters()))


def test_weights_are_averaged_by_their_decay() -> None:
    network, ema = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
    mean = 0.0
    for step, value in ((1, 4.0), (2, 8.0), (100, 3.0)):
        nn.init.constant_(network.weight, value)
        nn.init.constant_(ema.weight, mean)
        decay = {1: 2 / 11, 2: 3 / 12, 100: 0.8}[step]  # (1 + step) / (10 + step), until that is more than 0.8
        train_module.average(ema, network, 0.8, step)
        mean = decay * mean + (1 - decay) * value
        assert ema.weight.item() == pytest.approx(mean)
    assert network.num_batches_tracked is not None
    network.num_batches_tracked += 7
    train_module.average(ema, network, 0.8, 101)
    assert ema.num_batches_tracked == 7  # A counter has no mean.


def test_averaged_weights_are_what_is_kept(boxes: Path, tmp_path: Path) -> None:
    plain = few_steps(boxes, tmp_path / "plain")
    averaged = few_steps(boxes, tmp_path / "ema", "--ema", "0.9")
    name = "backbone.features.0.0.weight"
    assert not torch.equal(plain.weights[name], averaged.weights[name])
    assert averaged.weights.keys() == plain.weights.keys()
    torch.testing.assert_close(plain.weights[name], averaged.weights[name], atol=1e-3, rtol=0)


@pytest.mark.parametrize("more", [(), ("--ema", "0.9")], ids=["raw", "ema"])
def test_swa_keeps_the_mean_of_the_last_epochs(
    boxes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    """And, stopped within those epochs, a training comes to the same mean bit for bit."""
    more = ("--epochs", "3", *more)
    seen: list[dict[str, Any]] = []
    real = train_module.save_checkpoint

    def watched(path: Path, checkpoint: Checkpoint) -> None:
        seen.append({name: value.clone() for name, value in checkpoint.weights.items()})
        real(path, checkpoint)

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "save_checkpoint", watched)
        few_steps(boxes, tmp_path / "plain", *more)
    straight = few_steps(boxes, tmp_path / "swa", *more, "--swa", "2")
    for name, value in straight.weights.items():
        last = [epoch[name] for epoch in seen[1:]]
        mean = (last[0] + last[1]) / 2 if value.is_floating_point() else last[1]
        torch.testing.assert_close(value, mean, msg=name)
    moving = "backbone.features.0.0.weight"
    assert not torch.equal(straight.weights[moving], seen[2][moving])
    assert straight.info["training"]["swa"] == 2 and not straight.training_state

    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        with pytest.raises(SystemExit):
            few_steps(boxes, tmp_path / "stopped", *more, "--swa", "2")
    few_steps(boxes, tmp_path / "stopped", *more, "--swa", "2", "--resume")
    assert_same_end(tmp_path / "stopped", straight)


@pytest.mark.parametrize("more", [(), ("--preset", "strong")], ids=["paper", "strong"])
def test_without_an_epoch_the_mean_of_the_starts_is_kept(boxes: Path, tmp_path: Path, more: tuple[str, ...]) -> None:
    one, other = (few_steps(boxes, tmp_path / seed, "--epochs", "1", "--seed", seed) for seed in ("1", "2"))
    files = [str(tmp_path / seed / CHECKPOINT) for seed in ("1", "2")]
    mean = few_steps(boxes, tmp_path / "mean", *more, "--epochs", "0", "--start", *files)
    for name, value in mean.weights.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, (one.weights[name] + other.weights[name]) / 2, msg=name)
    assert mean.info["progress"] == {"step": 0, "steps": 0} and not mean.training_state
    assert mean.info["training"]["epochs"] == 0 and mean.info["earlier_data"] == [one.info["data"]]
    few_steps(boxes, tmp_path / "mean", *more, "--epochs", "0", "--start", *files, "--resume")


@pytest.mark.parametrize(
    "more",
    [(), ("--preset", "strong", "--warmup", "1", "--epochs", "2"), ("--swa", "2")],
    ids=["paper", "strong", "swa"],
)
def test_what_is_frozen_stays_as_it_started(boxes: Path, tmp_path: Path, more: tuple[str, ...]) -> None:
    """Its batch normalisation too, also after the network was measured between two epochs."""
    main(command(boxes, tmp_path / "start", "--epochs", "1", "--val-split", "none")[2:])
    start = load_checkpoint(tmp_path / "start" / CHECKPOINT).weights
    parts = ("backbone", "se.segmentation", "heads.segmentation")
    go_on = ("--start", str(tmp_path / "start" / CHECKPOINT), "--freeze", *parts, "--val-split", "val")
    end = few_steps(boxes, tmp_path / "end", *more, *go_on)
    assert end.info["training"]["freeze"] == list(parts)
    assert [evaluation["epoch"] for evaluation in end.info["evaluations"]] == [1, 2]
    moved = {name for name in start if not torch.equal(start[name], end.weights[name])}
    free = {name for name in start if not name.startswith(tuple(f"{part}." for part in parts))}
    assert moved == free


def test_layers_of_a_rate_of_their_own_can_be_frozen(boxes: Path, tmp_path: Path) -> None:
    """The exchanges of two streams are a group of their own in the optimiser."""
    stitched = ("--network", "cross_stitch", "--single-task", "none", "--exchange-lr", "10")
    one, other = (few_steps(boxes, tmp_path / part, *stitched, "--freeze", part) for part in ("exchanges", "heads"))
    assert all(p.eq(0.9).logical_or(p.eq(0.1)).all() for p in one.network().new_parameters())
    assert not any(p.eq(0.9).logical_or(p.eq(0.1)).all() for p in other.network().new_parameters())


@pytest.mark.parametrize("swa", ["-1", "3"])
def test_swa_is_over_epochs_that_there_are(swa: str) -> None:
    with pytest.raises(SystemExit):
        parse_args(["--data", "d", "--out", "o", "--epochs", "2", "--swa", swa])


def test_a_loss_that_is_not_finite_names_step_and_pictures(boxes: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"^train: the loss of step [1-3] is (nan|inf); pictures: 0000\d\d, .*$"):
        few_steps(boxes, tmp_path, "--lr", "1e30", "--optimizer", "sgd")


def test_class_weights_lift_rare_classes_and_are_1_on_average(boxes: Path) -> None:
    dataset = FolderDataset(read_info(boxes), "train")
    counts = np.zeros(40)
    for name in dataset.names:
        label = dataset.read(name).label
        counts += np.bincount(label[label != IGNORE], minlength=40)
    frequency = counts / counts.sum()
    weights = class_weights(dataset, 0.5).numpy()
    assert (weights * frequency).sum() == pytest.approx(1, abs=1e-5)
    common, rare = int(frequency.argmax()), int(np.where(frequency > 1e-3, frequency, 1).argmin())
    assert weights[rare] / weights[common] == pytest.approx((frequency[common] / frequency[rare]) ** 0.5, rel=1e-5)


def test_the_chosen_losses_and_focal_length_train(boxes: Path, tmp_path: Path) -> None:
    more = ("--depth-loss", "silog", "--class-balance", "0.5", "--focal", "0.8", "--epochs", "1")
    main(command(boxes, tmp_path / "out", *more)[2:])
    settings = load_checkpoint(tmp_path / "out" / CHECKPOINT).info["training"]
    assert (settings["depth_loss"], settings["class_balance"], settings["focal"]) == ("silog", 0.5, 0.8)


# ------------------------------------------------------------------------------------------- several data sets


def described(folder: Path, **values: Any) -> dict[str, Any]:
    """The folder's dataset.json, after these values were written to it."""
    raw: dict[str, Any] = json.loads((folder / "dataset.json").read_text()) | values
    (folder / "dataset.json").write_text(json.dumps(raw))
    return raw


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """13 pictures to train on and 1 to measure on; in another size 16 and 2, whose names the first has too."""
    root = tmp_path_factory.mktemp("two")
    write_dataset(root / "a", count=15, seed=1, size=(64, 48), workers=1)
    write_dataset(root / "b", count=20, seed=2, size=(80, 60), workers=1)
    described(root / "b", name="photos", license="CC-BY-4.0", attribution="by B")
    return [str(root / "a"), str(root / "b")]


def in_one(folders: list[str], out: Path) -> Path:
    """A folder that holds the pictures of all, in this order."""
    parts = [described(Path(folder)) for folder in folders]
    whole = parts[0] | {
        "name": " + ".join(part["name"] for part in parts),
        "license": " + ".join(part["license"] for part in parts),
        "attribution": parts[1]["attribution"],
        "splits": {
            split: [f"{k}-{name}" for k, part in enumerate(parts) for name in part["splits"][split]]
            for split in ("train", "val")
        },
        "intrinsics": {f"{k}-{name}": v for k, part in enumerate(parts) for name, v in part["intrinsics"].items()},
    }
    for kind in ("images", "labels", "depth"):
        (out / kind).mkdir(parents=True)
        for k, folder in enumerate(folders):
            for file in (Path(folder) / kind).iterdir():
                shutil.copy(file, out / kind / f"{k}-{file.name}")
    (out / "dataset.json").write_text(json.dumps(whole))
    return out


EVERYTHING = ("--batch-size", "8", "--val-split", "val", "--class-balance", "0.5", "--focal", "0.8", "--workers", "1")


def test_two_folders_train_to_the_bytes_of_one_that_holds_both(
    two: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = few_steps(in_one(two, tmp_path / "data"), tmp_path / "one", *EVERYTHING)
    both = few_steps(Path(), tmp_path / "both", "--data", *two, *EVERYTHING)
    assert one.info["progress"] == {"step": 6, "steps": 6}
    as_bytes = [{name: value.numpy().tobytes() for name, value in end.weights.items()} for end in (one, both)]
    assert as_bytes[0] == as_bytes[1]
    assert both.info["evaluations"] == one.info["evaluations"]
    assert [(e["data"], e["pictures"]) for e in both.info["evaluations"]] == [("boxes + photos", 3)] * 2
    assert both.info["training"] == one.info["training"]

    # Together they are what the one is; and each is what it would be alone.
    data = dict(both.info["data"])
    sets = data.pop("sets")
    assert data | {"digest": one.info["data"]["digest"]} == one.info["data"]
    assert data["pictures"] == 29 and data["attribution"] == "by B"
    alone = [few_steps(Path(folder), tmp_path / Path(folder).name, "--batch-size", "8") for folder in two]
    assert sets == [end.info["data"] for end in alone]

    # Stopped, it goes on to the same end, with the same folders in the same order only.
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        with pytest.raises(SystemExit):
            few_steps(Path(), tmp_path / "stopped", "--data", *two, *EVERYTHING)
    renamed = shutil.copytree(two[1], tmp_path / "of the same name")
    described(renamed, depth={**described(renamed)["depth"], "kind": "raw"})
    with pytest.raises(SystemExit, match="was trained on another photos, of other names, cameras or kind of depth"):
        few_steps(Path(), tmp_path / "stopped", "--data", two[0], str(renamed), *EVERYTHING, "--resume")
    then = "was trained on boxes (13 pictures) + photos (16 pictures)"
    for others, now in (
        (two[:1], "boxes (13 pictures)"),
        (two[::-1], "photos (16 pictures) + boxes (13 pictures)"),
        ([str(tmp_path / "data")], "boxes + photos (29 pictures)"),
    ):
        with pytest.raises(SystemExit) as refused:
            few_steps(Path(), tmp_path / "stopped", "--data", *others, *EVERYTHING, "--size", "48x64", "--resume")
        assert f"{then}, not on {now}; a resumed run must be the same" in str(refused.value)
    few_steps(Path(), tmp_path / "stopped", "--data", *two, *EVERYTHING, "--resume")
    assert_same_end(tmp_path / "stopped", both)
    assert load_checkpoint(tmp_path / "stopped" / CHECKPOINT).info["data"] == both.info["data"]

    # What goes on from there owes all of them their credit, each once.
    start = ("--start", str(tmp_path / "both" / CHECKPOINT), "--batch-size", "8")
    assert few_steps(Path(two[0]), tmp_path / "third", *start).info["earlier_data"] == sets
    again = ("--start", str(tmp_path / "third" / CHECKPOINT), "--batch-size", "8")
    assert few_steps(Path(two[1]), tmp_path / "fourth", *again).info["earlier_data"] == sets


@pytest.fixture
def own(two: list[str], tmp_path: Path) -> list[str]:
    """A copy of `two`, to change."""
    return [str(shutil.copytree(folder, tmp_path / Path(folder).name)) for folder in two]


def test_what_is_measured_on_is_of_the_folders_that_have_it(own: list[str], tmp_path: Path) -> None:
    splits = described(Path(own[0]))["splits"]
    described(Path(own[0]), splits={"train": splits["train"]})
    end = few_steps(Path(), tmp_path / "out", "--data", *own, "--batch-size", "8", "--val-split", "val")
    assert [(e["data"], e["pictures"]) for e in end.info["evaluations"]] == [("photos", 2)] * 2
    assert end.info["data"]["pictures"] == 29


def test_several_data_sets_that_cannot_be_are_one_line(own: list[str], tmp_path: Path) -> None:
    def refused(*more: str, data: list[str] = own) -> str:
        with pytest.raises(SystemExit) as error:
            main(command(Path(), tmp_path / "out", "--data", *data, *more)[2:])
        assert len(str(error.value).splitlines()) == 1 and not (tmp_path / "out").exists()
        return str(error.value)

    a, b = own
    assert refused(data=[a, b, a + "/"]) == f"train: {a}: this data set folder is given twice"
    assert refused(data=[a, "nowhere"]).startswith("train: nowhere/dataset.json: no such file")
    few = f"train: {a}, {b}: 29 pictures to train on, fewer than a batch of 30"
    assert refused("--batch-size", "30") == few
    none = "train: --val-split holdout: none of the 2 data sets has it; give another, or none"
    assert refused("--val-split", "holdout") == none
    raw = described(Path(b), intrinsics={})
    assert refused("--focal", "0.8").startswith(f"train: {b}/dataset.json: no intrinsics for '000000'")
    described(Path(b), splits=raw["splits"] | {"val": raw["splits"]["train"][:3]})
    assert "--train-split train has 3 pictures of --val-split val" in refused()
    described(Path(b), splits={"val": raw["splits"]["val"]})
    assert refused().startswith(f"train: {b}/dataset.json: split 'train' is missing or empty; there are: val (2)")
    described(Path(b), classes=raw["classes"][:-1])
    assert refused() == f"train: {b}: its classes are not those of {a}"


# --- on a GPU


def test_batches_come_in_order_with_their_tensors(boxes: Path) -> None:
    batches = [{"image": torch.full((2, 3), k), "name": [str(k)]} for k in range(3)]
    got = list(ahead(iter(batches), torch.device("cpu")))
    assert [batch["name"] for batch, _ in got] == [["0"], ["1"], ["2"]]
    assert [list(tensors) for _, tensors in got] == [["image"]] * 3
    assert [int(tensors["image"][0, 0]) for _, tensors in got] == [0, 1, 2]


def test_on_a_gpu_the_next_batch_is_copied_before_this_one_is_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """With streams that only note what they are told: there is no GPU here."""
    log: list[str] = []

    class Stream:
        def __init__(self, device: torch.device) -> None:
            pass

        def wait_stream(self, other: Stream) -> None:
            log.append("wait")

    class Tensors(dict[str, Any]):
        def record_stream(self, stream: Stream) -> None:
            log.append("record")

    def copied(batch: Any, device: torch.device) -> dict[str, Any]:
        log.append(f"copy {batch}")
        return {"image": Tensors()}

    current = Stream(torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current)
    monkeypatch.setattr(train_module, "on_device", copied)
    for batch, _ in ahead(iter([0, 1, 2]), torch.device("cuda")):
        log.append(f"train {batch}")
    expected = ["copy 0", "wait", "record", "copy 1", "train 0", "wait", "record", "copy 2", "train 1"]
    assert log == [*expected, "wait", "record", "train 2"]
    assert list(ahead(iter([]), torch.device("cuda"))) == []


def test_deterministic_asks_for_it_and_the_loss_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    logits = torch.randn(2, 5, 8, 6, generator=torch.Generator().manual_seed(0))
    label = torch.randint(0, 5, (2, 8, 6), generator=torch.Generator().manual_seed(1))
    label[:, 0] = 255
    loss = segmentation_loss(logits, label)
    try:
        choose_kernels(torch.device("cpu"), deterministic=True)
        assert torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.benchmark
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        torch.testing.assert_close(segmentation_loss(logits, label), loss)
        choose_kernels(torch.device("cuda"), deterministic=False)
        assert not torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.benchmark
    finally:
        choose_kernels(torch.device("cpu"), deterministic=False)
    assert not torch.backends.cudnn.benchmark
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries of C have other ways")
def test_freed_memory_is_kept() -> None:
    """Of maps larger than 32 MiB, which glibc on its own never keeps."""
    code = """
import resource, torch
from training.train import keep_memory
keep_memory()
faults = []
for _ in range(16):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(10 << 20)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(sum(faults[8:]))  # Until then the heap has come to its size.
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert int(done.stdout) < 1000  # Of 81920 pages.
