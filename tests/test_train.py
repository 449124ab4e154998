"""Training as a user runs it: the script in a process of its own, killed, stopped and resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from model.checkpoint import Checkpoint, load_checkpoint
from training.boxes import write_dataset
from training.train import CHECKPOINT, EXIT_STOPPED, parse_args, parse_size, poly

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


def test_stopped_within_an_epoch_and_resumed_equals_straight(boxes: Path, tmp_path: Path, straight: Checkpoint) -> None:
    assert interrupt(boxes, tmp_path, signal.SIGTERM, STEPS_PER_EPOCH) == EXIT_STOPPED
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


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (("--data", "nowhere"), "dataset.json: no such file"),
        (("--weights", "nowhere.pth"), "nowhere.pth: no such weights file"),
        (("--batch-size", "33"), "fewer than a batch of 33"),
        (("--options", '{"depht": 1}'), "does not take these options"),
    ],
)
def test_a_start_that_cannot_be_is_one_line(boxes: Path, tmp_path: Path, more: tuple[str, ...], reason: str) -> None:
    done = run(boxes, tmp_path / "out", *more)
    assert done.returncode == 1
    assert reason in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


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
