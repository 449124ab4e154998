"""A fake device: real memory, and three queues whose work is done when it has to be, in whatever order is allowed."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from service_onnx import card

from service.card import ModelCard
from service.engine import open_session, session_options
from service.engine_bound import BoundEngine, HostDevice


class _Work:
    """Something that a queue has to do, and what has to be done before."""

    def __init__(self, do: Callable[[], Any], after: list[_Work]) -> None:
        self.do, self.after, self.is_done = do, after, False

    @property
    def can_start(self) -> bool:
        return all(other.is_done for other in self.after)


class FakeDevice(HostDevice):
    """As CUDA orders work: each queue in its order, and between queues only what was asked to be waited for.

    Nothing is done before somebody waits; then queues go on by chance (`seed`), also beyond what is waited for, so that
    whoever takes a result too early, or gives a buffer away too early, gets wrong maps.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.queues: dict[str, deque[_Work]] = {name: deque() for name in ("upload", "compute", "download")}
        self.done: list[str] = []
        self.lost = False
        self.fail_next = ""
        self.closed = False
        self._random = random.Random(seed)
        self._last: dict[str, _Work] = {}
        self._compute_after: list[_Work] = []

    def _put(self, queue: str, do: Callable[[], Any], after: list[_Work]) -> _Work:
        self._check(queue)
        work = _Work(do, [*after, *([self._last[queue]] if queue in self._last else [])])
        self._last[queue] = work
        self.queues[queue].append(work)
        return work

    def _check(self, what: str) -> None:
        if self.lost:
            raise RuntimeError("an uncorrectable ECC error")
        if self.fail_next == what:
            self.fail_next = ""
            raise RuntimeError(f"{what} failed once")

    def upload(self, to: int, source: np.ndarray) -> None:
        work = self._put("upload", lambda: super(FakeDevice, self).upload(to, source), [])
        self._compute_after = [work]

    def compute(self, run: Callable[[], Any]) -> None:
        self._put("compute", run, self._compute_after)

    def download(self, to: np.ndarray, source: int) -> object:
        after = [self._last["compute"]] if "compute" in self._last else []
        return self._put("download", lambda: super(FakeDevice, self).download(to, source), after)

    def wait(self, copied: object) -> None:
        assert isinstance(copied, _Work)
        self._check("wait")
        while not copied.is_done:
            self._step()
        for _ in range(self._random.randrange(4)):
            self._step()

    def drain(self) -> None:
        self._check("drain")
        while any(self.queues.values()):
            self._step()

    def close(self) -> None:
        super().close()
        self.closed = True

    def _step(self) -> None:
        able = [name for name, queue in self.queues.items() if queue and queue[0].can_start]
        if able:
            name = self._random.choice(able)
            work = self.queues[name].popleft()
            work.do()
            work.is_done = True
            self.done.append(name)


class LaterSession:
    """A real session whose runs are put into the fake device's queue."""

    def __init__(self, session: Any, device: FakeDevice) -> None:
        self._session, self._device = session, device
        self.shapes: list[tuple[Any, Any]] = []

    def io_binding(self) -> Any:
        return self._session.io_binding()

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        self.shapes.append((binding, options))
        self._device.compute(lambda: self._session.run_with_iobinding(binding, options))


def bound_engine(path: Path, device: HostDevice | None = None, *, max_batch: int = 4, **options: Any) -> BoundEngine:
    """The engine that GPUs have, with ONNX Runtime's CPU provider, on the host or on a fake device."""
    chosen = device or HostDevice()
    session = open_session(path, session_options(), ["CPUExecutionProvider"])
    if isinstance(chosen, FakeDevice):
        session = LaterSession(session, chosen)
    model = ModelCard.model_validate(card())
    sessions = dict.fromkeys(model.input.sizes, session)
    nodes = {"CPUExecutionProvider": 11}
    return BoundEngine(model, sessions, "CPUExecutionProvider", nodes, chosen, max_batch=max_batch, **options)
