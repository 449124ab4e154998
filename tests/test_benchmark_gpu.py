"""benchmarks/gpu.py: all its stages on the CPU, and what it does with a stage that fails or takes too long."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import gpu
from benchmarks.gpu import BUNDLED, LARGE, STAGES, Bench, Plan
from service.engine import Prediction


def test_a_dry_run_goes_through_all_stages(tmp_path: Path) -> None:
    gpu.main(["--dry-run", "--out", str(tmp_path / "gpu")])
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert results["dry_run"] is True
    assert {name: stage["ended"] for name, stage in results["stages"].items()} == dict.fromkeys(STAGES, "complete")
    found = {name: stage["found"] for name, stage in results["stages"].items()}
    assert set(found["place"]["nodes"]) == {
        f"{LARGE}, cuda fp32 (TF32)",
        f"{LARGE}, cuda fp16",
        f"{BUNDLED}, cuda fp32 (TF32)",
    }
    assert found["place"][LARGE]["gflop"] > 0
    assert set(found["ceiling"]) == {"fp32", "tf32", "bf16", "fp16"}
    assert found["copies"]["to the device, batch 2"]["bytes"] == 3 * 2 * 32 * 48
    assert found["copies"]["from the device, batch 1"]["bytes"] == 4 * 32 * 48
    for variant in ("cuda fp32 (TF32)", "cuda fp16"):
        assert set(found["engines"][LARGE][variant]) == {"1", "2"}
        assert found["engines"][LARGE][variant]["2"]["pictures_per_s"] > 0
    assert found["engines"][LARGE]["cuda fp16 graphs"] == {"not measured": "not in a dry run"}
    assert found["torch"][LARGE]["eager fp32 (TF32)"]["2"]["pictures_per_s"] > 0
    assert found["agreement"][BUNDLED]["cuda fp32 (TF32)"]["equal_labels"] == 1.0
    assert found["agreement"][LARGE]["cuda fp16"]["depth_p99"] < 0.05
    assert found["service"][LARGE]["2"]["statuses"].get("200", 0) > 0
    assert found["training"]["ratio"] > 0
    text = (tmp_path / "gpu.md").read_text()
    assert text.startswith("**A dry run on the CPU: these are no figures of anything.**")
    assert "| service | connections |" in text and "| matrix products |" in text


def test_what_was_found_is_kept_when_a_stage_fails_or_takes_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(bench: Bench, found: dict[str, Any]) -> None:
        found["before"] = 1
        raise RuntimeError("CUDA error:\nout of memory")

    def ends(bench: Bench, found: dict[str, Any]) -> None:
        found["before"] = 2
        raise SystemExit("this server did not start")

    def lasts(bench: Bench, found: dict[str, Any]) -> None:
        found["before"] = 3
        try:
            time.sleep(20)
        except Exception:  # As a library may do it.
            time.sleep(20)

    def works(bench: Bench, found: dict[str, Any]) -> None:
        found["all"] = 4

    saved: list[str] = []
    plan = Plan(dry=True, checkpoint=None, budget=dict.fromkeys(STAGES, 30.0) | {"ceiling": 0.2})
    bench = Bench(plan, tmp_path, {"stages": {}})
    work = dict.fromkeys(STAGES, works) | {"place": fails, "ceiling": lasts, "copies": ends}
    monkeypatch.setattr(gpu, "WORK", work)
    began = time.perf_counter()
    gpu.stages(bench, lambda: saved.append(json.dumps(bench.results)))
    assert time.perf_counter() - began < 10
    stages = bench.results["stages"]
    assert stages["place"]["ended"] == "failed: RuntimeError: CUDA error: out of memory"
    assert stages["ceiling"]["ended"] == "cut off after 0.2 s"
    assert stages["copies"]["ended"] == "failed: SystemExit: this server did not start"
    assert [stages[name]["found"] for name in STAGES[:4]] == [{"before": 1}, {"before": 3}, {"before": 2}, {"all": 4}]
    assert [stages[name]["ended"] for name in STAGES[3:]] == ["complete"] * 5
    assert [len(json.loads(text)["stages"]) for text in saved] == list(range(1, 9))


def test_eight_minutes_are_enough_for_all_stages() -> None:
    assert set(gpu.BUDGET_S) == set(STAGES) == set(gpu.WORK)
    assert sum(gpu.BUDGET_S.values()) <= 8 * 60 - 10


def test_agreement_is_exact() -> None:
    labels = np.zeros((1, 2, 4), np.uint8)
    depth = np.array([[[0, 1000, 2000, 4000], [1000, 1000, 1000, 1000]]], np.uint16)
    other = depth.copy()
    other[0, 0] = [9, 1010, 2000, 4000]  # Where there was no depth, it does not count.
    changed = labels.copy()
    changed[0, 0, 0] = 1
    got = gpu.compare(Prediction(labels, depth, labels), Prediction(changed, other, labels))
    assert got["equal_labels"] == 7 / 8
    assert got["depth_mean"] == pytest.approx(0.01 / 7)
    assert got["depth_p99"] == pytest.approx(0.01 * 0.94)
    none = np.zeros_like(depth)
    assert gpu.compare(Prediction(labels, none, labels), Prediction(labels, none, labels))["depth_p99"] == 0


def test_verdicts_compare_with_what_was_aimed_at() -> None:
    assert [row[1:] for row in gpu.verdicts({})] == [["not measured", "-"]] * 6
    rate = {"pictures_per_s": 300.0, "device_alone_per_s": 310.0, "tflops": 100.0}
    half = {"1": rate, "2": {**rate, "pictures_per_s": 200.0}}
    stages: dict[str, Any] = {
        "engines": {"found": {LARGE: {"cuda fp16": half, "tensorrt fp16": {"not measured": "no TensorRT"}}}},
        "torch": {"found": {LARGE: {"compile fp16": {"8": {"pictures_per_s": 150.0}}}}},
        "ceiling": {"found": {"fp16": {"tflops": 400.0}}},
        "agreement": {
            "found": {
                BUNDLED: {"cuda fp16": {"equal_labels": 0.997, "depth_p99": 0.02, "trained": True}},
                LARGE: {"cuda fp16": {"equal_labels": 0.5, "depth_p99": 0.5, "trained": False}},
            }
        },
        "training": {"found": {"ratio": 0.95}},
    }
    assert [row[1:] for row in gpu.verdicts(stages)] == [
        ["2.00", "yes"],
        ["25.0%", "no"],
        ["0.968", "yes"],
        ["99.70%", "yes"],
        ["2.00%", "no"],
        ["0.950", "yes"],
    ]


def test_a_machine_without_a_gpu_is_told(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(SystemExit, match="PyTorch sees no GPU; --dry-run needs none"):
        gpu.main(["--out", str(tmp_path / "gpu")])
