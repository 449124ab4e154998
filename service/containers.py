"""Several things in one body: multipart/mixed, ZIP and NumPy's npz."""

from __future__ import annotations

import io
import secrets
import zipfile
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from service.images import INVALID_DEPTH
from service.maps import Maps
from service.outputs import MULTIPART, Rendered


class Part(NamedTuple):
    """A file of a container: its name ("" has none), its media type and its content."""

    name: str
    media_type: str
    body: bytes


def multipart(parts: Sequence[Part]) -> Rendered:
    """multipart/mixed (RFC 2046), in this order."""
    # As long and as random as this, it is in no part.
    boundary = secrets.token_hex(16)
    out = []
    for part in parts:
        disposition = f'Content-Disposition: attachment; filename="{part.name}"\r\n' if part.name else ""
        head = (
            f"--{boundary}\r\nContent-Type: {part.media_type}\r\n{disposition}Content-Length: {len(part.body)}\r\n\r\n"
        )
        out += [head.encode("ascii"), part.body, b"\r\n"]
    out.append(f"--{boundary}--\r\n".encode("ascii"))
    return Rendered(b"".join(out), f"{MULTIPART}; boundary={boundary}")


def archive(parts: Sequence[Part]) -> bytes:
    """A ZIP. Nothing is compressed: the pictures are already."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as file:
        for part in parts:
            # Named like this, and not by its name, it has no date but ZIP's first: equal parts make equal archives.
            file.writestr(zipfile.ZipInfo(part.name), part.body)
    return out.getvalue()


def npz(maps: Maps) -> bytes:
    """`numpy.load` reads: `labels` uint8 [H, W]; `depth` float32 [H, W] in metres, NaN where invalid, so that it is
    no distance by mistake; `confidence` float32 [H, W], 0 to 1; `intrinsics` float64 [3, 3], and in `camera` where they
    are from: request, exif or assumed; `class_names`."""
    depth = np.divide(maps.depth, np.float32(1000), dtype=np.float32)
    depth[maps.depth == INVALID_DEPTH] = np.nan
    camera = maps.camera
    out = io.BytesIO()
    np.savez(
        out,
        labels=maps.labels,
        depth=depth,
        confidence=np.divide(maps.confidence, np.float32(255), dtype=np.float32),
        intrinsics=np.array([[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]]),
        camera=np.array(camera.source),
        class_names=np.array([info.name for info in maps.card.classes]),
    )
    return out.getvalue()
