"""Cameras as people and robots hold them, and which of their views are worth a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from training.rooms.scene import CLASS_ID, Floats, Room

Rng = np.random.Generator

GLANCE = (32, 24)
"""Rays of a candidate view."""
CLOSE_UPS = 0.15
"""Share of rooms that are looked at from near."""
CANDIDATES = 16
ROUNDS = 5
CLEARANCE = 0.3
"""Least distance of anything from the camera, metres; inside furniture something is always nearer."""
LARGEST_MIRROR, LARGEST_VOID = 0.15, 0.01
DARKEST = 0.01
"""Least median luminance of a view, in the unit of `Light.radiance`: darker ones are noise after metering."""


@dataclass(frozen=True)
class Limits:
    """What a view must show.

    Attributes:
        nearest, median: Least depth of the 5th percentile and of the median, metres.
        largest_class, largest_object: Highest share of the picture.
        furniture: Least share of the picture. objects: Least number of pieces of furniture.
    """

    nearest: float
    median: float
    largest_class: float
    largest_object: float
    furniture: float
    objects: int


ACROSS = Limits(nearest=0.55, median=1.3, largest_class=0.5, largest_object=0.45, furniture=0.15, objects=3)
"""Views across a room."""
CLOSE = Limits(nearest=0.4, median=0.8, largest_class=0.65, largest_object=0.65, furniture=0.15, objects=2)
"""Close-ups: a counter, a desk, a plant in the way."""


@dataclass(frozen=True)
class Camera:
    """A pinhole camera.

    Attributes:
        position: [3] in metres.
        axes: [3, 3], the rows are the directions right, down and forward of the picture in the world.
        intrinsics: fx, fy, cx, cy in pixels; a pixel's centre has whole coordinates, so that cx is about (W - 1) / 2.
        size: Width and height in pixels.
    """

    position: Floats
    axes: Floats
    intrinsics: tuple[float, float, float, float]
    size: tuple[int, int]

    def rays(self) -> Floats:
        """Directions [3, H · W] of the pixels' centres, of length 1 along the axis, so that distance is depth."""
        fx, fy, cx, cy = self.intrinsics
        x, y = np.meshgrid((np.arange(self.size[0]) - cx) / fx, (np.arange(self.size[1]) - cy) / fy)
        grid = np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
        return np.asarray(self.axes.T @ grid, np.float32)

    def resized(self, size: tuple[int, int]) -> Camera:
        """The same view in another number of pixels."""
        sx, sy = size[0] / self.size[0], size[1] / self.size[1]
        fx, fy, cx, cy = self.intrinsics
        return Camera(self.position, self.axes, (fx * sx, fy * sy, (cx + 0.5) * sx - 0.5, (cy + 0.5) * sy - 0.5), size)


class Sight(Protocol):
    """What choosing a view needs of a rendered scene; see `render.RenderScene`."""

    @property
    def label(self) -> NDArray[np.uint8]: ...
    @property
    def owner(self) -> NDArray[np.int32]: ...
    @property
    def furniture(self) -> NDArray[np.bool_]: ...
    @property
    def centres(self) -> Floats: ...
    def first_hits(self, origin: Floats, direction: Floats) -> tuple[Floats, NDArray[np.int64]]: ...
    def glance(self, camera: Camera) -> Floats: ...


def look(yaw: float, pitch: float, roll: float) -> Floats:
    """Axes of a camera: `yaw` counter-clockwise from +x, `pitch` upwards, `roll` clockwise as it sees; radians."""
    forward = np.array([math.cos(pitch) * math.cos(yaw), math.cos(pitch) * math.sin(yaw), math.sin(pitch)])
    right = np.array([math.sin(yaw), -math.cos(yaw), 0.0])
    down = np.cross(forward, right)
    cos, sin = math.cos(roll), math.sin(roll)
    return np.stack([cos * right + sin * down, cos * down - sin * right, forward])


# --------------------------------------------------------------------------------------------------------- candidates


def _height(rng: Rng) -> float:
    """Metres: mostly a person's eyes, standing or seated, or a robot's."""
    draw = rng.random()
    if draw < 0.62:
        return float(np.clip(rng.normal(1.56, 0.09), 1.35, 1.9))
    return float(rng.uniform(1.1, 1.3) if draw < 0.84 else rng.uniform(0.5, 1.0))


def _pitch(rng: Rng, height: float) -> float:
    """Degrees upwards: people look a little down, seated ones and robots less; now and then much."""
    if rng.random() < 0.08:
        return float(rng.uniform(-45, 15))
    return float(np.clip(rng.normal(-15 if height > 1.35 else -8, 8), -35, 6))


def _field_of_view(rng: Rng) -> float:
    """Degrees across: Kinects see 57, phones and headsets about 65 to 70, few see more or less."""
    draw = rng.random()
    if draw < 0.4:
        return float(rng.normal(57.5, 1.5))
    if draw < 0.75:
        return float(rng.uniform(62, 72))
    return float(rng.uniform(72, 90) if draw < 0.9 else rng.uniform(45, 57))


def _wall_distance(points: Floats, outline: Floats) -> Floats:
    """Distance [P] of points [P, 2] from the nearest wall."""
    nearest = np.full(len(points), np.inf)
    for a, b in zip(outline, np.roll(outline, -1, 0), strict=True):
        along = b - a
        t = np.clip(((points - a) @ along) / max(float(along @ along), 1e-12), 0, 1)
        nearest = np.minimum(nearest, np.linalg.norm(points - a - t[:, None] * along, axis=1))
    return nearest


def inside(points: Floats, outline: Floats) -> NDArray[np.bool_]:
    """Whether points [P, 2] lie in the polygon [K, 2], by the crossings of a ray along +x."""
    x, y = points[:, 0], points[:, 1]
    within = np.zeros(len(points), bool)
    for (ax, ay), (bx, by) in zip(outline, np.roll(outline, -1, 0), strict=True):
        crosses = (ay > y) != (by > y)
        if by != ay:
            within ^= crosses & (x < ax + (y - ay) * (bx - ax) / (by - ay))
    return within


def candidate(rng: Rng, room: Room, targets: Floats, size: tuple[int, int], close: bool = False) -> Camera:
    """A camera at a free place, mostly near a wall, mostly turned to furniture on the other side of the room.

    Args:
        targets: [T, 3], middles of the furniture.
        close: Turned to what is near instead.
    """
    free = np.asarray(room.free, np.float64)
    outline = np.asarray(room.outline, np.float64)
    weight = np.exp(-_wall_distance(free, outline) / 0.5) + 0.05
    place = free[rng.choice(len(free), p=weight / weight.sum())]
    moved = place + rng.uniform(-0.15, 0.15, 2)
    if inside(moved[None], outline)[0] and _wall_distance(moved[None], outline)[0] > CLEARANCE:
        place = moved
    height = min(_height(rng), room.height - 0.4)
    yaw = float(rng.uniform(-math.pi, math.pi))
    if len(targets) and rng.random() < 0.85:
        way = targets[:, :2] - place
        distance = np.linalg.norm(way, axis=1)
        chance = np.exp(-(((distance - 1.3) / 0.5) ** 2)) if close else np.clip(distance - 0.8, 0, 4) ** 1.5
        chance += 1e-3
        aim = way[rng.choice(len(way), p=chance / chance.sum())]
        yaw = math.atan2(aim[1], aim[0]) + math.radians(rng.normal(0, 14))
    axes = look(yaw, math.radians(_pitch(rng, height)), math.radians(float(rng.normal(0, 2))))
    width, rows = size
    fx = width / 2 / math.tan(math.radians(float(np.clip(_field_of_view(rng), 45, 90))) / 2)
    fy = fx * float(np.clip(rng.normal(1, 0.004), 0.99, 1.01))
    cx = (width - 1) / 2 + width * float(np.clip(rng.normal(0, 0.006), -0.015, 0.015))
    cy = (rows - 1) / 2 + rows * float(np.clip(rng.normal(0, 0.006), -0.015, 0.015))
    return Camera(np.array([place[0], place[1], height]), axes, (fx, fy, cx, cy), size)


# ---------------------------------------------------------------------------------------------------------- refusal


@dataclass(frozen=True)
class View:
    """What a coarse look shows.

    Attributes:
        depth: [N] in metres, inf where nothing is hit.
        label: uint8 [N], class ids; any number where nothing is hit.
        owner: int [N], objects.
        furniture: bool [N].
    """

    depth: Floats
    label: NDArray[np.uint8]
    owner: NDArray[np.int32]
    furniture: NDArray[np.bool_]


def refusal(view: View, limits: Limits = ACROSS) -> str | None:
    """Why the view is not worth a picture, in a word; None if it is."""
    hit = np.isfinite(view.depth)
    n = len(hit)
    if (~hit).sum() > LARGEST_VOID * n:
        return "void"
    if np.percentile(view.depth, 5) < limits.nearest:
        return "near"
    if np.median(view.depth) < limits.median:
        return "close"
    shares = np.bincount(view.label[hit], minlength=256) / n
    if shares.max() > limits.largest_class or shares[CLASS_ID["mirror"]] > LARGEST_MIRROR:
        return "one class"
    things = np.bincount(view.owner[hit & view.furniture], minlength=1)
    if things.sum() < limits.furniture * n or (things > 0.004 * n).sum() < limits.objects:
        return "empty"
    if things.max() > limits.largest_object * n:
        return "one object"
    return None


def _sphere(count: int = 42) -> Floats:
    """Directions [3, count] spread evenly, by the golden angle."""
    k = np.arange(count) + 0.5
    z, angle = 1 - 2 * k / count, math.pi * (1 + math.sqrt(5)) * k
    r = np.sqrt(1 - z * z)
    return np.asarray(np.stack([r * np.cos(angle), r * np.sin(angle), z]), np.float32)


def _glances(scene: Sight, cameras: Sequence[Camera]) -> list[View]:
    """Coarse looks of many cameras, traced at once."""
    n = GLANCE[0] * GLANCE[1]
    direction = np.concatenate([camera.resized(GLANCE).rays() for camera in cameras], 1)
    origin = np.concatenate([np.repeat(np.asarray(c.position, np.float32)[:, None], n, 1) for c in cameras], 1)
    depth, face = scene.first_hits(origin, direction)
    face = np.maximum(face, 0)
    label, owner, furniture = scene.label[face], scene.owner[face], scene.furniture[face]
    cut = [slice(k * n, (k + 1) * n) for k in range(len(cameras))]
    return [View(depth[s], label[s], owner[s], furniture[s]) for s in cut]


def _free_standing(scene: Sight, cameras: Sequence[Camera]) -> NDArray[np.bool_]:
    """Whether nothing is near the camera in any direction: neither walls nor the furniture it would stand in."""
    sphere = _sphere()
    n = sphere.shape[1]
    origin = np.concatenate([np.repeat(np.asarray(c.position, np.float32)[:, None], n, 1) for c in cameras], 1)
    distance, _ = scene.first_hits(origin, np.tile(sphere, (1, len(cameras))))
    return np.asarray(distance.reshape(-1, n).min(1) > CLEARANCE)


def _alike(a: Camera, b: Camera) -> bool:
    """Whether two cameras would take nearly the same picture."""
    turned = math.degrees(math.acos(float(np.clip(a.axes[2] @ b.axes[2], -1, 1))))
    return turned < 40 and float(np.linalg.norm(a.position - b.position)) < 1.5


def views(
    rng: Rng,
    room: Room,
    scene: Sight,
    count: int,
    size: tuple[int, int],
    reasons: dict[str, int] | None = None,
) -> list[Camera]:
    """Up to `count` cameras whose pictures are worth taking; fewer, even none, in a room without such views.

    Args:
        size: Width and height of the pictures.
        reasons: Counts here why candidates were refused.
    """
    chosen: list[Camera] = []
    counted: dict[str, int] = {} if reasons is None else reasons
    targets = np.asarray(scene.centres, np.float64)
    if not len(room.free):
        return []
    close = rng.random() < CLOSE_UPS
    for _ in range(ROUNDS):
        cameras = [candidate(rng, room, targets, size, close) for _ in range(CANDIDATES)]
        standing = _free_standing(scene, cameras)
        accepted: list[tuple[Camera, float]] = []
        for camera, stands, view in zip(cameras, standing, _glances(scene, cameras), strict=True):
            reason = "inside" if not stands else refusal(view, CLOSE if close else ACROSS)
            if reason:
                counted[reason] = counted.get(reason, 0) + 1
            else:
                # Many objects and classes, and a look across the room, are worth more.
                worth = len(np.unique(view.owner[view.furniture])) + 2 * len(np.unique(view.label))
                far = 1.0 if close else float(np.clip(np.median(view.depth), 1, 5)) ** 1.5
                accepted.append((camera, worth * far))
        while accepted and len(chosen) < count:
            worths = np.array([worth for _, worth in accepted]) ** 2
            camera, _ = accepted.pop(int(rng.choice(len(accepted), p=worths / worths.sum())))
            if any(_alike(camera, other) for other in chosen):
                continue
            # Few samples are noisy: means of blocks of pixels are not.
            blocks = scene.glance(camera.resized(GLANCE)).reshape(6, 4, 8, 4).mean((1, 3))
            if np.median(blocks) < DARKEST:
                counted["dark"] = counted.get("dark", 0) + 1
                continue
            chosen.append(camera)
        if len(chosen) == count:
            break
    return chosen
