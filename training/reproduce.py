"""Trains and measures what a table of the paper needs, and writes it beside the paper's figures.

python training/reproduce.py --table 1 --data data/nyud --seeds 3
python training/reproduce.py --table 2 --data data/sunrgbd --seeds 3 -- --workers 8 --precision bf16
python training/reproduce.py --table 3 --data data/boxes --budget small --seeds 3
python training/reproduce.py --table 5 --data data/nyud --seeds 1 --only "MTL_SSW (0.9, 0.1)"

1 and 2: the comparison on NYUD-v2 and SUN RGB-D; 3: ablation of SE and pyramid pooling; 4: combinations of modules;
5: start of the SW weights. What follows `--` goes to train.py, and wins over what is set here, but for a row's own
options, which make the row. Single-task networks have no `--weighting`. Other arguments want another `--out`.

Every run has a folder of its own in OUT/runs; one that is finished is not trained or measured again, a stopped one
goes on, and tables share runs. `--budget small` is a check of the machinery, about a minute a run on one CPU core:
MobileNetV2, 72x96, about 300 steps, ASPP rates that fit so small a map, MTI-Net at half its width; its figures say
nothing about the paper's, and its tables say so.

Written are OUT/tableN-DATA-BUDGET.md and .json, and for tables 1 and 2 .svg (figure 7: mIoU against rmse). Training is
on the split `trainval` (the official training set) where there is one, else on `train`; the last weights are measured,
by protocol `mtl` on `test`: nothing is selected on pictures that are measured.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.checkpoint import CheckpointError, load_checkpoint
from model.networks import NetworkConfig, count_parameters
from training import train
from training.data import DataError, DatasetInfo, FolderDataset, read_info
from training.describe import digest_of
from training.evaluate import evaluate
from training.start import CHECKPOINT

FIGURES = {"miou": ("mIoU %", 100), "rmse": ("rmse", 1), "ln_rmse": ("log_rmse", 1)}
"""The paper's figures by the names of `training.metrics`: column and factor. Its log_rmse is the natural-log RMSE."""


@dataclass(frozen=True)
class Run:
    """One network to train: what train.py is told."""

    network: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One line of a table. With several runs each gives the figures of its task.

    Attributes:
        paper: mIoU in per cent, rmse in metres, log_rmse.
    """

    name: str
    paper: tuple[float, float, float]
    runs: tuple[Run, ...]


SINGLE_TASK = (Run("stl_aspp"), Run("stl_aspp_depth"))
NEEDS_SINGLE_TASK = ("cross_stitch", "nddr_cnn")

# Both train on from single-task networks, as in their papers, with a larger rate for the new layers.
TWO_STREAM_ARGS = ("--optimizer", "sgd", "--lr", "1e-3", "--exchange-lr", "100")


def row(name: str, network: str, miou: float, rmse: float, log_rmse: float, **options: Any) -> Row:
    return Row(name, (miou, rmse, log_rmse), (Run(network, options),))


TABLES: dict[int, tuple[str, tuple[Row, ...]]] = {
    1: (
        "comparison on NYUD-v2",
        (
            row("NDDR_CNN", "nddr_cnn", 39.3301, 0.5943, 0.2008),
            row("cross_stitch", "cross_stitch", 38.7497, 0.5973, 0.1978),
            row("PADnet", "pad_net", 39.2170, 0.6417, 0.2157),
            row("MTI_Net", "mti_net", 35.4241, 0.5656, 0.1903),
            row("MTAN", "mtan", 39.4689, 0.5953, 0.1942),
            row("MTL_SPP", "mtl_spp", 39.6119, 0.5840, 0.1928),
            row("MTL_SSW", "mtl_ssw", 39.8796, 0.5755, 0.1904),
        ),
    ),
    2: (
        "comparison on SUN RGB-D",
        (
            row("NDDR_CNN", "nddr_cnn", 48.0541, 0.4873, 0.1783),
            row("cross_stitch", "cross_stitch", 47.9307, 0.5007, 0.1721),
            row("PADnet", "pad_net", 47.8794, 0.5287, 0.1853),
            row("MTI_Net", "mti_net", 46.7829, 0.4509, 0.1489),
            row("MTAN", "mtan", 48.2863, 0.4696, 0.1613),
            row("MTL_SPP", "mtl_spp", 48.7890, 0.4670, 0.1572),
            row("MTL_SSW", "mtl_ssw", 49.2547, 0.4539, 0.1503),
        ),
    ),
    3: (
        "ablation of MTL_SPP on NYUD-v2",
        (
            Row("STL_ASPP", (39.2452, 0.6000, 0.2050), SINGLE_TASK),
            row("MTL", "mtl", 34.5325, 0.6829, 0.2326),
            row("MTL_SE", "mtl_se", 34.8917, 0.6779, 0.2280),
            row("MTL_PP", "mtl_pp", 37.4387, 0.6779, 0.2364),
            row("MTL_SPP", "mtl_spp", 39.6119, 0.5840, 0.1928),
        ),
    ),
    4: (
        "combinations of modules on NYUD-v2",
        (
            row("MTL_SE+ASPP", "mtl_se_aspp", 37.9027, 0.6219, 0.2026),
            row("MTL_SW+PP", "mtl_sw_pp", 38.0569, 0.6211, 0.2067),
            row("MTL_SPP", "mtl_spp", 39.6119, 0.5840, 0.1928),
            row("MTL_SSW", "mtl_ssw", 39.8796, 0.5755, 0.1904),
        ),
    ),
    5: (
        "start (alpha, beta) of the SW weights on NYUD-v2",
        (
            row("MTL_SSW (0.2, 0.8)", "mtl_ssw", 37.9079, 0.6086, 0.2034, sw=[0.2, 0.8]),
            row("MTL_SSW (0.8, 0.2)", "mtl_ssw", 38.4932, 0.5995, 0.2030, sw=[0.8, 0.2]),
            row("MTL_SSW (0.5, 0.5)", "mtl_ssw", 37.5080, 0.6095, 0.2047, sw=[0.5, 0.5]),
            row("MTL_SSW (0.1, 0.9)", "mtl_ssw", 37.6717, 0.6014, 0.1998, sw=[0.1, 0.9]),
            row("MTL_SSW (0.9, 0.1)", "mtl_ssw", 39.8796, 0.5755, 0.1904),  # the default: tables 1, 4 and 5 share it
        ),
    ),
}
# Figures and order are the paper's.

SMALL_STEPS = 300
BATCH = 8


def small_options(network: str) -> dict[str, Any]:
    """What differs from a network's defaults in the small budget."""
    if network == "mti_net":
        return {"pyramid_width": 64}  # half the default, or it would take as long as all others together
    if network == "pad_net":
        return {}
    return {"aspp_rates": [2, 4, 6]}  # 12, 24, 36 are for 30x40 cells, and here there are 5x6


# --------------------------------------------------------------------------------------------------- running


def budget_args(budget: str, pictures: int) -> list[str]:
    """What train.py is told for a budget."""
    if budget == "full":
        # SUN RGB-D has pictures of several sizes, and the first is none of the usual ones.
        return ["--backbone", "resnet50", "--preset", "paper", "--size", "480x640"]
    epochs = max(1, round(SMALL_STEPS * BATCH / pictures))
    return ["--backbone", "mobilenet_v2", "--size", "72x96", "--epochs", str(epochs), "--lr", "1e-3"]


def folder(out: Path, info: DatasetInfo, budget: str, run: Run, seed: int) -> Path:
    """Where a run lives."""
    options = re.sub(r"[^0-9a-z.]+", "_", json.dumps(run.options)).strip("_") if run.options else ""
    name = "-".join(part for part in (run.network, options, f"seed{seed}") if part)
    return out / "runs" / f"{called(info)}-{budget}" / name


def called(info: DatasetInfo) -> str:
    """NYUD-v2 with raw depth and with filled depth are two data sets of one name."""
    return f"{info.name}-{info.depth_kind}" if info.depth_kind else info.name


def command_of(run: Run, seed: int, info: DatasetInfo, args: argparse.Namespace) -> list[str]:
    """What train.py is told for a run."""
    split = "trainval" if info.splits.get("trainval") else "train"
    where = folder(args.out, info, args.budget, run, seed)
    command = ["--data", str(args.data), "--out", str(where), "--resume", "--seed", str(seed)]
    command += ["--train-split", split, "--val-split", "none", "--batch-size", str(BATCH)]
    options = {} if args.budget == "full" else small_options(run.network)
    options |= args.options | run.options
    command += ["--network", run.network, "--options", json.dumps(options)]
    command += budget_args(args.budget, len(info.splits.get(split, ())) or 1)
    if run.network in NEEDS_SINGLE_TASK:
        starts = [folder(args.out, info, args.budget, single, seed) / CHECKPOINT for single in SINGLE_TASK]
        command += ["--single-task", *map(str, starts), *TWO_STREAM_ARGS]
    command += args.train_args
    if run not in SINGLE_TASK:
        command += args.weighting
    return command


def refuse_unbuildable(rows: Sequence[Row], info: DatasetInfo, args: argparse.Namespace) -> None:
    """Shows now what would else show after the trainings before it: options that a network of a row does not take.

    Raises:
        ValueError: with the row's name.
        SystemExit: an option of train.py is wrong.
    """
    for row in rows:
        extra = SINGLE_TASK if any(run.network in NEEDS_SINGLE_TASK for run in row.runs) else ()
        for run in (*row.runs, *extra):
            parsed = train.parse_args(command_of(run, 0, info, args))
            try:
                with torch.device("meta"):
                    NetworkConfig(parsed.network, parsed.backbone, info.classes, parsed.options).build()
            except ValueError as error:
                raise ValueError(f"{row.name}: {error}") from None


def train_and_measure(run: Run, seed: int, info: DatasetInfo, args: argparse.Namespace) -> dict[str, Any]:
    """Does what is not done yet of one run; its result on the test split, with what it was trained with.

    Raises:
        DataError, CheckpointError: the data cannot be used, or a file of the run cannot.
        SystemExit: training was refused or stopped.
    """
    where = folder(args.out, info, args.budget, run, seed)
    command = command_of(run, seed, info, args)
    print(f"\n== {where.name}", flush=True)
    train.main(command)

    checkpoint = load_checkpoint(where / CHECKPOINT)
    result_path = where / "test.json"
    digest = digest_of(info, "test")
    result = json.loads(result_path.read_text(encoding="utf-8")) if result_path.is_file() else {}
    if result.get("digest") != digest:  # Or of other pictures.
        network = checkpoint.network().to(train.parse_args(command).device)
        training = checkpoint.info["training"]
        size, focal = tuple(training["size"]), training.get("focal", 0.0)
        result = evaluate(network, FolderDataset(info, "test"), size, workers=2, progress=True, focal=focal)
        result |= {"parameters": count_parameters(network), "digest": digest}
        partial = result_path.with_suffix(".partial")
        partial.write_text(json.dumps(result, indent=2), encoding="utf-8")
        partial.replace(result_path)
    training = checkpoint.info["training"] | {"backbone": checkpoint.config.backbone}
    # Names, not where they lie on this machine.
    training["weights"] = Path(training["weights"]).name
    training["single_task"] = [Path(start).parent.name for start in training["single_task"] or ()]
    return {"seed": seed, "network": run.network, "options": checkpoint.config.options, "training": training, **result}


def run_row(row: Row, info: DatasetInfo, args: argparse.Namespace) -> dict[str, Any]:
    """One line of the table, JSON-able."""
    results = []
    for seed in range(args.seeds):
        if any(run.network in NEEDS_SINGLE_TASK for run in row.runs):
            for single in SINGLE_TASK:
                train_and_measure(single, seed, info, args)
        results.append([train_and_measure(run, seed, info, args) for run in row.runs])
    figures = {}
    for (name, (_, factor)), paper in zip(FIGURES.items(), row.paper, strict=True):
        # Of a single-task row every run has its own task's figures; NaN was left out of them.
        values = [next((r["values"][name] for r in runs if name in r["values"]), float("nan")) for runs in results]
        scaled = [factor * v for v in values]
        deviation = float(np.std(scaled, ddof=1)) if len(scaled) > 1 else None
        figures[name] = {"mean": float(np.mean(scaled)), "std": deviation, "values": scaled, "paper": paper}
    parameters = [result["parameters"] for result in results[0]]
    return {
        "name": row.name,
        "parameters": parameters,
        "figures": figures,
        "runs": [r for runs in results for r in runs],
    }


# --------------------------------------------------------------------------------------------------- writing


def shared_settings(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What all runs of a table were trained with alike."""
    settings = [run["training"] for row in rows for run in row["runs"]]
    return {k: v for k, v in settings[0].items() if all(k in one and one[k] == v for one in settings)}


TOLD = {
    "optimizer": "{}",
    "lr": "learning rate {:g}",
    "exchange_lr": "{:g} times that for what joins",
    "weighting": "losses weighed by `{}`",
    "loss_weights": "times {0[0]:g} and {0[1]:g}",
    "depth_loss": "depth loss `{}`",
    "weights": "backbone from `{}`",
}
"""How settings are told."""
OF_ALL = ("optimizer", "lr", "weighting", "loss_weights", "depth_loss", "weights")
"""What is told of a table, where all its runs have it."""
OF_ROWS = ("optimizer", "lr", "exchange_lr")
"""What rows that began with single-task networks may differ in."""


def told(settings: dict[str, Any], keys: Sequence[str]) -> list[str]:
    """In words, of those that there are."""
    return [TOLD[key].format(settings[key]) for key in keys if settings.get(key) is not None]


def own_settings(rows: Sequence[dict[str, Any]], shared: dict[str, Any]) -> list[str]:
    """A line for each row that began with single-task networks: that, and what is not in `shared`."""
    lines = []
    for row in rows:
        training = row["runs"][0]["training"] if row["runs"] else {}
        if training.get("single_task"):
            own = told(training, [key for key in OF_ROWS if key not in shared])
            start = "from single-task networks, trained before as long"
            lines.append(f"{row['name']}: {', '.join([start, *own])}.")
    return lines


def markdown(table: dict[str, Any]) -> str:
    """The table for people."""
    settings = table["settings"]
    height, width = settings["size"]
    lines = [f"# Table {table['table']}: {table['title']}", ""]
    if table["budget"] == "small":
        lines += [
            "**Small budget: a check of the machinery, not a reproduction. The columns `paper` are full trainings on",
            "other data; only the order of the rows may be compared, and with care.**",
            "",
        ]
    deviation = f"mean ± standard deviation over {table['seeds']} seeds" if table["seeds"] > 1 else "one seed"
    lines += [
        f"Data {table['data']}, {table['pictures']} test pictures, protocol {table['protocol']}; {deviation}.",
        f"Trained with preset {settings['preset']} on {settings['backbone']}, {height}x{width}, "
        f"{settings['epochs']} epochs of `{settings['train_split']}`, batch {settings['batch_size']}, "
        f"zoom {settings['zoom'][0]:g} to {settings['zoom'][1]:g}, "
        f"{'not mirrored' if settings.get('no_flip') else 'mirrored'}, "
        + ", ".join([f"colour changes of {settings['color']:g}", *told(settings, OF_ALL)])
        + ". Parameters in units of 2^20; log_rmse is of natural logarithms.",
        *own_settings(table["rows"], settings),
        "",
        "| method | parameters | " + " | ".join(f"{column} | paper" for column, _ in FIGURES.values()) + " |",
        "|---|---|" + "---|---|" * len(FIGURES),
    ]
    for line in table["rows"]:
        cells = [line["name"], " + ".join(f"{p / 2**20:.2f}" for p in line["parameters"])]
        for name, figure in line["figures"].items():
            digits = 2 if name == "miou" else 4
            std = "" if figure["std"] is None else f" ± {figure['std']:.{digits}f}"
            cells += [f"{figure['mean']:.{digits}f}{std}", f"{figure['paper']:.{digits}f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


Place = tuple[float, float, int]
"""Of a name in the plot: x, y, and 1 or -1 where it goes on to the right or to the left."""


def scatter(table: dict[str, Any], width: int = 720, height: int = 480) -> str:
    """Figure 7 as an SVG: mIoU (up is better) against rmse (left is better), with bars of one standard deviation."""
    points = []
    for line in table["rows"]:
        x, y = line["figures"]["rmse"], line["figures"]["miou"]
        points.append((line["name"], x["mean"], x["std"] or 0.0, y["mean"], y["std"] or 0.0))
    points = [p for p in points if np.isfinite(p[1:]).all()]

    def axis(values: list[float]) -> tuple[float, float]:
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        margin = 0.15 * (high - low) or 0.1 * abs(high) or 1.0
        return low - margin, high + margin

    x0, x1 = axis([x + s * dx for _, x, dx, _, _ in points for s in (-1, 1)])
    y0, y1 = axis([y + s * dy for _, _, _, y, dy in points for s in (-1, 1)])
    left, right, top, bottom = 70, width - 30, 50, height - 60

    def px(x: float) -> float:
        return left + (x - x0) / (x1 - x0) * (right - left)

    def py(y: float) -> float:
        return bottom - (y - y0) / (y1 - y0) * (bottom - top)

    title = f"{table['data']}, table {table['table']}" + (", small budget" if table["budget"] == "small" else "")
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{width / 2}" y="28" text-anchor="middle" font-size="15">{escape(title)}</text>',
        f'<path d="M{left} {top}V{bottom}H{right}" fill="none" stroke="black"/>',
        f'<text x="{width / 2}" y="{height - 14}" text-anchor="middle">rmse (m), less is better</text>',
        f'<text transform="translate(18 {height / 2}) rotate(-90)" text-anchor="middle">mIoU (%), more is better'
        "</text>",
    ]

    def overlap(place: Place, other: tuple[Place, str], name: str) -> bool:
        (x, y, sign), ((u, v, other_sign), other_name) = place, other
        (a0, a1), (b0, b1) = (
            sorted((start, start + way * 8 * len(text)))
            for start, way, text in ((x, sign, name), (u, other_sign, other_name))
        )
        return abs(y - v) < 13 and a0 < b1 and b0 < a1

    named: list[tuple[Place, str]] = []
    for i in range(6):
        x, y = x0 + (x1 - x0) * i / 5, y0 + (y1 - y0) * i / 5
        parts.append(f'<text x="{px(x):.1f}" y="{bottom + 18}" text-anchor="middle">{x:.3f}</text>')
        parts.append(f'<text x="{left - 8}" y="{py(y) + 4:.1f}" text-anchor="end">{y:.1f}</text>')
    for name, x, dx, y, dy in points:
        across, up = (
            f"M{px(x - dx):.1f} {py(y):.1f}H{px(x + dx):.1f}",
            f"M{px(x):.1f} {py(y - dy):.1f}V{py(y + dy):.1f}",
        )
        color = "#c03020" if name.startswith(("MTL_SPP", "MTL_SSW")) else "#2060a0"
        parts.append(f'<path d="{across}{up}" stroke="{color}" stroke-opacity="0.4"/>')
        parts.append(f'<circle cx="{px(x):.1f}" cy="{py(y):.1f}" r="4" fill="{color}"/>')
        # Above on the right, or wherever else no earlier name stands.
        places = [(px(x) + sign * 7, py(y) + down, sign) for down in (-7, 16) for sign in (1, -1)]
        at_x, at_y, sign = next((p for p in places if not any(overlap(p, n, name) for n in named)), places[0])
        named.append(((at_x, at_y, sign), name))
        anchor = "start" if sign > 0 else "end"
        parts.append(f'<text x="{at_x:.1f}" y="{at_y:.1f}" text-anchor="{anchor}" fill="{color}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>\n"])


# ------------------------------------------------------------------------------------------------------ main


SET_HERE = ("--data", "--out", "--seed", "--network", "--single-task", "--train-split", "--val-split", "--resume")
"""Of train.py. With others than a row's, a run would not be what the table calls it."""


def parse_train_args(words: list[str]) -> argparse.Namespace:
    """What followed `--`: `options`, `weighting` with its options, and all else in `train_args`."""
    parser = argparse.ArgumentParser(
        usage="reproduce.py ... -- [options of train.py]", add_help=False, allow_abbrev=False
    )
    parser.add_argument("--options", type=json.loads, default={})
    parser.add_argument("--weighting")
    parser.add_argument("--weighting-options")
    for name in SET_HERE:
        parser.add_argument(name, nargs="*", dest=name)
    args, rest = parser.parse_known_args(words)
    if given := [name for name in SET_HERE if getattr(args, name) is not None]:
        parser.error(f"{given[0]} is set for each run of the table")
    if not isinstance(args.options, dict):
        parser.error("--options is a JSON object")
    weighting = [] if args.weighting is None else ["--weighting", args.weighting]
    weighting += [] if args.weighting_options is None else ["--weighting-options", args.weighting_options]
    return argparse.Namespace(options=args.options, weighting=weighting, train_args=rest)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, with that of `parse_train_args`."""
    parser = argparse.ArgumentParser(description="Trains and measures what a table of the paper needs.")
    add = parser.add_argument
    add("--table", type=int, choices=TABLES, required=True)
    add("--data", type=Path, required=True, help="data set folder with a split `test`")
    add("--out", type=Path, default=Path("runs/reproduce"), help="runs and tables (default: %(default)s)")
    add("--seeds", type=int, default=3, metavar="K", help="train with the seeds 0 to K-1 (default: %(default)s)")
    add("--budget", choices=("full", "small"), default="full", help="small: minutes on a CPU, and marked as such")
    add("--only", nargs="+", metavar="ROW", help="only these rows, by the name in the table")
    words = list(sys.argv[1:] if argv is None else argv)
    at = words.index("--") if "--" in words else len(words)
    args = parser.parse_args(words[:at], parse_train_args(words[at + 1 :]))
    names = [row.name for row in TABLES[args.table][1]]
    if unknown := [name for name in args.only or () if name not in names]:
        parser.error(f"--only: no row '{unknown[0]}' in table {args.table}; there are {', '.join(names)}")
    if args.seeds < 1:
        parser.error("--seeds must be at least 1")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    title, rows = TABLES[args.table]
    try:
        info = read_info(args.data)
        FolderDataset(info, "test")  # refused now rather than after the training
        chosen = [row for row in rows if not args.only or row.name in args.only]
        refuse_unbuildable(chosen, info, args)
        lines = [run_row(row, info, args) for row in chosen]
    except (DataError, CheckpointError, ValueError) as error:
        sys.exit(f"reproduce: {error}")
    first = lines[0]["runs"][0]
    table = {
        "table": args.table,
        "title": title,
        "budget": args.budget,
        "seeds": args.seeds,
        **{key: first[key] for key in ("data", "split", "protocol", "depth_kind", "pictures")},
        "settings": shared_settings(lines),
        "rows": lines,
    }
    base = args.out / f"table{args.table}-{called(info)}-{args.budget}"
    text = markdown(table)
    written = {".json": json.dumps(table, indent=2) + "\n", ".md": text}
    if args.table in (1, 2):
        written[".svg"] = scatter(table)
    for suffix, content in written.items():
        base.with_name(base.name + suffix).write_text(content, encoding="utf-8")
    print(f"\n{text}\nwritten: {', '.join(base.name + suffix for suffix in written)} in {args.out}")


if __name__ == "__main__":
    main()
