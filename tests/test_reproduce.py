"""Tables from one command: what is run, what is written, and what is not run again."""

from __future__ import annotations

import json
import os
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from model.checkpoint import load_checkpoint
from model.classes import NYU40
from model.networks import NETWORKS, NetworkConfig
from training import reproduce
from training.boxes import write_dataset
from training.reproduce import TABLES, budget_args, main, markdown, own_settings, scatter, shared_settings
from training.start import CHECKPOINT
from training.train import parse_args as parse_training

TINY = ("--", "--size", "48x64", "--epochs", "1", "--weights", "none", "--workers", "0", "--device", "cpu")


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "boxes"
    write_dataset(out, count=10, seed=0, size=(64, 48), workers=1)  # 8 to train on: one step
    return out


def test_every_row_is_a_network() -> None:
    assert sorted(TABLES) == [1, 2, 3, 4, 5]
    for _, rows in TABLES.values():
        for row in rows:
            for run in row.runs:
                assert run.network in NETWORKS
    swapped = next(row for row in TABLES[5][1] if row.name == "MTL_SSW (0.2, 0.8)").runs[0]
    NetworkConfig(swapped.network, "mobilenet_v2", NYU40, swapped.options).build()


def test_the_small_budget_is_the_same_number_of_steps_for_any_data() -> None:
    for pictures in (80, 800):
        args = budget_args("small", pictures)
        assert int(args[args.index("--epochs") + 1]) * pictures / 8 == 300


def test_one_row_end_to_end_and_not_twice(boxes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--table", "1", "--data", str(boxes), "--out", str(tmp_path), "--budget", "small", "--seeds", "1"]
    command += ["--only", "cross_stitch", *TINY]
    main(command)
    runs = tmp_path / "runs" / "boxes-small"
    assert {p.name for p in runs.iterdir()} == {"stl_aspp-seed0", "stl_aspp_depth-seed0", "cross_stitch-seed0"}
    table = json.loads((tmp_path / "table1-boxes-small.json").read_text())
    assert table["budget"] == "small" and [row["name"] for row in table["rows"]] == ["cross_stitch"]
    figures = table["rows"][0]["figures"]
    assert figures["miou"]["paper"] == 38.7497 and 0 <= figures["miou"]["mean"] <= 100
    assert figures["rmse"]["mean"] > 0 and figures["rmse"]["std"] is None
    assert table["rows"][0]["runs"][0]["training"]["single_task"] == ["stl_aspp-seed0", "stl_aspp_depth-seed0"]
    assert str(tmp_path) not in (tmp_path / "table1-boxes-small.json").read_text()
    text = (tmp_path / "table1-boxes-small.md").read_text()
    assert "Small budget" in text and "| cross_stitch |" in text
    ET.parse(tmp_path / "table1-boxes-small.svg")

    before = {p: p.stat().st_mtime_ns for p in runs.rglob("*") if p.name in ("checkpoint.safetensors", "test.json")}
    assert len(before) == 6
    capsys.readouterr()
    main(command)
    assert capsys.readouterr().out.count("has ended") == 3
    assert {p: os.stat(p).st_mtime_ns for p in before} == before

    # Of other pictures to test with, the figures are others; nothing is trained anew.
    description = json.loads((boxes / "dataset.json").read_text())
    description["splits"]["test"] += description["splits"].pop("val")
    more = tmp_path / "more"
    shutil.copytree(boxes, more)
    (more / "dataset.json").write_text(json.dumps(description))
    command[command.index(str(boxes))] = str(more)
    main(command)
    changed = {path.name for path in before if os.stat(path).st_mtime_ns != before[path]}
    assert changed == {"test.json"}
    (row,) = json.loads((tmp_path / "table1-boxes-small.json").read_text())["rows"]
    assert [run["pictures"] for run in row["runs"]] == [len(description["splits"]["test"])]


def test_what_makes_a_row_is_not_lost_to_other_options(boxes: Path, tmp_path: Path) -> None:
    command = ["--table", "5", "--data", str(boxes), "--out", str(tmp_path), "--budget", "small", "--seeds", "2"]
    main([*command, "--only", "MTL_SSW (0.2, 0.8)", *TINY, "--options", '{"dropout": 0.2, "sw": [0.5, 0.5]}'])
    runs = json.loads((tmp_path / "table5-boxes-small.json").read_text())["rows"][0]["runs"]
    assert [run["options"] for run in runs] == [{"aspp_rates": [2, 4, 6], "dropout": 0.2, "sw": [0.2, 0.8]}] * 2
    assert [run["training"]["seed"] for run in runs] == [0, 1]


def test_weightings_are_for_networks_of_several_tasks(boxes: Path, tmp_path: Path) -> None:
    command = ["--table", "1", "--data", str(boxes), "--out", str(tmp_path), "--budget", "small", "--seeds", "1"]
    main([*command, "--only", "cross_stitch", *TINY, "--weighting", "dwa", "--weighting-options", '{"temperature": 3}'])
    found = {
        path.parent.name: load_checkpoint(path).info["training"]["weighting"]
        for path in (tmp_path / "runs" / "boxes-small").rglob(CHECKPOINT)
    }
    assert found == {"stl_aspp-seed0": "fixed", "stl_aspp_depth-seed0": "fixed", "cross_stitch-seed0": "dwa"}


def test_depth_for_one_focal_length_is_measured_as_such(
    boxes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    real = reproduce.evaluate

    def watched(*args: Any, **more: Any) -> dict[str, Any]:
        seen.append(more["focal"])
        return real(*args, **more)

    monkeypatch.setattr(reproduce, "evaluate", watched)
    command = ["--table", "1", "--data", str(boxes), "--out", str(tmp_path), "--budget", "small", "--seeds", "1"]
    main([*command, "--only", "MTL_SPP", *TINY, "--focal", "0.7"])
    assert seen == [0.7]


def line(name: str, miou: list[float], rmse: list[float]) -> dict[str, Any]:
    def figure(values: list[float]) -> dict[str, Any]:
        return {"mean": sum(values) / 2, "std": abs(values[0] - values[1]) / 2**0.5, "values": values, "paper": 1.0}

    figures = {"miou": figure(miou), "rmse": figure(rmse), "ln_rmse": figure(rmse)}
    return {"name": name, "parameters": [2**20, 2**21], "figures": figures, "runs": []}


def test_mean_and_deviation_are_written() -> None:
    table = {
        **{"table": 1, "title": "t", "budget": "full", "seeds": 2, "data": "d", "protocol": "mtl", "pictures": 3},
        "settings": {"preset": "paper", "backbone": "resnet50", "size": [480, 640], "epochs": 1, "batch_size": 8}
        | {"train_split": "trainval", "zoom": [1.0, 1.5], "color": 0.5, "no_flip": False},
        "rows": [line("A<B", [40.0, 42.0], [0.5, 0.5]), line("C", [30.0, 30.0], [0.7, 0.9])],
    }
    text = markdown(table)
    assert "| A<B | 1.00 + 2.00 | 41.00 ± 1.41 | 1.00 | 0.5000 ± 0.0000 | 1.0000 |" in text
    assert "Small budget" not in text
    assert "zoom 1 to 1.5, mirrored, colour changes of 0.5. Parameters" in text
    svg = ET.fromstring(scatter(table))
    assert len(svg.findall("{http://www.w3.org/2000/svg}circle")) == 2


def test_what_a_row_was_trained_with_alone_is_said_of_it_alone() -> None:
    plain = {"optimizer": "adam", "lr": 1e-4, "exchange_lr": 1.0, "single_task": [], "batch_size": 8, "seed": 0}
    streams = plain | {"optimizer": "sgd", "lr": 1e-3, "exchange_lr": 100.0, "single_task": ["a", "b"]}
    rows = [line("NDDR_CNN", [1.0, 1.0], [1.0, 1.0]), line("MTL", [1.0, 1.0], [1.0, 1.0])]
    rows[0]["runs"], rows[1]["runs"] = [{"training": streams}], [{"training": plain}, {"training": plain | {"seed": 1}}]
    shared = shared_settings(rows)
    assert shared == {"batch_size": 8}
    assert own_settings(rows, shared) == [
        "NDDR_CNN: from single-task networks, trained before as long, sgd, learning rate 0.001, "
        "100 times that for what joins."
    ]


def test_a_full_training_has_the_size_of_the_paper() -> None:
    assert parse_training(["--data", "d", "--out", "o", *budget_args("full", 795)]).size == (480, 640)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (("--only", "MTL_XYZ"), "no row 'MTL_XYZ'"),
        (("--seeds", "0"), "at least 1"),
        (("--", "--seed", "3"), "--seed is set for each run of the table"),
        (("--", "--network=mtl"), "--network is set for each run of the table"),
        (("--", "--resume"), "--resume is set for each run of the table"),
        (("--", "--options", "[1]"), "--options is a JSON object"),
    ],
)
def test_a_wrong_command_is_refused(more: tuple[str, ...], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--table", "1", "--data", "nowhere", *more])
    assert reason in capsys.readouterr().err


def test_what_a_later_row_does_not_take_is_refused_before_the_first(boxes: Path, tmp_path: Path) -> None:
    command = ["--table", "1", "--data", str(boxes), "--out", str(tmp_path), "--budget", "small", "--seeds", "1"]
    with pytest.raises(SystemExit, match=r"reproduce: PADnet: pad_net does not take these options: .*'dropout'"):
        main([*command, *TINY, "--options", '{"dropout": 0.1}'])
    assert not list(tmp_path.iterdir())


def test_missing_data_is_one_line() -> None:
    with pytest.raises(SystemExit, match="no such file"):
        main(["--table", "1", "--data", "nowhere"])
