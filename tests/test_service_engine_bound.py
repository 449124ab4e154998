"""service/engine_bound.py: buckets, two sets of buffers, and that an answer belongs to its pictures."""

from __future__ import annotations

import contextlib
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from service_device import FakeDevice, bound_engine
from service_onnx import write_model

from service.engine import DeviceLost, Engine, OnnxEngine, OverlappingEngine, Prediction, buckets
from service.engine_bound import ALIGNMENT, HostDevice, Layout, bucket_of
from service.errors import StartupError

SIZES = [(48, 64), (64, 48)]


def pictures(seed: int, count: int, size: tuple[int, int] = SIZES[0]) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *size, 3), dtype=np.uint8)


def check(got: Prediction, wanted: Prediction) -> None:
    for one, other in zip(got, wanted, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("max_batch", "expected"),
    [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (8, [1, 2, 4, 8]), (12, [1, 2, 4, 8, 12]), (32, [1, 2, 4, 8, 16, 32])],
)
def test_buckets(max_batch: int, expected: list[int]) -> None:
    assert buckets(max_batch) == expected
    for n in range(1, max_batch + 1):
        assert bucket_of(n, expected) == min(bucket for bucket in expected if bucket >= n)
    for n in (0, -1, max_batch + 1):
        with pytest.raises(ValueError, match=rf"{n} pictures at once; this engine takes 1 to {max_batch}"):
            bucket_of(n, expected)


@pytest.mark.parametrize("pixels", [1, 255, 256, 3072, 100_001])
def test_maps_do_not_overlap_in_their_buffer(pixels: int) -> None:
    layout = Layout.of(pixels)
    assert layout.depth == 0 and layout.labels >= 2 * pixels
    assert layout.confidence >= layout.labels + pixels and layout.nbytes >= layout.confidence + pixels
    assert all(place % ALIGNMENT == 0 for place in layout)
    assert layout.nbytes < 4 * pixels + 3 * ALIGNMENT


def test_it_is_an_engine_that_overlaps_and_others_are_not(tiny_model: Path) -> None:
    engine: Engine = bound_engine(tiny_model)
    assert isinstance(engine, OverlappingEngine)
    assert not isinstance(OnnxEngine(tiny_model, threads=1), OverlappingEngine)
    engine.close()


def test_the_same_maps_as_without_bound_buffers(tiny_model: Path) -> None:
    engine, plain = bound_engine(tiny_model), OnnxEngine(tiny_model, threads=1)
    for k, size in enumerate(SIZES * 3):
        for n in (1, 2, 3, 4):
            batch = pictures(10 * k + n, n, size)
            check(engine.infer(batch), plain.infer(batch))
    for n in (5, 9):
        with pytest.raises(ValueError, match=f"{n} pictures at once"):
            engine.infer(pictures(0, n))
    engine.close()


def test_every_bucket_of_every_size_is_warmed_in_both_sets(tiny_model: Path) -> None:
    device = FakeDevice()
    engine = bound_engine(tiny_model, device, max_batch=3)
    steps: list[tuple[int, int]] = []
    engine.warm_up(lambda done, total: steps.append((done, total)))
    assert steps == [(k, 13) for k in range(14)]  # 2 sizes x 3 buckets x 2 sets, and what a batch gains
    (session,) = {id(s): s for s in engine._sessions.values()}.values()
    assert len({id(binding) for binding, _ in session.shapes}) == 12
    # From now on no other binding is run.
    warmed = {id(binding) for binding, _ in session.shapes}
    for n in (1, 2, 3, 2, 1):
        for size in SIZES:
            engine.infer(pictures(n, n, size))
    assert {id(binding) for binding, _ in session.shapes} == warmed
    engine.close()
    assert device.closed


def test_the_largest_batch_is_run_first(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ONNX Runtime keeps of small batches is of no use for larger ones, and the other way round it is."""
    shapes: list[tuple[int, ...]] = []
    engine = bound_engine(tiny_model, max_batch=4)
    infer = engine.infer
    monkeypatch.setattr(engine, "infer", lambda batch: shapes.append(batch.shape[:3]) or infer(batch))
    engine.warm_up(lambda done, total: None)
    assert shapes[:12] == [(n, *size) for size in SIZES for n in (4, 4, 2, 2, 1, 1)]
    engine.close()


@pytest.mark.parametrize("graphs", [False, True])
def test_the_memory_of_batches_that_gain_nothing_is_given_back(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, graphs: bool
) -> None:
    engine = bound_engine(tiny_model, max_batch=4, graphs=graphs)
    (session,) = {id(session): session for session in engine._sessions.values()}.values()
    arenas: list[str] = []
    run = session.run_with_iobinding

    def noted(binding: Any, options: Any) -> None:
        with contextlib.suppress(RuntimeError):  # Most runs have no such entry.
            arenas.append(options.get_run_config_entry("memory.enable_memory_arena_shrinkage"))
        run(binding, options)

    batches: list[int] = []
    infer = engine.infer
    monkeypatch.setattr(session, "run_with_iobinding", noted)
    monkeypatch.setattr(engine, "infer", lambda batch: batches.append(len(batch)) or infer(batch))
    monkeypatch.setattr("service.engine._gains", lambda engine, few, many: many == 2)
    engine.warm_up(lambda done, total: None)
    assert engine.max_batch == 2
    assert arenas == ([] if graphs else ["cpu:0"])
    assert batches[12:] == ([] if graphs else [2, 1, 2, 1])  # Of both sizes, what will be needed.
    plain = OnnxEngine(tiny_model, threads=1)
    check(engine.infer(pictures(5, 2)), plain.infer(pictures(5, 2)))
    engine.close()


def test_memory_that_cannot_be_given_back_is_no_reason_not_to_start(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = bound_engine(tiny_model, max_batch=2)
    engine._device.index = 7  # There is no arena of that name.
    monkeypatch.setattr("service.engine._gains", lambda engine, few, many: False)
    engine.warm_up(lambda done, total: None)
    assert engine.max_batch == 1
    assert "the memory of larger batches is kept: " in caplog.text
    engine.close()


def test_every_bound_shape_has_a_graph_of_its_own(tiny_model: Path) -> None:
    device = FakeDevice()
    engine = bound_engine(tiny_model, device, max_batch=2, graphs=True)
    engine.warm_up(lambda done, total: None)
    (session,) = {id(s): s for s in engine._sessions.values()}.values()
    ids = {id(binding): options.get_run_config_entry("gpu_graph_id") for binding, options in session.shapes}
    assert sorted(map(int, ids.values())) == list(range(1, 9))  # 2 sizes x 2 buckets x 2 sets
    for _, options in session.shapes:
        assert options.get_run_config_entry("disable_synchronize_execution_providers") == "1"
    engine.close()


@pytest.mark.parametrize("seed", range(8))
def test_an_answer_belongs_to_its_pictures_in_whatever_order_the_device_works(tiny_model: Path, seed: int) -> None:
    """Changing pictures, sizes and numbers, always two batches under way."""
    device = FakeDevice(seed)
    engine, plain = bound_engine(tiny_model, device), OnnxEngine(tiny_model, threads=1)
    rng = np.random.default_rng(seed)
    running: deque[tuple[Any, np.ndarray]] = deque()
    kept: list[tuple[Prediction, np.ndarray]] = []
    for k in range(24):
        batch = pictures(1000 * seed + k, int(rng.integers(1, 5)), SIZES[int(rng.integers(2))])
        running.append((engine.submit(list(batch)), batch.copy()))
        batch[:] = 0  # The caller's pictures are the caller's again.
        if len(running) == 2:
            ticket, before = running.popleft()
            kept.append((engine.collect(ticket), before))
    while running:
        ticket, before = running.popleft()
        kept.append((engine.collect(ticket), before))
    # Only now, so that an answer that a later batch writes over is found out.
    for got, before in kept:
        check(got, plain.infer(before))
    engine.close()


def test_the_next_batch_is_uploaded_while_one_is_computed(tiny_model: Path) -> None:
    device = FakeDevice()
    engine = bound_engine(tiny_model, device)
    first, second = engine.submit(list(pictures(0, 1))), engine.submit(list(pictures(1, 1)))
    assert [len(queue) for queue in device.queues.values()] == [2, 2, 2]  # Nothing was waited for so far.
    device._random.choice = lambda able: able[0]  # type: ignore[method-assign]  # uploads first
    device._random.randrange = lambda _: 0  # type: ignore[method-assign]
    engine.collect(first)
    assert device.done == ["upload", "upload", "compute", "compute", "download"]
    engine.collect(second)
    engine.close()


def test_no_third_batch_and_no_second_answer(tiny_model: Path) -> None:
    engine = bound_engine(tiny_model)
    first, second = engine.submit(list(pictures(0, 1))), engine.submit(list(pictures(1, 1)))
    with pytest.raises(RuntimeError, match="2 batches are under way"):
        engine.submit(list(pictures(2, 1)))
    engine.collect(first)
    with pytest.raises(RuntimeError, match="collected before"):
        engine.collect(first)
    engine.collect(second)
    engine.close()


@pytest.mark.parametrize("what", ["upload", "compute", "download", "wait"])
def test_a_failure_now_and_then_leaves_the_engine_whole(tiny_model: Path, what: str) -> None:
    device = FakeDevice(3)
    engine, plain = bound_engine(tiny_model, device), OnnxEngine(tiny_model, threads=1)
    before = pictures(1, 2)
    running = engine.submit(list(before))
    device.fail_next = what
    with pytest.raises(RuntimeError, match=f"{what} failed once"):
        engine.collect(running) if what == "wait" else engine.submit(list(pictures(2, 3)))
    assert not any(device.queues.values())  # It waited: no copy is under way to a buffer that is used again.
    if what != "wait":
        check(engine.collect(running), plain.infer(before))
    for k in range(4):
        batch = pictures(k, 3)
        check(engine.infer(batch), plain.infer(batch))
    engine.close()


def test_a_lost_device_says_so(tiny_model: Path) -> None:
    device = FakeDevice()
    engine = bound_engine(tiny_model, device)
    running = engine.submit(list(pictures(0, 1)))
    device.lost = True
    for attempt in (lambda: engine.collect(running), lambda: engine.submit(list(pictures(0, 1)))):
        with pytest.raises(DeviceLost, match="cpu:0 does not work any more: an uncorrectable ECC error"):
            attempt()
    engine.close()
    assert device.closed


def test_a_class_that_the_card_does_not_have(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.onnx")
    engine = bound_engine(path)
    engine.card = engine.card.model_copy(update={"classes": engine.card.classes[:3]})
    with pytest.raises(StartupError, match="gives class 7"):
        engine.warm_up(lambda done, total: None)
    engine.close()


def test_host_device_gives_aligned_memory_and_copies() -> None:
    device = HostDevice()
    place = device.allocate(1000)
    assert place % ALIGNMENT == 0 and device.allocate(1000) != place
    there, back = device.allocate_host(1000), device.allocate_host(1000)
    there[:] = np.arange(1000) % 251
    device.upload(place, there)
    there[:] = 0
    device.wait(device.download(back, place))
    assert (back == np.arange(1000) % 251).all()
