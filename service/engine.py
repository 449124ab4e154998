"""The engine: a small protocol, and its implementation on ONNX Runtime.

The ONNX file is the contract: input `image` uint8 [N, H, W, 3], outputs `labels` uint8, `depth` uint16 (mm) and
`confidence` uint8, all [N, H, W], and a model card in the metadata. A file that breaks it is refused.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import onnxruntime
from pydantic import ValidationError

from service.arrays import UInt8, UInt16
from service.card import METADATA_KEY, ModelCard
from service.cores import usable_cores
from service.errors import StartupError

Progress = Callable[[int, int], None]
"""Called with the steps done and the steps in all."""

CPU = "CPUExecutionProvider"
TRIAL_S = 1.0
FEWEST_TRIALS, MOST_TRIALS = 2, 20
"""For so long, and so many times, two numbers of pictures at once are tried, to see what the larger one brings."""
WORTH_WHILE = 1.1
"""So much quicker a larger batch must be."""
OUTPUTS = {"labels": "tensor(uint8)", "depth": "tensor(uint16)", "confidence": "tensor(uint8)"}


class Prediction(NamedTuple):
    """The maps of a batch, each [N, H, W]."""

    labels: UInt8
    depth: UInt16
    """Millimetres, 0 where invalid."""
    confidence: UInt8
    """The winning softmax probability x 255."""


class Engine(Protocol):
    """Runs one model. After construction, all calls come from one thread."""

    @property
    def card(self) -> ModelCard: ...

    @property
    def provider(self) -> str:
        """What runs the model: ONNX Runtime's name of it, or OpenVINO's."""

    @property
    def nodes(self) -> dict[str, int]:
        """How many nodes of the graph each provider runs."""

    @property
    def max_batch(self) -> int:
        """The most pictures that it is worth while to give it at once; known after `warm_up`."""

    def warm_up(self, progress: Progress) -> None:
        """Run every shape once that requests will need, and find `max_batch`."""

    def infer(self, batch: UInt8) -> Prediction:
        """Run uint8 [N, H, W, 3], sRGB, of one of the card's sizes."""

    def close(self) -> None: ...


@runtime_checkable
class OverlappingEngine(Engine, Protocol):
    """An engine whose device works by itself: while it computes a batch, it can be given the next one."""

    def submit(self, pictures: Sequence[UInt8]) -> Any:
        """Start a batch of pictures [H, W, 3] of one of the card's sizes; at most two are under way."""

    def collect(self, ticket: Any) -> Prediction:
        """Wait for what `submit` started; in the same order."""


@runtime_checkable
class SharingEngine(Engine, Protocol):
    """An engine that has its device together with others."""

    def share(self, waiting: int) -> int:
        """How many of so many waiting pictures, at least one, it should be given now: none where they are better off
        with the others. Asked before each batch, of one engine at a time."""

    def abandon(self) -> None:
        """A call of it hangs: the others have the device to themselves, whether or not that call ever ends."""


class DeviceLost(Exception):  # noqa: N818 - what happened, as CUDA says it
    """The device does not work any more, and trying again will not help."""


class OnnxEngine:
    """An `Engine` on ONNX Runtime, on the CPU.

    Args:
        threads: of the network; 0 takes one per core.
        max_batch: the most pictures at once.

    Raises:
        StartupError: the file breaks the contract.
    """

    provider = CPU

    def __init__(self, path: Path, *, threads: int = 0, max_batch: int = 1) -> None:
        options = session_options()
        # What is not set here is right as it is: all graph optimisations, one node at a time, and an arena that
        # keeps the memory of the largest batch.
        options.intra_op_num_threads = threads or usable_cores()
        # Spinning threads would take the cores from decoding and encoding.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # CPUs without VNNI add products of bytes in 16 bits, which overflow: int8 models would be wrong there,
        # without a word. There, and only there, this takes instructions that are slower and right.
        options.add_session_config_entry("session.x64quantprecision", "1")
        self._session = open_session(path, options, [CPU])
        self.card = check_contract(self._session, path)
        self.nodes = count_nodes([self._session])
        self.max_batch = max_batch

    def warm_up(self, progress: Progress) -> None:
        """Run every size of the card, check the answers' shapes, and find `max_batch`."""
        self.max_batch = warm_up(self, [1], progress)
        self.settle(self.max_batch)

    def settle(self, max_batch: int) -> None:
        """Give back the memory of larger batches that were tried, which the arena would keep, and take what batches of
        `max_batch` need."""
        release = onnxruntime.RunOptions()
        release.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self._session.run(list(OUTPUTS), {"image": _noise((1, *self.card.input.sizes[0]))}, release)
        for size in self.card.input.sizes:
            self.infer(_noise((max_batch, *size)))

    def infer(self, batch: UInt8) -> Prediction:
        return Prediction(*self._session.run(list(OUTPUTS), {"image": batch}))

    def close(self) -> None:
        del self._session


def warm_up(engine: Engine, batches: Iterable[int], progress: Progress) -> int:
    """Run every size of the card with every number of pictures in `batches`, and check the answers.

    Returns:
        The engine's `max_batch`, or less where larger batches are no quicker.

    Raises:
        StartupError: a map of another shape, or a class that the card does not have.
    """
    shapes = [(n, *size) for size in engine.card.input.sizes for n in batches]
    steps = len(shapes) + 1
    for done, shape in enumerate(shapes):
        progress(done, steps)
        check_run(engine, shape)
    progress(steps - 1, steps)
    best = _best_batch(engine)
    progress(steps, steps)
    return best


def check_run(engine: Engine, shape: tuple[int, ...]) -> None:
    """Run pictures of noise, [N, H, W], and check the answer.

    Raises:
        StartupError: a map of another shape, or a class that the card does not have.
    """
    prediction = engine.infer(_noise(shape))
    for name, plane in prediction._asdict().items():
        if plane.shape != shape:
            raise StartupError(f"the model's output {name} has shape {list(plane.shape)}, not {list(shape)}")
    if int(prediction.labels.max()) >= len(engine.card.classes):
        raise StartupError(f"the model gives class {prediction.labels.max()}, which its card does not have")


def _best_batch(engine: Engine) -> int:
    """How many pictures at once bring out most of them: 1, 2, 4, 8, ... while each gains on the one before.

    Where a device has no more to give, larger batches only keep everybody waiting: on two cores, batches of 8 of a
    small network are slower than those of 2.
    """
    best = 1
    for more in buckets(engine.max_batch)[1:]:
        if not _gains(engine, best, more):
            break
        best = more
    return best


def _gains(engine: Engine, few: int, many: int) -> bool:
    """Whether `many` pictures at once take clearly less time each than `few`.

    Other work on the machine slows single runs by more than is to be found here. So both are run in turn, several
    times, and the quickest runs count.
    """
    batches = {n: _noise((n, *engine.card.input.sizes[0])) for n in (few, many)}
    least_s = dict.fromkeys(batches, float("inf"))
    for batch in batches.values():
        check_run(engine, batch.shape[:3])  # The first of a shape may take memory, too.
    until = time.perf_counter() + TRIAL_S
    for done in range(MOST_TRIALS):
        if done >= FEWEST_TRIALS and time.perf_counter() > until:
            break
        for n, batch in batches.items():
            start = time.perf_counter()
            engine.infer(batch)
            least_s[n] = min(least_s[n], (time.perf_counter() - start) / n)
    return least_s[many] * WORTH_WHILE <= least_s[few]


def buckets(max_batch: int) -> list[int]:
    """Numbers of pictures: 1, 2, 4, 8, ... and `max_batch`."""
    powers = [1 << k for k in range((max_batch - 1).bit_length())]
    return [*powers, max_batch]


def _noise(shape: tuple[int, ...]) -> UInt8:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


def read_card(path: Path) -> ModelCard:
    """The model card of an ONNX file, after checking that the file keeps the contract.

    Raises:
        StartupError: no such file, not an ONNX file, without a valid card, or with other inputs or outputs.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # Reading needs no optimised graph.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    return check_contract(open_session(path, options, [CPU]), path)


def session_options() -> Any:
    """What all sessions have in common: only errors are logged, and it is noted which provider runs which node."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


def open_session(path: Path, options: Any, providers: list[Any]) -> Any:
    """Load an ONNX file.

    Raises:
        StartupError: there is no such file, it cannot be read, ONNX Runtime refuses it, or a provider fails with it.
    """
    try:
        if not path.is_file():
            raise StartupError(f"there is no model file {path}")
    except OSError as error:  # A folder that may not be searched, or a network drive that is gone.
        raise StartupError(f"the model file {path} cannot be read: {error.strerror}") from None
    first = providers[0] if isinstance(providers[0], str) else providers[0][0]
    try:
        # Otherwise it prints what a provider failed with, tries again on the CPU, and that is what is told.
        return onnxruntime.InferenceSession(path, options, providers=providers, enable_fallback=0)
    except Exception as error:  # ONNX Runtime's own exceptions have no common public base.
        if first != CPU:  # Not the file, which was read on the CPU before: memory, the driver, a kernel.
            raise StartupError(f"{path} cannot be loaded on {first}: {str(error)[:600]}") from None
        raise StartupError(f"{path} is not an ONNX file that ONNX Runtime can load: {str(error)[:300]}") from None


def assigned_nodes(session: Any) -> list[tuple[str, str, str]]:
    """Provider, kind and name of every node of the optimised graph."""
    if not hasattr(session, "get_provider_graph_assignment_info"):  # An older ONNX Runtime.
        return []
    return [
        (subgraph.ep_name, node.op_type, node.name)
        for subgraph in session.get_provider_graph_assignment_info()
        for node in subgraph.get_nodes()
    ]


def count_nodes(sessions: Iterable[Any]) -> dict[str, int]:
    """Number of nodes that each provider runs."""
    return dict(Counter(provider for session in sessions for provider, _, _ in assigned_nodes(session)))


def check_contract(session: Any, path: Path) -> ModelCard:
    """Check inputs and outputs, and give the card."""
    text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    if text is None:
        raise StartupError(f"{path} has no model card: the metadata key {METADATA_KEY!r} is missing")
    try:
        card = ModelCard.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "(whole)"
        raise StartupError(f"{path} has an invalid model card: {field}: {first['msg']}") from None

    inputs = {i.name: i for i in session.get_inputs()}
    image = inputs.get("image")
    if list(inputs) != ["image"] or image is None or image.type != "tensor(uint8)" or not _is_image(image.shape):
        found = ", ".join(f"{i.name} {i.type} {i.shape}" for i in inputs.values())
        raise StartupError(f"{path}: its input must be image uint8 [N, H, W, 3] with symbolic N, H, W, not {found}")
    outputs = {o.name: o for o in session.get_outputs()}
    for name, type_ in OUTPUTS.items():
        wanted = f"{path}: its output {name} must be {type_.removeprefix('tensor(').removesuffix(')')} [N, H, W]"
        if name not in outputs:
            raise StartupError(f"{wanted}; it has none of that name")
        if outputs[name].type != type_ or len(outputs[name].shape) != 3:
            raise StartupError(f"{wanted}, not {outputs[name].type} {outputs[name].shape}")
    return card


def _is_image(shape: list[Any]) -> bool:
    return len(shape) == 4 and shape[3] == 3 and not any(isinstance(side, int) for side in shape[:3])
