"""A tiny ONNX model that keeps the service's contract, and its card, to be broken in tests.

Classes are the eight corners of the RGB cube (channel > 127: red 1, green 2, blue 4); depth is 4 mm times the sum
of the channels, so black is invalid; confidence is the largest channel.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

SIZES = [[48, 64], [64, 48]]


def card() -> dict[str, Any]:
    names = ["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"]
    colors = [[20 + 30 * (i & 1), 20 + 15 * (i & 2), 20 + 50 * (i >> 2)] for i in range(8)]
    return {
        "format": 1,
        "name": "tiny",
        "version": "1.2",
        "network": "corners",
        "backbone": "none",
        "parameters": 0,
        "precision": "fp32",
        "classes": [{"id": i, "name": names[i], "color": colors[i]} for i in range(8)],
        "input": {"sizes": SIZES, "fit": "letterbox", "color_space": "sRGB"},
        "depth": {"unit": "mm", "invalid": 0, "min_m": 0.0, "max_m": 4.0},
        "training": {"data": "nothing", "license": "CC0-1.0", "pictures": 0},
    }


def write_model(
    path: Path,
    *,
    card_text: str | None = None,
    with_card: bool = True,
    input_name: str = "image",
    input_type: int = TensorProto.UINT8,
    input_shape: tuple[Any, ...] = ("N", "H", "W", 3),
    depth_type: int = TensorProto.UINT16,
    outputs: tuple[str, ...] = ("labels", "depth", "confidence"),
) -> Path:
    """Write the model; the arguments break the contract in one way each."""
    nodes = [
        helper.make_node("Cast", [input_name], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Greater", ["float", "half"], ["bright"]),
        helper.make_node("Cast", ["bright"], ["bits"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["bits", "weights"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "last"], ["class"], keepdims=0),
        helper.make_node("Cast", ["class"], ["labels"], to=TensorProto.UINT8),
        helper.make_node("ReduceSum", ["float", "last"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "four"], ["mm"]),
        helper.make_node("Cast", ["mm"], ["depth"], to=depth_type),
        helper.make_node("ReduceMax", ["float", "last"], ["max"], keepdims=0),
        helper.make_node("Cast", ["max"], ["confidence"], to=TensorProto.UINT8),
    ]
    constants = [
        helper.make_tensor("half", TensorProto.FLOAT, [], [127.0]),
        helper.make_tensor("weights", TensorProto.FLOAT, [3], [1.0, 2.0, 4.0]),
        helper.make_tensor("last", TensorProto.INT64, [1], [3]),
        helper.make_tensor("four", TensorProto.FLOAT, [], [4.0]),
    ]
    types = {"labels": TensorProto.UINT8, "depth": depth_type, "confidence": TensorProto.UINT8}
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(input_name, input_type, input_shape)],
        [helper.make_tensor_value_info(name, types[name], input_shape[:3]) for name in outputs],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    if with_card:
        helper.set_model_props(model, {"segdepth": json.dumps(card()) if card_text is None else card_text})
    onnx.save(model, str(path))
    return path


def versioned(path: Path, version: str) -> Path:
    """Replace the model file at once, as one should."""
    write_model(path.with_suffix(".new"), card_text=json.dumps({**card(), "version": version}))
    return path.with_suffix(".new").rename(path)
