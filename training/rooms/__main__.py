"""The command `python -m training.rooms`: a data set of furnished, path-traced rooms.

    python -m training.rooms --out data/rooms --count 8000 --workers 2 --sheet sheet.png

It needs the extra `rooms` (Mitsuba, Dr.Jit, Open Image Denoise), LLVM 15 or newer (`apt-get install libllvm19`) and
the furniture (`apt-get install sweethome3d-furniture`).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from training.boxes import check_sheet, natural, picture_size
from training.folder import contact_sheet
from training.rooms import render
from training.rooms.catalogue import Catalogue, FurnitureError, find_libraries, prepare
from training.rooms.dataset import RoomError, RoomMaker, rare_classes, write_dataset

FURNITURE = Path("/usr/share/sweethome3d/furniture")
SHEET = 48


def positive(text: str) -> int:
    """A whole number from 1 on."""
    number = natural(text)
    if not number:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.rooms", description="Make a data set of furnished, path-traced rooms."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write, to complete, or to enlarge")
    parser.add_argument("--count", type=positive, required=True, help="number of pictures")
    parser.add_argument(
        "--furniture", type=Path, default=FURNITURE, help=f"folder of .sh3f files (default {FURNITURE})"
    )
    parser.add_argument("--seed", type=natural, default=0)
    parser.add_argument("--size", type=picture_size, default=(320, 240), help="WIDTHxHEIGHT (default 320x240)")
    parser.add_argument("--views", type=positive, default=2, help="pictures of a room (default 2)")
    parser.add_argument(
        "--samples", type=positive, default=render.SAMPLES, help="paths per pixel (default %(default)s)"
    )
    parser.add_argument(
        "--workers", type=positive, default=1, help="processes (default 1); several have one thread each"
    )
    parser.add_argument("--cache", type=Path, help="where converted furniture is kept (default .furniture beside OUT)")
    parser.add_argument("--sheet", type=Path, help=f"also write a picture of the first {SHEET}, .png or .jpg")
    a = parser.parse_args(arguments)
    check_sheet(parser, a.sheet, a.out)
    cache = a.cache or a.out.absolute().parent / ".furniture"
    started = time.monotonic()
    try:
        if line := render.missing():
            raise RoomError(line)
        find_libraries(a.furniture)
        with tqdm(desc="converting furniture", unit="model", leave=False, delay=1) as bar:

            def progress(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            prepare(a.furniture, cache, progress)
        maker = RoomMaker(cache.absolute(), a.size, a.views, a.samples)
        dataset = write_dataset(a.out, a.count, a.seed, maker, Catalogue(cache), a.workers, progress=True)
    except (OSError, FurnitureError, RoomError, render.RenderError) as error:
        sys.exit(f"training.rooms: {error}")
    except KeyboardInterrupt:
        sys.exit("training.rooms: stopped; the same command goes on where it was")
    if rare := rare_classes(dataset):
        print(f"less than 0.05 % of all pixels: {', '.join(rare)}")
    print(f"median of the pictures' median depths: {dataset['median_depth_m']} m")
    print(f"{a.out}: {a.count} pictures, {time.monotonic() - started:.0f} s")
    if a.sheet:
        try:
            sheet = contact_sheet(a.out, min(a.count, SHEET), columns=6)
            sheet.thumbnail((2880, 2880))
            sheet.save(a.sheet)
        except OSError as error:
            sys.exit(f"training.rooms: {error}")


if __name__ == "__main__":
    main()
