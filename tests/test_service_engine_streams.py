"""Engines that share the cores of a CPU: who gets how many of them, the same answers, and what is left behind."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from service_client import until
from service_process import wait_for

from service import devices, engine_streams
from service.batcher import Batcher
from service.engine import OnnxEngine, Prediction, SharingEngine
from service.engine_streams import Streams
from service.errors import StartupError
from service.metrics import Metrics
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


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Recorded]]:
    Recorded.made, Recorded.runs, Recorded.gate = [], [], threading.Event()
    Recorded.gate.set()
    monkeypatch.setattr(engine_streams, "OnnxEngine", Recorded)
    yield Recorded
    Recorded.made, Recorded.runs = [], []


def load(path: Path, number: int = 2, threads: int = 1, max_batch: int = 1) -> list[SharingEngine]:
    streams = Streams(path, number, threads=threads, all_threads=number * threads, max_batch=max_batch)
    return [streams.load() for _ in range(number)]


def start(engine: SharingEngine) -> threading.Thread:
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


def test_few_pictures_one_after_the_other_on_all_cores_and_many_side_by_side(
    recorded: type[Recorded], tiny_model: Path
) -> None:
    first, second, third = load(tiny_model, 3)
    for _ in range(2):
        assert first.share(1) == 1
        first.infer(PICTURE)
    assert recorded.runs == [3, 3]
    # While one has all cores, the others leave it to it what is too little for all of them,
    assert first.share(2) == 2
    recorded.gate.clear()
    running = [start(first)]
    wait_for(lambda: len(recorded.runs) == 3)
    assert [second.share(waiting) for waiting in (1, 2)] == [0, 0]
    # and take theirs of what is enough.
    assert [second.share(waiting) for waiting in (3, 4, 6, 7)] == [1, 2, 2, 3]
    running.append(start(second))
    wait_for(lambda: len(recorded.runs) == 4)
    recorded.gate.set()
    for thread in running:
        thread.join(20)
    assert recorded.runs == [3, 3, 3, 1]
    # Work for all, and nobody runs yet.
    assert first.share(3) == 1
    recorded.gate.clear()
    running = [start(first)]
    wait_for(lambda: len(recorded.runs) == 5)
    # Beside others, what comes is begun at once: there are cores for it.
    assert third.share(1) == 1 and third.share(2) == 1
    running.append(start(third))
    wait_for(lambda: len(recorded.runs) == 6)
    recorded.gate.set()
    for thread in running:
        thread.join(20)
    assert third.share(1) == 1
    third.infer(PICTURE)
    assert recorded.runs == [3, 3, 3, 1, 1, 1, 3]


def test_only_the_first_of_two_that_begin_together_gets_all_cores(recorded: type[Recorded], tiny_model: Path) -> None:
    first, second = load(tiny_model)
    assert first.share(1) == second.share(1) == 1
    recorded.gate.clear()
    running = []
    for number, engine in enumerate((first, second), 1):
        running.append(start(engine))
        wait_for(lambda number=number: len(recorded.runs) == number)
    recorded.gate.set()
    for thread in running:
        thread.join(20)
    assert recorded.runs == [2, 1]


def test_one_that_is_left_has_all_cores(recorded: type[Recorded], tiny_model: Path) -> None:
    first, second = load(tiny_model)
    first.close()
    for waiting in (1, 5):
        assert second.share(waiting) == waiting
        second.infer(PICTURE)
    assert recorded.runs == [2, 2]


def test_one_that_hangs_leaves_the_cores_to_the_others(recorded: type[Recorded], tiny_model: Path) -> None:
    first, second = load(tiny_model)
    assert first.share(1) == 1
    recorded.gate.clear()
    hanging = start(first)
    wait_for(lambda: len(recorded.runs) == 1)
    assert second.share(1) == 0
    first.abandon()
    assert [second.share(waiting) for waiting in (1, 5)] == [1, 5]
    recorded.gate.set()
    hanging.join(20)
    first.close()
    # What was given back already is not given back again.
    assert second.share(1) == 1
    recorded.gate.clear()
    running = start(second)
    wait_for(lambda: len(recorded.runs) == 2)
    assert second.share(1) == 0
    recorded.gate.set()
    running.join(20)
    assert recorded.runs == [2, 2]


def test_streams_of_two_files_are_refused(
    recorded: type[Recorded], tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Recorded.__init__

    def other(self: Recorded, path: Path, **options: int) -> None:
        made(self, path, **options)
        if len(self.made) == 3:  # The file was changed after two.
            self.card = self.card.model_copy(update={"version": "other"})

    monkeypatch.setattr(Recorded, "__init__", other)
    with pytest.raises(StartupError, match="changed while it was being loaded"):
        load(tiny_model, 2, threads=2)


def test_a_failure_leaves_no_trace(recorded: type[Recorded], tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = load(tiny_model)
    with monkeypatch.context() as patch:

        def fail(self: Recorded, batch: np.ndarray) -> Prediction:
            raise RuntimeError("no memory")

        patch.setattr(Recorded, "infer", fail)
        assert first.share(1) == 1
        with pytest.raises(RuntimeError, match="no memory"):
            first.infer(PICTURE)
    assert second.share(1) == 1
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
    """A picture has the same maps on all cores, side by side and by a single session."""
    alone, other = load(BUNDLED_MODEL)
    single = OnnxEngine(BUNDLED_MODEL, threads=1)
    height, width = single.card.input.sizes[0]
    picture = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), np.uint8)
    expected = single.infer(picture)
    assert alone.share(1) == 1
    answers = [alone.infer(picture)]
    assert alone.share(2) == other.share(1) == 1
    answers += [alone.infer(picture), other.infer(picture)]
    for answer in answers:
        for got, wanted in zip(answer, expected, strict=True):
            np.testing.assert_array_equal(got, wanted)
    for engine in (alone, other, single):
        engine.close()


def test_the_service_gives_pictures_to_those_that_have_cores_for_them(
    recorded: type[Recorded], tiny_model: Path
) -> None:
    async def test() -> None:
        engines = load(tiny_model)
        batcher = Batcher(
            [lambda engine=engine: engine for engine in engines],
            pytest.fail,
            Metrics(),
            max_batch=1,
            queue_size=8,
            queue_bytes=10**9,
        )
        batcher.start()
        await until(lambda: batcher.ready)
        recorded.runs.clear()
        for _ in range(2):
            await batcher.infer(PICTURE[0])
        assert recorded.runs == [2, 2]
        recorded.gate.clear()
        tasks = []
        for runs in ([2], [2], [2, 1], [2, 1]):
            # The second waits for the one that has all cores; with the third there are pictures for both.
            tasks.append(asyncio.create_task(batcher.infer(PICTURE[0])))
            await until(lambda runs=runs: recorded.runs[2:] == runs)
            await asyncio.sleep(0.05)
            assert recorded.runs[2:] == runs
        recorded.gate.set()
        await asyncio.gather(*tasks)
        assert sorted(recorded.runs[2:4]) == [1, 2] and len(recorded.runs) == 6
        await asyncio.to_thread(batcher.close)

    asyncio.run(test())


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
    monkeypatch.setattr(devices, "usable_cores", lambda: cores)
    _, loaders = devices.onnx_source(Settings(model=tiny_model, device="cpu,cpu", threads=threads))
    for loader in loaders:
        loader()
    assert [one.threads for one in recorded.made] == made
