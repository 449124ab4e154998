"""`segdepth predict`: the service's answers to any number of pictures, as files.

Pictures go through the same pipeline as those of requests, so that the files are what the server would have sent, byte
by byte; or, with `--url`, they go to a server. Reading, decoding, the network, encoding and writing overlap, and as
many pictures are under way as keep the network busy, however many there are.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TextIO, TypeVar, get_args

from pydantic import ValidationError

from service import client_errors, errors, logs
from service.bulk_inputs import NO_DECODER, Failure, Inputs, Job, Times, UsageError
from service.client import AsyncClient
from service.cores import usable_cores
from service.devices import onnx_source
from service.errors import EnginesLost, StartupError
from service.metrics import Metrics
from service.models import Models, until_ready
from service.outputs import Options, Output
from service.routes import Parameters
from service.settings import Settings

T = TypeVar("T")
Answer = Callable[[bytes], Awaitable[bytes]]
"""A picture file's answer. Raises Problem of the server or of the client."""

SUFFIXES: dict[str, str] = {
    **{name: f".{name}" for name in ("json", "npz", "ply", "glb", "zip", "multipart")},
    "coco": ".coco.json",
}
"""Of the answers' names; the others are PNGs, such as `.mask.png`. They differ, so that one folder can hold several."""
IN_FLIGHT_BY_URL = 16
RETRIES = 1000
"""A server that is restarted for longer than usual ends no work of hours; the time of each picture is bounded."""
LISTED = 1000
"""The most failures whose names are kept for the end."""
READERS = 4
REDRAW_S, LINE_S = 0.25, 10.0
"""Between two states of the progress, on a terminal and in a log."""


class _FatalError(Exception):
    """What ends the work: every further picture would fail as well."""


# --- the command ------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of `segdepth predict`. The options of answers are the query parameters of the server."""
    add = parser.add_argument
    add("paths", nargs="+", metavar="PATH", help="a picture, a folder of them, a glob in quotes, or a video")
    add("--out", type=Path, required=True, metavar="DIR", help="folder for the answers; subfolders are kept")
    add("--output", choices=get_args(Output), default="json", help="what to answer with (json)")
    add("--overwrite", action="store_true", help="also where there is an answer already")
    add("--every", type=int, default=1, metavar="N", help="of videos, every Nth frame (1)")
    add("--model", type=Path, help="ONNX file to run (the bundled one)")
    add("--device", help="cpu, cuda, tensorrt, openvino, or several with commas between (cpu)")
    add("--url", help="send the pictures to this server instead")
    add("--api-key-file", type=Path, metavar="FILE", help="with --url: a file that has the API key")
    add(
        "--timeout", type=float, metavar="SECONDS", help="with --url: for each picture, further attempts included (120)"
    )
    add_query_arguments(parser)


def add_query_arguments(parser: argparse.ArgumentParser) -> None:
    """The query parameters of the server, for `checked_query`."""
    for name, field in Parameters.model_fields.items():
        arguments = ("true", "false") if field.annotation is bool else get_args(field.annotation)
        words = [word for word in arguments if isinstance(word, str)]
        described = str(field.description).replace("%", "%%")
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            metavar=f"{{{','.join(words)}}}" if words else "NUMBER",
            help=described if field.default is None else f"{described.rstrip('.')} ({str(field.default).lower()})",
        )


def main(arguments: argparse.Namespace) -> int:
    """Run the command; the exit code.

    Raises:
        UsageError: nothing was started, and why.
        StartupError: a setting is not right, or the model or a device is not to be had.
    """
    query = checked_query(arguments)
    options = options_of(query, arguments.output)
    if arguments.every < 1:
        raise UsageError("--every must be at least 1")
    remote = arguments.url is not None
    if remote and (arguments.model is not None or arguments.device is not None):
        raise UsageError("--model and --device are of no use with --url")
    if not remote and (arguments.api_key_file is not None or arguments.timeout is not None):
        raise UsageError("--api-key-file and --timeout are of no use without --url")
    if arguments.timeout is not None and not arguments.timeout > 0:
        raise UsageError("--timeout must be more than 0")

    settings = None if remote else _settings(arguments)
    suffix = suffix_of(arguments.output)
    max_bytes = (settings or Settings.load()).max_bytes
    inputs = Inputs(arguments.paths, arguments.out, suffix, arguments.every, max_bytes)
    total = inputs.check()
    if inputs.videos_left_out:
        print(f"segdepth: {inputs.videos_left_out} videos are left out; {NO_DECODER}", file=sys.stderr)

    if settings is None:
        in_flight = IN_FLIGHT_BY_URL
        answering = _by_server(arguments, query.model_dump(exclude_unset=True))
    else:
        # Full batches in the networks and behind them, and as many pictures as can be decoded and encoded meanwhile.
        in_flight = 2 * settings.max_batch * len(settings.devices) + 2 * usable_cores()
        # What is under way is bounded here; a picture must not be refused besides.
        settings = settings.model_copy(update={"pixel_workers": 0, "queue_size": in_flight, "queue_bytes": sys.maxsize})
        answering = _by_pipeline(settings, arguments.output, options)
    run = _Run(inputs, arguments.overwrite, in_flight, Progress(total, sys.stderr))
    return asyncio.run(run.run(answering))


def checked_query(arguments: argparse.Namespace) -> Parameters:
    """What was given of the query parameters, by the server's own rules.

    Raises:
        UsageError: one is not right.
    """
    texts = {name: text for name in Parameters.model_fields if (text := getattr(arguments, name, None)) is not None}
    try:
        return Parameters(**texts)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"--{str(first['loc'][0]).replace('_', '-')}: {first['msg']}") from None


def options_of(query: Parameters, output: Output) -> Options:
    """What they say about answers of that kind.

    Raises:
        UsageError: they do not go together.
    """
    try:
        options = query.options()
        options.check(output, query.model_fields_set)
        return options
    except errors.InvalidRequest as problem:
        raise UsageError(problem.detail) from None


def _settings(arguments: argparse.Namespace) -> Settings:
    given = {name: value for name in ("model", "device") if (value := getattr(arguments, name)) is not None}
    settings = Settings.load(**given)
    logs.configure(settings.log_format, settings.log_level)
    return for_many(settings)


def for_many(settings: Settings) -> Settings:
    """The settings for pictures that wait in any number: on a CPU, each engine has one at a time where nothing else was
    chosen.

    A batch, which saves nothing there where every core has an engine, rounds sums differently: so the answer to a
    picture does not depend on its neighbours, and is what a server gives that has nothing else to do.
    """
    if set(settings.devices) != {"cpu"} or "max_batch" in settings.model_fields_set:
        return settings
    return settings.model_copy(update={"max_batch": 1})


def suffix_of(output: Output) -> str:
    """What the names of these answers end in."""
    return SUFFIXES.get(output, f".{output}.png")


# --- who answers ------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _by_pipeline(settings: Settings, output: Output, options: Options) -> AsyncIterator[Answer]:
    """The service's own pipeline, in this process."""
    failures: list[StartupError] = []
    models = Models(settings, partial(onnx_source, settings), Metrics(), failures.append)
    models.start()
    try:
        await until_ready(models.current.batcher, failures)

        async def answer(upload: bytes) -> bytes:
            return (await models.current.predict(upload, output, options)).body

        yield answer
    finally:
        await models.close()


@asynccontextmanager
async def _by_server(arguments: argparse.Namespace, query: Mapping[str, Any]) -> AsyncIterator[Answer]:
    """A server, through the client."""
    key = None
    if arguments.api_key_file is not None:
        try:
            key = arguments.api_key_file.read_text(encoding="ascii").strip()
        except OSError as error:
            raise UsageError(f"cannot read {arguments.api_key_file}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise UsageError(f"there is no API key in {arguments.api_key_file}: it is not ASCII") from None
    timeout_s = 120.0 if arguments.timeout is None else arguments.timeout
    try:
        asking = AsyncClient(arguments.url, api_key=key, timeout_s=timeout_s, retries=RETRIES)
    except ValueError as error:
        raise UsageError(f"--url: {error}") from None
    async with asking as client:

        async def answer(upload: bytes) -> bytes:
            return await client.download(upload, arguments.output, **query)

        yield answer


# --- the work ---------------------------------------------------------------------------------------------------


class _Run:
    """One call of the command."""

    def __init__(self, inputs: Inputs, overwrite: bool, in_flight: int, progress: Progress) -> None:
        self._inputs = inputs
        self._overwrite = overwrite
        self._places = asyncio.Semaphore(in_flight)
        self._progress = progress
        # Besides the pixels' threads: reading and writing mostly wait, and videos are decoded one frame after another.
        self._files = ThreadPoolExecutor(READERS, thread_name_prefix="segdepth-files")
        self._signal = 0

    async def run(self, answering: AbstractAsyncContextManager[Answer]) -> int:
        """Answer everything; the exit code: 0, 1 with failures, 128 + the signal that ended it."""
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop, number, task)
        reason = ""
        try:
            async with answering as answer:
                reporting = asyncio.create_task(self._progress.keep_showing())
                try:
                    async with asyncio.TaskGroup() as tasks:
                        await self._start_all(tasks, answer)
                finally:
                    reporting.cancel()
        except* _FatalError as group:
            reason = str(group.exceptions[0])
        except* asyncio.CancelledError:
            if not self._signal:
                raise
        finally:
            self._files.shutdown(cancel_futures=True)
        self._progress.end(reason, stopped=bool(self._signal))
        if self._signal:
            return 128 + self._signal
        return 1 if reason or self._progress.failed else 0

    def _stop(self, number: int, task: asyncio.Task[Any]) -> None:
        """The first signal; a second one ends the process as if there were no handler."""
        self._signal = number
        loop = asyncio.get_running_loop()
        for each in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(each)
        task.cancel()

    async def _start_all(self, tasks: asyncio.TaskGroup, answer: Answer) -> None:
        jobs = self._missing()
        while True:
            await self._places.acquire()
            job = await self._in_thread(lambda: next(jobs, None))
            if job is None:
                return
            task = tasks.create_task(self._one(job, answer))
            task.add_done_callback(lambda _: self._places.release())

    def _missing(self) -> Iterator[Job]:
        """Those without an answer."""
        try:
            for job in self._inputs:
                if self._signal:
                    return
                if isinstance(job, Failure):
                    self._progress.fail(job)
                elif isinstance(job, Times):
                    self._write_times(job)
                elif not self._overwrite and _is_there(job.target):
                    self._progress.skipped += 1
                else:
                    yield job
        except OSError as error:
            raise _FatalError(f"cannot read {error.filename}: {error.strerror}") from None
        except UsageError as error:  # Something was taken away meanwhile.
            raise _FatalError(str(error)) from None

    def _write_times(self, times: Times) -> None:
        try:
            write_atomically(times.target, times.content)
        except OSError as error:
            raise _FatalError(f"cannot write {times.target}: {error.strerror}") from None

    async def _one(self, job: Job, answer: Answer) -> None:
        try:
            upload = await self._in_thread(job.read)
        except (OSError, ValueError) as error:  # A frame of a video may be of a kind that is not read.
            self._progress.fail(Failure(job.name, getattr(error, "strerror", None) or str(error)))
            return
        try:
            body = await answer(upload)
        except (
            EnginesLost,
            client_errors.NotReachable,
            client_errors.NotUnderstood,
            client_errors.Unauthorized,
            client_errors.Forbidden,
        ) as error:
            raise _FatalError(str(error)) from None
        except (errors.Problem, client_errors.ClientError) as error:
            self._progress.fail(Failure(job.name, str(error)))
            return
        try:
            await self._in_thread(lambda: write_atomically(job.target, body))
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:  # It alone cannot be written.
                self._progress.fail(Failure(job.name, f"cannot write {job.target}: {error.strerror}"))
                return
            raise _FatalError(f"cannot write {job.target}: {error.strerror}") from None
        self._progress.done += 1

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._files, work)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise


def write_atomically(path: Path, data: bytes) -> None:
    """The file is there as a whole or not at all, whenever the process is killed. Makes its folder.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Always of the same name, so that what a kill has left over is used again. Hidden, so that no folder has it as a
    # picture.
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    except OSError:
        with suppress(OSError):
            part.unlink()
        raise


class Progress:
    """What is done: on a terminal a line that changes, elsewhere a line now and then."""

    def __init__(self, total: int | None, stream: TextIO) -> None:
        self.total = total
        self.done = 0
        self.skipped = 0
        self.failed = 0
        self._failures: list[Failure] = []
        self._stream = stream
        self._terminal = stream.isatty()
        self._since = time.perf_counter()

    def fail(self, failure: Failure) -> None:
        self.failed += 1
        if len(self._failures) < LISTED:
            self._failures.append(failure)

    async def keep_showing(self) -> None:
        """Until it is cancelled."""
        self._since = time.perf_counter()
        while True:
            await asyncio.sleep(REDRAW_S if self._terminal else LINE_S)
            self._show()

    def _show(self) -> None:
        if self._terminal:
            columns = shutil.get_terminal_size().columns
            print(f"\r\x1b[K{self.line()[: columns - 1]}", end="", file=self._stream, flush=True)
        else:
            print(self.line(), file=self._stream, flush=True)

    def line(self) -> str:
        """Such as `120 of 1000, 34.5/s, 0:25 left, 2 failed`."""
        seconds = max(1e-9, time.perf_counter() - self._since)
        worked = self.done + self.failed
        rate = worked / seconds
        parts = [f"{worked + self.skipped} of {'?' if self.total is None else self.total}", f"{rate:.1f}/s"]
        if self.total is not None and rate:
            left = max(0, self.total - worked - self.skipped) / rate
            minutes, rest = divmod(round(left), 60)
            hours, minutes = divmod(minutes, 60)
            parts.append(f"{hours}:{minutes:02}:{rest:02} left" if hours else f"{minutes}:{rest:02} left")
        if self.skipped:
            parts.append(f"{self.skipped} were there")
        if self.failed:
            parts.append(f"{self.failed} failed")
        return ", ".join(parts)

    def end(self, reason: str, stopped: bool) -> None:
        """The last lines: what was done, what failed and why; and what ended it early."""
        seconds = time.perf_counter() - self._since
        if self._terminal:
            print("\r\x1b[K", end="", file=self._stream)
        lines = []
        if self.failed:
            lines.append(f"{self.failed} failed:")
            lines += [f"  {failure.name}: {failure.reason}" for failure in self._failures]
            if self.failed > len(self._failures):
                lines.append(f"  and {self.failed - len(self._failures)} more")
        rate = self.done / max(1e-9, seconds)
        there = f", {self.skipped} were there" if self.skipped else ""
        lines.append(f"{self.done} done in {seconds:.1f} s ({rate:.1f}/s){there}, {self.failed} failed")
        if reason:
            lines.append(f"segdepth: {reason}")
        if reason or stopped:
            goes_on = "; the same command goes on from here" if self.done else ""
            lines.append(f"stopped before the end{goes_on}")
        print("\n".join(lines), file=self._stream, flush=True)
