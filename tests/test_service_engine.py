"""service/engine.py: the contract, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto
from service_onnx import card, write_model

from service.engine import OnnxEngine, read_card
from service.errors import StartupError


def test_card_and_inference(tiny_model: Path) -> None:
    assert read_card(tiny_model).name == "tiny"
    engine = OnnxEngine(tiny_model, threads=1)
    assert engine.card == read_card(tiny_model)
    assert engine.provider == "CPUExecutionProvider"
    assert list(engine.nodes) == ["CPUExecutionProvider"]
    assert engine.nodes["CPUExecutionProvider"] >= 8
    steps: list[tuple[int, int]] = []
    engine.warm_up(lambda done, total: steps.append((done, total)))
    assert steps == [(0, 2), (1, 2), (2, 2)]
    batch = np.zeros((3, 48, 64, 3), np.uint8)
    batch[1] = (255, 0, 10)
    batch[2, 5, 6] = (0, 200, 200)
    out = engine.infer(batch)
    assert (out.labels.dtype, out.depth.dtype, out.confidence.dtype) == (np.uint8, np.uint16, np.uint8)
    assert out.labels.shape == out.depth.shape == out.confidence.shape == (3, 48, 64)
    assert (out.labels[0] == 0).all()
    assert (out.labels[1] == 1).all()
    assert (out.depth[1] == 4 * 265).all()
    assert (out.labels[2, 5, 6], out.depth[2, 5, 6], out.confidence[2, 5, 6]) == (6, 1600, 200)
    engine.close()


def changed(**changes: Any) -> str:
    return json.dumps({**card(), **changes})


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"with_card": False}, "no model card"),
        ({"card_text": "{"}, "invalid model card: (whole)"),
        ({"card_text": "[]"}, "invalid model card"),
        ({"card_text": changed(format=2)}, "invalid model card: format"),
        ({"card_text": changed(extra=1)}, "invalid model card: extra"),
        ({"card_text": changed(input={**card()["input"], "sizes": []})}, "input.sizes"),
        ({"card_text": changed(classes=card()["classes"][1:])}, "class ids must count up"),
        ({"card_text": changed(depth={**card()["depth"], "unit": "m"})}, "depth.unit"),
        ({"input_name": "pixels"}, "its input must be image uint8 [N, H, W, 3]"),
        ({"input_type": TensorProto.FLOAT}, "not image tensor(float)"),
        ({"input_shape": ("N", 48, 64, 3)}, "symbolic N, H, W"),
        ({"depth_type": TensorProto.FLOAT}, "its output depth must be uint16 [N, H, W], not tensor(float)"),
        ({"outputs": ("labels", "depth")}, "its output confidence must be uint8 [N, H, W]; it has none"),
    ],
)
def test_refused(tmp_path: Path, options: dict[str, Any], reason: str) -> None:
    path = write_model(tmp_path / "model.onnx", **options)
    for load in (read_card, OnnxEngine):
        with pytest.raises(StartupError) as caught:
            load(path)
        assert reason in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"", b"hello", bytes(1000)])
def test_no_onnx_file(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StartupError, match=r"no model file" if content is None else r"model\.onnx") as caught:
        read_card(path)
    assert "\n" not in str(caught.value)


def test_a_class_the_card_does_not_have(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.onnx", card_text=changed(classes=card()["classes"][:3]))
    with pytest.raises(StartupError, match="class 7"):
        OnnxEngine(path, threads=1).warm_up(lambda done, total: None)


def test_cuda_is_never_silently_the_cpu(tiny_model: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(StartupError, match=r"segdepth\[gpu\]"):
        OnnxEngine(tiny_model, "cuda")
