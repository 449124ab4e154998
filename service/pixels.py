"""Pixel work: decoding pictures and making answers. In threads of this process, or in processes of their own.

Python runs one thread at a time, and most of this work is Python and small NumPy calls: one process answers about a
hundred pictures a second, however many cores there are. Processes (`pixel_workers`) have no such limit. What a thread
of the pool does is then to hand a job to the process that it has taken, and to wait for the answer: so jobs wait, are
cancelled and have the same order in both ways, and a process that dies takes only the picture with it that it had.

Jobs are plain functions of a module, called with what is the same for every picture (`Fixed`) and their own arguments.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from io import BufferedRWPair
from queue import SimpleQueue
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from service import cameras, images
from service.answers import Trace
from service.arrays import UInt8
from service.batcher import Result
from service.cameras import Camera, Given
from service.card import ModelCard
from service.cores import usable_cores
from service.engine import Prediction
from service.errors import InvalidRequest, Problem, StartupError, WorkerLost
from service.images import Letterbox
from service.maps import Maps
from service.metrics import Metrics
from service.outputs import Options, Output, Rendered
from service.render import render
from service.settings import Settings
from service.threads import in_thread

log = logging.getLogger("segdepth")

P = ParamSpec("P")
T = TypeVar("T")

MAX_WORKERS = 16
"""Where nothing else is chosen. More do not get enough to do from one event loop."""
COMMAND = [sys.executable, "-P", "-c", "from service import oip, pixels; pixels.work()"]
"""Starts a worker. `oip` has jobs too, and the first of them need not wait for its import."""
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(64 << 20)}
"""Of glibc, in a worker: 64 MiB and no block over 32 stay with it. Else the maps of a picture come as new pages from
the kernel, hundreds of them, until glibc has met larger blocks; that took up to a fifth of the time."""
KEPT_OUT = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
"""Signals that are often sent to all processes of a service. The server then still answers what it has accepted."""


# --- the jobs -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fixed:
    """What is the same for every picture of a pipeline."""

    card: ModelCard
    max_pixels: int


class Seen(NamedTuple):
    """What is kept of a decoded picture besides its canvas."""

    box: Letterbox
    camera: Camera
    decode_s: float


def decode(fixed: Fixed, picture: bytes | UInt8, given: Given) -> tuple[UInt8, Seen]:
    """decode -> fit: a picture file, or pixels, uint8 [H, W, 3], as a canvas, uint8 [h, w, 3].

    Only the canvas is kept: many large pictures may be waiting.

    Raises:
        UnsupportedImage, BrokenImage, TooManyPixels: of a file.
        InvalidRequest: the camera is impossible for this picture.
    """
    if isinstance(picture, bytes) and not picture:
        raise InvalidRequest("The picture is empty.")
    start = time.perf_counter()
    sizes, grey = fixed.card.input.sizes, fixed.card.input.grey
    if isinstance(picture, bytes):
        canvas, box = images.decode_to_canvas(picture, fixed.max_pixels, sizes, given.stretch, grey)
    else:
        canvas, box = images.fit(picture, sizes, given.stretch, grey)
    # Pixels have no EXIF: without `given`, their camera is assumed.
    camera = cameras.camera_of(picture if isinstance(picture, bytes) else b"", box.size, given)
    return canvas, Seen(box, camera, time.perf_counter() - start)


def maps_of(fixed: Fixed, seen: Seen, prediction: Prediction, upload: bytes = b"") -> Maps:
    """The maps of a picture. `upload` may be empty where its own pixels are not asked for."""
    depth = cameras.metric_depth(prediction.depth, seen.camera, seen.box, fixed.card.depth.focal_px)
    return Maps(
        read_picture=lambda: images.decode(upload, fixed.max_pixels),
        box=seen.box,
        camera=seen.camera,
        canvas=prediction._replace(depth=depth),
        card=fixed.card,
    )


def draw(
    fixed: Fixed,
    upload: bytes,
    output: Output,
    options: Options,
    seen: Seen,
    result: Result,
    start: float,
    provider: str,
) -> tuple[Rendered, float]:
    """unfit -> render: the answer, and the seconds that it took.

    `upload` may be empty where `options.shows_picture` says that the answer does without it. `start` is of
    `time.perf_counter`, which is system-wide: the same clock in every process.
    """
    encode_start = time.perf_counter()
    maps = maps_of(fixed, seen, result.prediction, upload)
    trace = Trace(start, seen.decode_s, result.queue_s, result.infer_s, encode_start, provider)
    answer = render(maps, output, options, trace)
    return answer, time.perf_counter() - encode_start


# --- the pool -------------------------------------------------------------------------------------------------


def workers_of(settings: Settings) -> int:
    """How many processes there are to be; 0: threads of this one.

    By default none on a CPU, where the network has the cores. Beside a GPU all cores but one, which the event loop and
    the engine's thread share.
    """
    if settings.pixel_workers is not None:
        return settings.pixel_workers
    return min(MAX_WORKERS, max(1, usable_cores() - 1)) if settings.gpus else 0


class Pixels:
    """The pool of a pipeline. `run` belongs to the event loop."""

    def __init__(self, fixed: Fixed, workers: int, metrics: Metrics) -> None:
        self._fixed = fixed
        self._workers = workers
        self._metrics = metrics
        self._threads = ThreadPoolExecutor(
            workers or usable_cores(),
            thread_name_prefix="segdepth-pixels",
            initializer=None if workers else _wait_for_a_core,
        )
        # There is one for each thread, so that no thread ever waits for one.
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        self._starting: list[Future[None]] = []

    def start(self) -> None:
        """Start the processes, if there are any; does not wait for them."""
        self._starting = [self._threads.submit(self._add) for _ in range(self._workers)]

    def wait_ready(self) -> None:
        """Until every process can work.

        Raises:
            StartupError: one ended before.
        """
        for starting in self._starting:
            try:
                starting.result()
            except (EOFError, OSError) as error:
                raise StartupError(f"a process for pictures (SEGDEPTH_PIXEL_WORKERS) did not start: {error}") from None

    def close(self) -> None:
        """Finish what is under way, then end the processes."""
        self._threads.shutdown()
        while not self._idle.empty():
            self._idle.get().close()

    async def run(self, job: Callable[Concatenate[Fixed, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`job(fixed, *args)`, in a thread or a process. Cancelled before its turn, it is dropped.

        Raises:
            Problem: what the job raises; WorkerLost where the process ended in the middle of it.
        """
        where = self._in_worker if self._workers else self._here
        return await in_thread(partial(where, job, args, kwargs), self._threads)

    def _here(self, job: Callable[..., T], args: Any, kwargs: Any) -> T:
        return job(self._fixed, *args, **kwargs)

    def _in_worker(self, job: Callable[..., T], args: Any, kwargs: Any) -> T:
        worker = self._idle.get()
        try:
            if not worker.alive and not self._replace(worker):  # It was killed while it had nothing to do.
                raise WorkerLost("No process could be started for the picture. The server's log says why.")
            try:
                done, value = worker.ask((job, args, kwargs))
            except (EOFError, OSError):
                self._replace(worker)  # Now, so that the next picture need not wait for it.
                raise WorkerLost("The process that worked on the picture ended. The server's log says how.") from None
        finally:
            self._idle.put(worker)
        if not done:
            raise value
        result: T = value
        return result

    def _add(self) -> None:
        worker = _Worker(self._fixed)
        worker.start()
        self._idle.put(worker)

    def _replace(self, worker: _Worker) -> bool:
        """Start a process in place of one that ended. If it fails, the next picture tries again."""
        ended = worker.close()
        if not worker.mourned:
            worker.mourned = True
            self._metrics.workers_lost.inc()
            log.error("pixel process %d ended with %d; a new one takes its place", worker.pid, ended)
        try:
            worker.start()
        except (EOFError, OSError) as error:
            log.error("no new pixel process could be started: %s", error)
            return False
        return True


def _wait_for_a_core() -> None:
    """Of this thread, on Linux: with something to do it no longer takes a core from a network in the middle of a layer,
    but waits for the end of its time slice. Both would find their data gone from the core's cache, which took a
    sixteenth of all that a picture takes besides the network."""
    if sys.platform == "linux":
        with suppress(OSError):  # A sandbox may forbid it.
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


class _Worker:
    """One process at the other end of a socket, which does one job after the other. For one thread at a time.

    `multiprocessing` is not used: it would import the server's main module in each worker, whatever that is; and its
    pool is lost as a whole with one process, and waits for ever for one that ignores SIGTERM.
    """

    _process: subprocess.Popen[bytes]

    def __init__(self, fixed: Fixed) -> None:
        self._fixed = fixed
        self.mourned = False
        """Its end has been counted, and no other process has been started since."""

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def start(self) -> None:
        """Until it can work.

        Raises:
            OSError, EOFError: it could not be started, or ended at once.
        """
        # One job at a time: threads of NumPy's own would only count against limits.
        own = {"PYTHONPATH": os.pathsep.join(sys.path), "OPENBLAS_NUM_THREADS": "1"}
        ours, theirs = socket.socketpair()
        with ours, theirs:
            # It inherits the mask, and so never sees these signals, not even while it starts.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, KEPT_OUT)
            try:
                self._process = subprocess.Popen(COMMAND, stdin=theirs.fileno(), env=KEEP_MEMORY | os.environ | own)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            self.mourned = False
            self._stream = ours.makefile("rwb")
        self.ask(self._fixed)

    def ask(self, message: object) -> Any:
        """Send it, and wait for the answer.

        Raises:
            OSError, EOFError: the process has ended.
        """
        data = _pickled(message)  # What cannot be sent breaks nothing.
        try:
            _send(self._stream, data)
            return _receive(self._stream)
        except BaseException:  # Whatever it is, the next answer would be taken for another job's.
            self.close()
            raise

    def close(self) -> int:
        """End the process, which has nothing to lose; how it ended, as `Popen.returncode`."""
        with suppress(OSError):  # What it could not be sent.
            self._stream.close()
        self._process.kill()
        return self._process.wait()


def _pickled(message: object) -> bytes:
    return pickle.dumps(message, pickle.HIGHEST_PROTOCOL)


def _send(stream: BufferedRWPair, data: bytes) -> None:
    stream.write(len(data).to_bytes(8, "little"))
    stream.write(data)
    stream.flush()


def _receive(stream: BufferedRWPair) -> Any:
    """The next message. Raises EOFError where the other end is closed."""
    size = int.from_bytes(stream.read(8), "little")
    data = stream.read(size)
    if not data or len(data) < size:
        raise EOFError("the other process has ended")
    return pickle.loads(data)


def work() -> None:
    """The whole life of a worker, whose standard input is the socket. It ends when the server is gone."""
    stream = socket.socket(fileno=0).makefile("rwb")
    with suppress(EOFError, ConnectionError):
        fixed = _receive(stream)
        _send(stream, _pickled(None))
        while True:
            _send(stream, _pickled(_outcome(fixed, *_receive(stream))))
    os._exit(0)  # Nothing is to be flushed to a server that is gone.


def _outcome(fixed: Fixed, job: Callable[..., object], args: Any, kwargs: Any) -> tuple[bool, object]:
    """Whether it is done, and what it gave or raised."""
    try:
        return True, job(fixed, *args, **kwargs)
    except Problem as problem:
        return False, problem
    except Exception:  # Not every exception can travel; the server logs this one.
        return False, RuntimeError(traceback.format_exc())
