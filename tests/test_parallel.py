"""Two processes train as one: gradients and statistics in float64, the curve of train.py, and a lost worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from model.checkpoint import load_checkpoint
from training import parallel
from training.boxes import write_dataset
from training.start import CHECKPOINT
from training.train import main

ROOT = Path(__file__).resolve().parents[1]
TRAIN = str(ROOT / "training" / "train.py")
TORCHRUN = [
    *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"),
    *("--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"),  # a free port
]

SCRIPT = """
import copy
import sys
import torch
from torch.nn.parallel import DistributedDataParallel
from model.classes import NYU40
from model.networks import NetworkConfig
from training import parallel

def check(device):
    half = slice(4 * parallel.rank(), 4 * parallel.rank() + 4)
    torch.manual_seed(0)
    image = torch.nn.functional.interpolate(torch.rand(8, 3, 4, 5, dtype=torch.float64), size=(48, 64), mode="bilinear")
    one = NetworkConfig(sys.argv[1], "mobilenet_v2", NYU40, {"dropout": 0}).build().double().train()
    two = copy.deepcopy(one)
    parallel.synchronise_batch_norm(two, device)

    def loss(outputs):
        return sum((out - i).square().mean() for i, out in enumerate(outputs.values()))

    torch.autograd.backward(loss(one(image)))
    ddp = DistributedDataParallel(two)
    torch.autograd.backward(loss(ddp(image[half])))
    a, b = (torch.cat([p.grad.flatten() for p in net.parameters()]) for net in (one, two))
    assert (a - b).norm() < 1e-9 * a.norm(), (a - b).norm() / a.norm()
    for (name, x), y in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        torch.testing.assert_close(x, y, msg=name)
    assert parallel.gather_names([str(parallel.rank())]) == ["0", "1"]
    assert parallel.gather(torch.tensor([parallel.rank()]), device).tolist() == [[0], [1]]
    assert parallel.anyone(parallel.rank() == 1, device) and not parallel.anyone(False, device)

check(parallel.start("cpu"))
parallel.finish()
"""


@pytest.mark.parametrize(
    ("device", "cores", "processes", "loaders"),
    [("cpu", 64, 1, 2), ("cuda", 64, 1, 8), ("cuda", 16, 4, 4), ("cuda", 1, 1, 2)],
)
def test_as_many_processes_load_pictures_as_the_cores_have_room_for(
    device: str, cores: int, processes: int, loaders: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert parallel.loaders(torch.device(device)) == loaders


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "boxes"
    write_dataset(folder, count=40, seed=0, size=(64, 48), workers=1)  # 32 to train on
    return folder


def arguments(boxes: Path, out: Path) -> list[str]:
    """Five epochs of four steps. Dropout draws differently in each process; without it the curves must be the same."""
    return [
        *("--data", str(boxes), "--out", str(out), "--weights", "none", "--workers", "0", "--device", "cpu"),
        *("--epochs", "5", "--batch-size", "8", "--val-split", "none", "--options", '{"dropout": 0}'),
    ]


@pytest.mark.parametrize("network", ["mtl_ssw", "mtan"])
def test_gradients_of_two_processes_are_those_of_one(tmp_path: Path, network: str) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    words = [*TORCHRUN, str(tmp_path / "script.py"), network]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def curve(out: Path) -> list[float]:
    """The logged losses, in order."""
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    return [event.value for event in events.Scalars("train/loss")]


def test_two_processes_have_the_curve_of_one(boxes: Path, tmp_path: Path) -> None:
    # What differs is rounding. In fp32, gates that normalise over 8 values blow that up a thousandfold, and Adam makes
    # full steps of gradients that are nothing but rounding; so a network without gates, and SGD.
    more = ["--network", "mtl", "--backbone", "resnet18", "--optimizer", "sgd", "--lr", "0.0003", "--log-every", "1"]
    main([*arguments(boxes, tmp_path / "one"), *more])
    words = [*TORCHRUN, TRAIN, *arguments(boxes, tmp_path / "two"), *more]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 processes") == 1
    one, two = curve(tmp_path / "one"), curve(tmp_path / "two")
    assert len(one) == len(two) == 20 and one[-1] < one[0] - 0.1
    assert two == pytest.approx(one, abs=1e-4)


def test_a_lost_worker_comes_back_and_the_run_ends(boxes: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    words = [TRAIN, *arguments(boxes, out), "--network", "mtl_ssw", "--backbone", "mobilenet_v2", "--resume"]
    with open(log, "w") as file:
        process = subprocess.Popen([*TORCHRUN, "--max-restarts", "2", *words], stdout=file, stderr=file)
    try:
        deadline = time.monotonic() + 200
        while not (out / CHECKPOINT).is_file():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)
        assert process.wait(200) == 0, log.read_text()
    finally:
        process.terminate()
        process.wait()
    end = load_checkpoint(out / CHECKPOINT)
    assert end.info["progress"] == {"step": 20, "steps": 20} and not end.training_state
    assert log.read_text().count("steps 0 to 20") == 1  # the second start went on from a checkpoint


def test_a_batch_that_does_not_divide_is_refused(boxes: Path, tmp_path: Path) -> None:
    words = [*TORCHRUN, TRAIN, *arguments(boxes, tmp_path / "out"), "--batch-size", "7"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert (
        "train: --batch-size 7 does not divide into 1 parts of 2 pictures or more, each for 2 processes" in done.stderr
    )
    assert not (tmp_path / "out").exists()
