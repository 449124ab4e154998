"""The service's answers to a folder or bucket of pictures, as files, on as many machines as a Ray cluster has.

    python -m deploy.ray_batch photos masks --output mask --replicas 4
    python -m deploy.ray_batch s3://rooms/photos s3://rooms/depth --output depth --device cuda --replicas 8

The files are what `segdepth predict` writes, under the same names. What has an answer is left out, so the same command
goes on where one was killed. docs/ray.md tells more.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, get_args

import ray
import ray.data
from pyarrow import fs

from service import logs
from service.bulk import add_query_arguments, checked_query, for_many, options_of, suffix_of
from service.bulk_inputs import PICTURES, UsageError
from service.devices import onnx_source
from service.errors import EnginesLost, Problem, StartupError
from service.metrics import Metrics
from service.models import Models, until_ready
from service.outputs import Options, Output
from service.settings import Settings

IN_FLIGHT = 2
"""Calls of a replica at the same time, so that it reads and decodes one batch while it runs and writes another."""


def _absolute(place: str) -> str:
    """A path as it is from any working directory, or a URI."""
    return place if "://" in place else str(Path(place).absolute())


class Folder:
    """A folder of this machine (or one that all machines share), or what a bucket has under a prefix.

    Raises:
        StartupError: there is no such kind of place.
    """

    def __init__(self, place: str) -> None:
        try:
            self._files, path = fs.FileSystem.from_uri(_absolute(place))
        except (ValueError, OSError) as error:
            raise StartupError(f"cannot use {place}: {error}") from None
        self._path = PurePosixPath(path)
        self._is_local = self._files.type_name == "local"

    def holds(self, other: Folder) -> bool:
        """Whether `other` is this one, or lies inside it."""
        return self._files.equals(other._files) and other._path.is_relative_to(self._path)

    def names(self) -> Iterable[str]:
        """The paths of its files, from it on, that are not hidden. Of a folder that does not exist, none."""
        for path in self._local_files() if self._is_local else self._bucket_files():
            name = PurePosixPath(path).relative_to(self._path)
            if not any(part.startswith(".") for part in name.parts):
                yield str(name)

    def _local_files(self) -> Iterator[str]:
        """Not in linked folders, as `segdepth predict` has it: a link may lead upwards."""
        for folder, _, names in os.walk(self._path):
            yield from (path for name in names if os.path.isfile(path := os.path.join(folder, name)))

    def _bucket_files(self) -> Iterator[str]:
        selector = fs.FileSelector(str(self._path), recursive=True, allow_not_found=True)
        for info in self._files.get_file_info(selector):
            if info.type == fs.FileType.File:
                yield info.path

    def read(self, name: str, max_bytes: int) -> bytes:
        """A whole file. Raises OSError, also where it has more than `max_bytes`."""
        with self._files.open_input_stream(str(self._path / name)) as stream:
            data = bytes(stream.read(max_bytes + 1))
        if len(data) > max_bytes:
            raise OSError(f"it has more than {max_bytes} bytes (SEGDEPTH_MAX_BYTES)")
        return data

    def write(self, name: str, data: bytes) -> None:
        """The file is there as a whole or not at all, whenever the process is killed. Raises OSError."""
        path = self._path / name
        # An object of a bucket is only there when it is complete. Elsewhere it is by renaming.
        written = path.with_name(f".{path.name}.part") if self._is_local else path
        if self._is_local:
            self._files.create_dir(str(path.parent))
        with self._files.open_output_stream(str(written)) as stream:
            stream.write(data)
        if self._is_local:
            self._files.move(str(written), str(path))


def answer_name(picture: str, output: Output) -> str:
    """Such as `kitchen/1.mask.png` for `kitchen/1.jpg`."""
    return str(PurePosixPath(picture).with_suffix("")) + suffix_of(output)


class Predict:
    """One replica: the service's pipeline in an actor of Ray Data, which is given batches of names.

    Raises:
        RuntimeError: the model or a device is not to be had on this machine. (Ray would take a StartupError, which is a
            SystemExit, for an orderly end.)
    """

    def __init__(self, settings: Settings, source: str, target: str, output: Output, options: Options) -> None:
        logs.configure(settings.log_format, settings.log_level)
        self._source, self._target = Folder(source), Folder(target)
        self._output, self._options = output, options
        self._max_bytes = settings.max_bytes
        failures: list[StartupError] = []
        try:
            self._models = Models(settings, partial(onnx_source, settings), Metrics(), failures.append)
        except StartupError as error:
            raise RuntimeError(error.reason) from None
        self._models.start()
        # Calls come in threads; the pipeline belongs to one event loop.
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        asyncio.run_coroutine_threadsafe(self._ready(failures), self._loop).result()

    async def _ready(self, failures: Sequence[StartupError]) -> None:
        try:
            await until_ready(self._models.current.batcher, failures)
        except StartupError as error:
            raise RuntimeError(error.reason) from None

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Answer the pictures `name`; gives them back with the `problem` of each, which is empty for most.

        Raises:
            EnginesLost: Ray ends the job then.
            OSError: an answer cannot be written.
        """
        names = [str(name) for name in batch["name"]]
        work = self._answer_all(names)
        return {"name": names, "problem": asyncio.run_coroutine_threadsafe(work, self._loop).result()}

    async def _answer_all(self, names: Sequence[str]) -> list[str]:
        return await asyncio.gather(*(self._answer(name) for name in names))

    async def _answer(self, name: str) -> str:
        try:
            upload = await asyncio.to_thread(self._source.read, name, self._max_bytes)
        except OSError as error:
            return str(error)
        try:
            answer = await self._models.current.predict(upload, self._output, self._options)
        except EnginesLost:
            raise
        except Problem as problem:
            return str(problem)
        try:
            await asyncio.to_thread(self._target.write, answer_name(name, self._output), answer.body)
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise  # It would be so with all the others.
            return str(error)
        return ""


def missing(source: Folder, target: Folder, output: Output) -> list[str]:
    """The pictures that have no answer yet, in order.

    Raises:
        StartupError: there are no pictures, two would have answers of the same name, or answers would be pictures.
    """
    if source.holds(target):
        raise StartupError("the answers would be among the pictures; choose another target")
    pictures = sorted(name for name in source.names() if PurePosixPath(name).suffix.lower() in PICTURES)
    if not pictures:
        raise StartupError("there are no pictures")
    answers: dict[str, str] = {}
    for picture in pictures:
        twin = answers.setdefault(answer_name(picture, output), picture)
        if twin is not picture:
            raise StartupError(f"{twin} and {picture} would both be answered in {answer_name(picture, output)}")
    there = set(target.names())
    return [picture for answer, picture in answers.items() if answer not in there]


def run(
    source: str, target: str, output: Output, options: Options, settings: Settings, replicas: int
) -> dict[str, str]:
    """Answer what has no answer yet, on the Ray that this process is connected to; the problem of each that has one.

    Raises:
        StartupError: nothing was started, and why.
    """
    # Actors have other working directories.
    source, target = _absolute(source), _absolute(target)
    todo = missing(Folder(source), Folder(target), output)
    if not todo:
        return {}
    cores = settings.threads or 1
    batch = 2 * settings.max_batch
    # What is under way is bounded by the batches; a picture must not be refused besides.
    settings = for_many(settings).model_copy(
        update={
            "model": settings.model.absolute(),
            **{"threads": cores, "pixel_workers": 0, "queue_size": IN_FLIGHT * batch, "queue_bytes": sys.maxsize},
        }
    )
    answered = ray.data.from_items([{"name": name} for name in todo], override_num_blocks=-(-len(todo) // batch))
    answered = answered.map_batches(
        Predict,
        fn_constructor_args=(settings, source, target, output, options),
        batch_size=batch,
        compute=ray.data.ActorPoolStrategy(size=replicas),
        num_cpus=cores,
        num_gpus=len(settings.gpus),
        max_concurrency=IN_FLIGHT,
    )
    problems = {}
    for done, row in enumerate(answered.iter_rows(), 1):
        if row["problem"]:
            problems[row["name"]] = row["problem"]
        if done % 1000 == 0:
            print(f"{done} of {len(todo)}", file=sys.stderr, flush=True)
    return problems


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="The service's answers to many pictures, on a Ray cluster.")
    add = parser.add_argument
    add("source", help="folder or URI of the pictures; subfolders are kept")
    add("target", help="folder or URI for the answers")
    add("--output", choices=get_args(Output), default="json", help="what to answer with (json)")
    add("--model", type=Path, help="ONNX file to run, on every machine (the bundled one)")
    add("--device", help="of each replica: cpu, cuda, openvino (cpu)")
    add("--replicas", type=int, default=1, help="processes with a network each (1)")
    add_query_arguments(parser)
    arguments = parser.parse_args(argv)
    if arguments.replicas < 1:
        parser.error("--replicas must be at least 1")
    try:
        options = options_of(checked_query(arguments), arguments.output)
    except UsageError as error:
        parser.error(str(error))
    given = {name: value for name in ("model", "device") if (value := getattr(arguments, name)) is not None}
    settings = Settings.load(**given)
    try:
        # The cluster of RAY_ADDRESS or of this machine; where there is none, one of this process.
        ray.init(ignore_reinit_error=True)
    except ConnectionError as error:
        raise StartupError(f"no Ray cluster: {error}") from None
    problems = run(arguments.source, arguments.target, arguments.output, options, settings, arguments.replicas)
    for name, reason in problems.items():
        print(f"{name}: {reason}", file=sys.stderr)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
