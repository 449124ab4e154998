"""Engines that share the cores of a CPU: who gets how many of them, the same answers, and what is left behind."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from service_process import wait_for

from service import app, engine_streams
from service.engine import Engine, OnnxEngine, Prediction
from service.engine_streams import BETWEEN_S, Streams
from service.errors import StartupError
from service.settings import BUNDLED_MODEL, Settings

PICTURE = np.zeros((1, 48, 64, 3), np.uint8)


class Recorded(OnnxEngine):
    """Notes with how many threads it runs; `gate` holds it while it does."""

    made: list[Recorded]
    runs: list[int]
    gate: threading.Event

    def __init__(self, path: Path, *, threads: int, max_batch: int) -> None:
        super().__init__(path, threads=threads, max_batch=max_batch)
        self.threads = threads
        self.made.append(self)

    def infer(self, batch: np.ndarray) -> Prediction:
        self.runs.append(self.threads)
        assert self.gate.wait(20)
        return super().infer(batch)


class Clock:
    now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(engine_streams, "time", clock)
    return clock


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Recorded]]:
    Recorded.made, Recorded.runs, Recorded.gate = [], [], threading.Event()
    Recorded.gate.set()
    monkeypatch.setattr(engine_streams, "OnnxEngine", Recorded)
    yield Recorded
    Recorded.made, Recorded.runs = [], []


def load(path: Path, number: int = 2, threads: int = 1, max_batch: int = 1) -> list[Engine]:
    streams = Streams(path, number, threads=threads, all_threads=number * threads, max_batch=max_batch)
    return [streams.load() for _ in range(number)]


def start(engine: Engine) -> threading.Thread:
    thread = threading.Thread(target=engine.infer, args=(PICTURE,), daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("number", "threads", "sessions"),
    [
        (1, 1, [1]),
        (1, 2, [2]),
        (2, 1, [2, 1]),  # The one without threads of its own is shared.
        (8, 1, [8, 1]),
        (4, 3, [12, 3, 3, 3, 3]),
    ],
)
def test_cores_are_shared_out(
    recorded: type[Recorded], tiny_model: Path, number: int, threads: int, sessions: list[int]
) -> None:
    load(tiny_model, number, threads)
    assert [made.threads for made in recorded.made] == sessions


def test_alone_with_all_threads_and_together_with_few(recorded: type[Recorded], tiny_model: Path, clock: Clock) -> None:
    first, second = load(tiny_model)
    for _ in range(2):
        clock.now += 2 * BETWEEN_S
        first.infer(PICTURE)
    assert recorded.runs == [2, 2]
    # Alone, and one beside it.
    clock.now += 2 * BETWEEN_S
    recorded.gate.clear()
    running = [start(first)]
    wait_for(lambda: len(recorded.runs) == 3)
    running.append(start(second))
    wait_for(lambda: len(recorded.runs) == 4)
    recorded.gate.set()
    for thread in running:
        thread.join(20)
    # A busy stream goes on soon; nothing else may run at that moment, but will.
    clock.now += BETWEEN_S / 2
    second.infer(PICTURE)
    assert recorded.runs == [2, 2, 2, 1, 1]
    clock.now += 2 * BETWEEN_S
    second.infer(PICTURE)
    assert recorded.runs[5:] == [2]


def test_a_failure_leaves_no_trace(
    recorded: type[Recorded], tiny_model: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = load(tiny_model)
    with monkeypatch.context() as patch:

        def fail(self: Recorded, batch: np.ndarray) -> Prediction:
            raise RuntimeError("no memory")

        patch.setattr(Recorded, "infer", fail)
        with pytest.raises(RuntimeError, match="no memory"):
            first.infer(PICTURE)
    clock.now += 2 * BETWEEN_S
    second.infer(PICTURE)
    assert recorded.runs == [2]


def test_warm_up_runs_every_size_on_all_threads_and_on_few(recorded: type[Recorded], tiny_model: Path) -> None:
    first, second = load(tiny_model, max_batch=4)
    steps: list[tuple[int, int]] = []
    first.warm_up(lambda done, total: steps.append((done, total)))
    assert steps == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert recorded.runs[:4] == [2, 2, 1, 1]
    # Batches are for busy streams, so they are tried as those run.
    assert set(recorded.runs[4:]) == {1}
    assert first.max_batch in (1, 2, 4)
    second.warm_up(lambda done, total: None)


def test_answers_do_not_depend_on_the_threads() -> None:
    """A picture has the same maps alone, beside others and by a single session."""
    alone, other = load(BUNDLED_MODEL)
    single = OnnxEngine(BUNDLED_MODEL, threads=1)
    height, width = single.card.input.sizes[0]
    picture = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), np.uint8)
    expected = single.infer(picture)
    time.sleep(2 * BETWEEN_S)
    thread = threading.Thread(target=other.infer, args=(picture,))
    answers = [alone.infer(picture)]
    thread.start()
    answers.append(alone.infer(picture))
    thread.join(20)
    for answer in answers:
        for got, wanted in zip(answer, expected, strict=True):
            np.testing.assert_array_equal(got, wanted)
    for engine in (alone, other, single):
        engine.close()


def test_the_last_stream_takes_the_sessions_with_it(recorded: type[Recorded], tiny_model: Path) -> None:
    streams = Streams(tiny_model, 2, threads=1, all_threads=2, max_batch=1)
    first, second = streams.load(), streams.load()
    sessions = [weakref.ref(made) for made in recorded.made]
    recorded.made.clear()
    first.close()
    gc.collect()
    assert all(session() for session in sessions)
    second.infer(PICTURE)
    second.close()
    gc.collect()
    assert not any(session() for session in sessions)


def test_a_bad_file_is_refused_every_time(tmp_path: Path) -> None:
    streams = Streams(tmp_path / "none.onnx", 2, threads=1, all_threads=2, max_batch=1)
    for _ in range(2):
        with pytest.raises(StartupError, match="there is no model file"):
            streams.load()


@pytest.mark.parametrize(
    ("cores", "threads", "made"),
    # Of three cores, one that is alone has all.
    [(64, 1, [2, 1]), (3, 0, [3, 1]), (4, 0, [4, 2, 2]), (1, 0, [2, 1])],
)
def test_a_cpu_that_is_named_twice_is_shared(
    recorded: type[Recorded],
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
    threads: int,
    made: list[int],
) -> None:
    monkeypatch.setattr(app, "usable_cores", lambda: cores)
    _, loaders = app.onnx_source(Settings(model=tiny_model, device="cpu,cpu", threads=threads))
    for loader in loaders:
        loader()
    assert [one.threads for one in recorded.made] == made
