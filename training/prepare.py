"""Brings the official files of a data set into the folder format of `training/data.py`, and checks such a folder.

python -m training.prepare nyud --mat nyu_depth_v2_labeled.mat --splits splits.mat --classes classMapping40.mat \\
    --out data/nyud                                   (795 + 654 pictures, 40 classes, filled depth: protocol mtl)
python -m training.prepare nyud ... --depth raw --out data/nyud-raw       (the sensor's depth: protocol eigen)
python -m training.prepare sunrgbd --root DIR --out data/sunrgbd          (DIR holds SUNRGBD/ and SUNRGBDtoolbox/)
python -m training.prepare check data/mine            (every file of any folder in the format, and its figures)

The official split says train and test. Training also needs pictures to watch, which must not be the test's: `--val`
(default 0.05) holds out that part of the official training pictures, whole scenes at a time and drawn with `--seed`.
So there are four splits: `train`, `val`, `trainval` (the official training set, for a final training by the paper's
protocol, without selection) and `test`. `--val 0` makes `train` the official training set, and no `val`.

A run that was stopped goes on where it was; with other settings it is refused. `dataset.json` is written last, so
that a folder that is not complete cannot be used by mistake.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from training.data import DataError
from training.prepare_check import check_folder
from training.prepare_nyud import prepare_nyud
from training.prepare_sunrgbd import prepare_sunrgbd


def fraction(text: str) -> float:
    """A number from 0 to below 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number from 0 to below 1")
    return value


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Official files to a data set folder; checks of such a folder.")
    commands = parser.add_subparsers(dest="command", required=True)

    common = argparse.ArgumentParser(add_help=False)
    add = common.add_argument
    add("--out", type=Path, required=True, help="the folder to make, or to go on with")
    add("--depth", choices=("filled", "raw"), default="filled", help="holes inpainted, or as the sensor gave it")
    add("--val", type=fraction, default=0.05, help="part of the training pictures to hold out as split `val`")
    add("--seed", type=int, default=0, help="of the draw of `val`")

    formats = argparse.ArgumentDefaultsHelpFormatter
    nyud = commands.add_parser("nyud", parents=[common], formatter_class=formats, help="NYUD-v2, 40 classes")
    nyud.add_argument("--mat", type=Path, required=True, help="nyu_depth_v2_labeled.mat")
    nyud.add_argument("--splits", type=Path, required=True, help="splits.mat")
    nyud.add_argument("--classes", type=Path, required=True, help="classMapping40.mat")
    nyud.add_argument(
        "--pictures", choices=("png", "jpg"), default="png", help="png keeps the official pixels; jpg is a third of it"
    )

    sun = commands.add_parser("sunrgbd", parents=[common], formatter_class=formats, help="SUN RGB-D, 37 classes")
    sun.add_argument("--root", type=Path, required=True, help="the folder that holds SUNRGBD and SUNRGBDtoolbox")

    check = commands.add_parser("check", help="reads every file of a data set folder and sums it up")
    check.add_argument("folder", type=Path)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    try:
        if args.command == "nyud":
            prepare_nyud(
                args.mat, args.splits, args.classes, args.out, args.depth, args.pictures, args.val, args.seed, True
            )
        elif args.command == "sunrgbd":
            prepare_sunrgbd(args.root, args.out, args.depth, args.val, args.seed, progress=True)
        else:
            report = check_folder(args.folder, progress=True)
            print("\n".join(report.summary))
            for warning in report.warnings:
                print(f"warning: {warning}")
            if report.errors:
                print("\n".join(report.errors), file=sys.stderr)
                sys.exit(f"prepare: {args.folder}: {len(report.errors)} error{'s' * (len(report.errors) > 1)}")
            print("no errors")
    except DataError as error:
        sys.exit(f"prepare: {error}")
    except KeyboardInterrupt:
        sys.exit("prepare: stopped; the same command goes on where it was")


if __name__ == "__main__":
    main()
