"""What `/predict` can answer with: the outputs, their media types, and which one a request wants."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

from starlette.datastructures import Headers

from service.cameras import Given
from service.errors import InvalidRequest, NotAcceptable

JSON = "application/json"
PNG = "image/png"
MULTIPART = "multipart/mixed"

Picture = Literal["mask", "depth", "depth_color", "overlay", "confidence", "unreliable"]
Output = Literal[Picture, "json", "coco", "multipart", "zip", "npz", "ply", "glb"]
PointColor = Literal["picture", "class"]

MEDIA_TYPES: dict[Output, str] = {
    # In this order, which is that of preference, `Accept` alone finds the first output of its media type.
    "json": JSON,
    "mask": PNG,
    "multipart": MULTIPART,
    "zip": "application/zip",
    "npz": "application/x-npz",
    "ply": "application/x-ply",
    "glb": "model/gltf-binary",
    "coco": JSON,
    **dict.fromkeys(get_args(Picture), PNG),
}


_POINTS: tuple[Output, ...] = ("ply", "glb")
ONLY_FOR: dict[str, tuple[Output, ...]] = {
    "pictures": ("json",),
    "color": _POINTS,
    "max_points": _POINTS,
    "min_confidence": ("json", "unreliable", "multipart", "zip", *_POINTS),
}
"""Parameters that are for some outputs only."""


@dataclass(frozen=True)
class Options:
    """What a request may say about its answer, besides which one it wants."""

    camera: Given = field(default_factory=Given)
    pictures: bool = True
    """JSON has its pictures in it, as base64."""
    color: PointColor = "picture"
    """What points are coloured by."""
    max_points: int = 500_000
    min_confidence: float | None = None
    """Pixels of less confidence, 0 to 1, are unreliable; None: nothing is said about that."""

    @property
    def least_confidence(self) -> int:
        """The least of the values 0 to 255 of a confidence map that is reliable."""
        # A value of a map, as float32 has it, is its own level and not a little more.
        return 0 if self.min_confidence is None else math.ceil(self.min_confidence * 255 - 1e-4)

    def shows_picture(self, output: Output) -> bool:
        """Whether the answer has the uploaded picture's own colours in it."""
        return output == "overlay" or (output in _POINTS and self.color == "picture")

    def check(self, output: Output, given: Iterable[str]) -> None:
        """Raises InvalidRequest where `output` has no use for one of the parameters `given`, or needs another. A depth
        map that was asked for with `min_confidence` would be taken for one without what is below."""
        for name in given:
            if output not in ONLY_FOR.get(name, (output,)):
                only = ", ".join(ONLY_FOR[name])
                raise InvalidRequest(f"{name} is of no use with output={output}; it is for {only}.")
        if output == "unreliable" and self.min_confidence is None:
            raise InvalidRequest("output=unreliable needs min_confidence, such as min_confidence=0.5.")


class Rendered(NamedTuple):
    """An answer: its body, and its media type for Content-Type."""

    body: bytes
    media_type: str


def accept_of(headers: Headers) -> str:
    """What a request accepts; lines of one name are one list (RFC 9110, 5.3)."""
    return ", ".join(headers.getlist("accept"))


@lru_cache(maxsize=64)  # Clients send the same few, and every output is asked for.
def negotiate(accept: str, output: Output | None) -> Output:
    """Which output a request wants, by its Accept header and its `output`.

    Raises:
        NotAcceptable: `accept` allows none, or not the media type of `output`.
    """
    if output is not None:
        if not quality(accept, MEDIA_TYPES[output]):
            raise NotAcceptable(f"output={output} is {MEDIA_TYPES[output]}, which Accept: {accept} does not allow.")
        return output
    best = max(MEDIA_TYPES, key=lambda name: quality(accept, MEDIA_TYPES[name]))
    if not quality(accept, MEDIA_TYPES[best]):
        raise NotAcceptable(f"The answer is one of {', '.join(dict.fromkeys(MEDIA_TYPES.values()))}.")
    return best


def negotiate_batch(accept: str, output: Output) -> str:
    """The media type of the answer to several pictures: an array of JSON documents, or multipart/mixed of anything.

    Raises:
        NotAcceptable: `accept` allows none that can hold `output`.
    """
    possible = [JSON, MULTIPART] if MEDIA_TYPES[output] == JSON else [MULTIPART]
    best = max(possible, key=lambda name: quality(accept, name))
    if not quality(accept, best):
        raise NotAcceptable(f"Answers of output={output} come as {' or '.join(possible)}.")
    return best


def quality(accept: str, media_type: str) -> float:
    """How much an Accept header wants a media type, 0 to 1; the most specific range counts (RFC 9110, 12.5.1)."""
    found = _ranges(accept)
    ranges = (media_type, media_type.partition("/")[0] + "/*", "*/*")
    return next((found[r] for r in ranges if r in found), 0.0)


@lru_cache(maxsize=64)
def _ranges(accept: str) -> Mapping[str, float]:
    """The media ranges of an Accept header, and how much each is wanted."""
    found: dict[str, float] = {}
    for item in (accept.strip() or "*/*").lower().split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        wanted = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    wanted = float(parameter[2:])
                except ValueError:
                    wanted = 0.0
                if not 0.0 <= wanted <= 1.0:  # NaN too.
                    wanted = 0.0
        found[name] = wanted
    return found
