"""Where things stand: the outline of a room, its walls, what is occupied and what must stay clear.

Footprints are rectangles turned about z, with a lowest and a highest z, so that a picture may hang above a sofa and a
rug lie under a bed. All lengths in metres.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from training.rooms.scene import Floats, Part
from training.rooms.shapes import CELL, Piece, Rng, Top

TOLERANCE = 0.004


@dataclass(frozen=True)
class Wall:
    """A wall as seen from inside: u runs to the right, z up.

    Attributes:
        origin: [2], where u = 0.
        axis, normal: [2], unit vectors along u and into the room.
        outer: Nothing of the room lies behind it (walls at the notch of an L do not count as outer).
    """

    origin: Floats
    axis: Floats
    normal: Floats
    length: float
    outer: bool

    @property
    def yaw(self) -> float:
        """Of a piece whose back is at this wall."""
        return math.atan2(self.axis[1], self.axis[0])

    def point(self, u: float, off: float = 0.0) -> tuple[float, float]:
        """The place at u, `off` metres from the wall."""
        x, y = self.origin + self.axis * u + self.normal * off
        return float(x), float(y)


@dataclass(frozen=True)
class Placed:
    """A piece in the room; it occupies `size` around (x, y) from z upwards.

    `parts` are simple shapes in the world: the piece, unless it is a model, and what was put on it.
    """

    piece: Piece
    x: float
    y: float
    yaw: float
    z: float = 0.0
    parts: list[Part] = field(default_factory=list)

    def world(self, x: float, y: float) -> tuple[float, float]:
        """A point of the piece's frame on the floor plan."""
        c, s = math.cos(self.yaw), math.sin(self.yaw)
        return self.x + c * x - s * y, self.y + s * x + c * y

    def move(self, parts: Iterable[Part]) -> list[Part]:
        """Parts of the piece's frame in the room."""
        return [p.moved((self.x, self.y, self.z), self.yaw) for p in parts]


def corners(x: float, y: float, w: float, d: float, yaw: float) -> Floats:
    """Corners [4, 2] of a rectangle w × d around (x, y)."""
    c, s = math.cos(yaw), math.sin(yaw)
    local = np.array([[-w, -d], [w, -d], [w, d], [-w, d]]) / 2
    return np.asarray(local @ np.array([[c, s], [-s, c]]) + np.array([x, y]))


def before_piece(piece: Piece, x: float, y: float, yaw: float) -> Floats:
    """Corners [4, 2] of what must stay clear before a piece at (x, y)."""
    off = (piece.size[1] + piece.front) / 2
    return corners(x + math.sin(yaw) * off, y - math.cos(yaw) * off, piece.size[0] * 0.8, piece.front, yaw)


def overlaps(one: Floats, many: Floats) -> NDArray[np.bool_]:
    """Whether a rectangle [4, 2] and each of [N, 4, 2] have more than their borders in common: separating axes."""
    out = np.zeros(len(many), bool)
    if len(many) == 0:
        return out
    # Boxes around them first: few are near.
    near = (many.min(1) < one.max(0) - TOLERANCE).all(1) & (many.max(1) > one.min(0) + TOLERANCE).all(1)
    for i in np.flatnonzero(near):
        out[i] = not (_separated(one, many[i]) or _separated(many[i], one))
    return out


def _separated(a: Floats, b: Floats) -> bool:
    """Whether a side of the rectangle a has all of b on its other side."""
    for edge in (a[1] - a[0], a[2] - a[1]):
        axis = edge / math.hypot(edge[0], edge[1])
        p, q = a @ axis, b @ axis
        if q.min() > p.max() - TOLERANCE or p.min() > q.max() - TOLERANCE:
            return True
    return False


class Occupied:
    """A list of rectangles with heights."""

    def __init__(self) -> None:
        self.rectangles: Floats = np.zeros((0, 4, 2))
        self.low: Floats = np.zeros(0)
        self.high: Floats = np.zeros(0)
        self.names: list[str] = []

    def add(self, rectangle: Floats, low: float, high: float, name: str = "") -> None:
        self.rectangles = np.concatenate([self.rectangles, rectangle[None]])
        self.low, self.high = np.append(self.low, low), np.append(self.high, high)
        self.names.append(name)

    def hit(self, rectangle: Floats, low: float, high: float) -> bool:
        near = np.flatnonzero((self.low < high - 1e-6) & (self.high > low + 1e-6))
        return bool(overlaps(rectangle, self.rectangles[near]).any())


@dataclass
class Plan:
    """The floor plan while it is being filled.

    Attributes:
        outline: [K, 2], counter-clockwise, a rectangle from (0, 0) or an L.
        notch: [4, 2], the rectangle that an L lacks, or None.
        solids: What is filled. doors: what must stay clear before them. zones: what should stay clear otherwise,
            before windows, cupboards and beds; a chair at a table may stand there.
    """

    outline: Floats
    height: float
    notch: Floats | None = None
    solids: Occupied = field(default_factory=Occupied)
    doors: Occupied = field(default_factory=Occupied)
    zones: Occupied = field(default_factory=Occupied)
    walls: list[Wall] = field(default_factory=list)

    def __post_init__(self) -> None:
        k = len(self.outline)
        extent = self.extent
        for i in range(k):
            a, b = self.outline[i], self.outline[(i + 1) % k]
            length = float(np.linalg.norm(b - a))
            along = (b - a) / length
            on_border = bool(np.any((np.abs(a - b) < 1e-9) & ((np.abs(a) < 1e-9) | (np.abs(a - extent) < 1e-9))))
            self.walls.append(Wall(b, -along, np.array([-along[1], along[0]]), length, on_border))

    @property
    def extent(self) -> Floats:
        """Width and length of the rectangle around the room."""
        return np.asarray(self.outline.max(0))

    @property
    def area(self) -> float:
        x, y = self.outline.T
        return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)

    def inside(self, rectangle: Floats, margin: float = 0.0) -> bool:
        """Whether a rectangle lies inside the outline, `margin` away from its walls."""
        low, high = rectangle.min(0) - margin, rectangle.max(0) + margin
        if (low < -TOLERANCE).any() or (high > self.extent + TOLERANCE).any():
            return False
        return self.notch is None or not overlaps(rectangle, _grown(self.notch, margin)[None])[0]

    def fits(self, rectangle: Floats, low: float, high: float, zones: bool = True) -> bool:
        """Whether nothing is in the way of something with this footprint from height `low` to `high`."""
        if not self.inside(rectangle) or self.solids.hit(rectangle, low, high) or self.doors.hit(rectangle, low, high):
            return False
        return not (zones and self.zones.hit(rectangle, low, high))

    def fits_piece(self, piece: Piece, x: float, y: float, yaw: float, z: float = 0.0, zones: bool = True) -> bool:
        """Whether the piece fits, with what must be clear before it."""
        w, d, h = piece.size
        if z + h > self.height - 0.01 or not self.fits(corners(x, y, w, d, yaw), z, z + h, zones):
            return False
        if piece.front <= 0:
            return True
        before = before_piece(piece, x, y, yaw)
        return self.inside(before) and not self.solids.hit(before, 0.05, 1.5)

    def place(self, piece: Piece, x: float, y: float, yaw: float, z: float = 0.0) -> Placed:
        """Marks the piece's footprint as filled, and keeps the space before it clear."""
        w, d, h = piece.size
        self.solids.add(corners(x, y, w, d, yaw), z, z + h, piece.name)
        if piece.front > 0:
            self.zones.add(before_piece(piece, x, y, yaw), 0.05, 1.5, piece.name)
        return Placed(piece, x, y, yaw, z)

    # ---------------------------------------------------------------------------------------------- where to put things

    def against(
        self,
        rng: Rng,
        piece: Piece,
        walls: Sequence[Wall] | None = None,
        where: str = "any",
        z: float = 0.0,
        gap: float = 0.015,
        tries: int = 16,
    ) -> tuple[float, float, float, Wall] | None:
        """x, y, yaw, wall of a place with the back to a wall; `where` is any, corner or middle."""
        candidates = [w for w in (walls or self.walls) if w.length >= piece.size[0] + 0.02]
        if not candidates:
            return None
        weight = np.array([w.length - piece.size[0] + 0.1 for w in candidates])
        for _ in range(tries):
            wall = candidates[int(rng.choice(len(candidates), p=weight / weight.sum()))]
            half = piece.size[0] / 2 + 0.01
            u = rng.uniform(half, wall.length - half)
            if where == "corner":
                side = half + abs(rng.normal(0, 0.03))
                u = side if rng.random() < 0.5 else wall.length - side
            elif where == "middle":
                u = float(np.clip(wall.length / 2 + rng.normal(0, 0.12) * wall.length, half, wall.length - half))
            x, y = wall.point(u, piece.size[1] / 2 + gap)
            if self.fits_piece(piece, x, y, wall.yaw, z):
                return x, y, wall.yaw, wall
        return None

    def anywhere(
        self,
        rng: Rng,
        piece: Piece,
        tries: int = 16,
        yaw: float | None = None,
        near_walls: bool = False,
    ) -> tuple[float, float, float] | None:
        """x, y, yaw of a place on the floor; `near_walls` prefers the edges of the room."""
        w, d, _ = piece.size
        for _ in range(tries):
            angle = rng.uniform(0, 2 * math.pi) if yaw is None else yaw
            x, y = rng.uniform(0, 1, 2) * self.extent
            if near_walls:
                wall = self.walls[int(rng.integers(len(self.walls)))]
                x, y = wall.point(rng.uniform(0, wall.length), max(w, d) / 2 + abs(rng.normal(0.02, 0.12)))
            if self.fits_piece(piece, x, y, angle):
                return x, y, angle
        return None

    def spans(self, wall: Wall, depth: float, low: float, high: float) -> list[tuple[float, float]]:
        """Stretches (u0, u1) of a wall before which nothing stands between two heights, longest first."""
        blocked = []
        for occupied in (self.solids, self.doors, self.zones):
            local = occupied.rectangles - wall.origin
            u, off = local @ wall.axis, local @ wall.normal
            near = (off.min(1) < depth) & (off.max(1) > 0.002) & (occupied.low < high) & (occupied.high > low)
            blocked += [(float(u[i].min()), float(u[i].max())) for i in np.flatnonzero(near)]
        if self.notch is not None:
            local = self.notch - wall.origin
            u, off = local @ wall.axis, local @ wall.normal
            if off.min() < depth and off.max() > 0.002:
                blocked.append((float(u.min()), float(u.max())))
        out, at = [], 0.0
        for a, b in [*sorted(blocked), (wall.length, wall.length)]:
            if a - at > 0.05:
                out.append((at, a))
            at = max(at, b)
        return sorted(out, key=lambda s: s[0] - s[1])

    def free_points(self, rng: Rng, spacing: float = 0.22) -> Floats:
        """Places [P, 2] on the floor where a camera may stand; near walls and corners too."""
        xs = np.arange(0.18, self.extent[0] - 0.1, spacing)
        ys = np.arange(0.18, self.extent[1] - 0.1, spacing)
        grid = np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 2)
        grid = grid + rng.uniform(-0.05, 0.05, grid.shape)
        tall = self.solids.rectangles[(self.solids.high > 0.3) & (self.solids.low < 1.9)]
        if self.notch is not None:
            tall = np.concatenate([tall, self.notch[None]])
        for margin in (0.16, 0.08, 0.02):
            keep = np.ones(len(grid), bool)
            for rectangle in tall:
                x, y = rectangle[1] - rectangle[0], rectangle[3] - rectangle[0]
                local = grid - rectangle[0]
                w, d = math.hypot(*x), math.hypot(*y)
                u, v = local @ (x / w), local @ (y / d)
                keep &= (u < -margin) | (u > w + margin) | (v < -margin) | (v > d + margin)
            if keep.sum() >= 8:
                break
        if keep.any():
            return np.asarray(grid[keep])
        # A room crammed full: the middle of its longest wall.
        return np.array([max(self.walls, key=lambda w: w.length).point(1.0, 0.4)])


def _grown(rectangle: Floats, margin: float) -> Floats:
    low, high = rectangle.min(0) - margin, rectangle.max(0) + margin
    return np.array([[low[0], low[1]], [high[0], low[1]], [high[0], high[1]], [low[0], high[1]]])


# -------------------------------------------------------------------------------------------------- things on surfaces


def find_on(
    rng: Rng, surface: Top, w: float, d: float, edge: str = "any", tries: int = 10
) -> tuple[float, float] | None:
    """A free place for a footprint w × d on a surface, in the piece's frame; marks it as filled.

    Args:
        edge: any, back (towards +y), front, or left or right.
    """
    rows, columns = max(1, math.ceil(d / CELL)), max(1, math.ceil(w / CELL))
    height, width = surface.free.shape
    if rows > height or columns > width:
        return None
    for _ in range(tries):
        i, j = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
        if edge == "back":
            i = max(0, height - rows - int(abs(rng.normal(0, 2))))
        elif edge == "front":
            i = min(height - rows, int(abs(rng.normal(0, 2))))
        elif edge == "left":
            j = min(width - columns, int(abs(rng.normal(0, 2))))
        elif edge == "right":
            j = max(0, width - columns - int(abs(rng.normal(0, 2))))
        cells = surface.free[i : i + rows, j : j + columns]
        if cells.all():
            cells[:] = False
            return surface.x + (j + columns / 2) * CELL, surface.y + (i + rows / 2) * CELL
    return None


def height_map(parts: Iterable[Part], size: tuple[float, float, float], cell: float = CELL) -> Floats:
    """Height of the highest surface above each cell [rows, columns] of a piece's footprint, 0 where there is none.

    Triangles are sampled densely enough that no cell inside one is missed.
    """
    columns, rows = max(1, round(size[0] / cell)), max(1, round(size[1] / cell))
    out = np.zeros((rows, columns))
    for part in parts:
        corners_of = np.asarray(part.vertices, np.float64)[part.faces]  # [F, 3, 3]
        flat = corners_of[..., :2]
        reach = np.linalg.norm(flat - np.roll(flat, 1, axis=1), axis=2).max(1)
        steps = np.clip(np.ceil(reach / (cell * 0.7)), 1, 160).astype(int)
        # Groups of powers of two, so that there are few of them.
        steps = 2 ** np.ceil(np.log2(steps)).astype(int)
        for n in np.unique(steps):
            triangles = corners_of[steps == n]
            i, j = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
            inside = i + j <= n
            weights = np.column_stack([i[inside], j[inside], n - i[inside] - j[inside]]) / n
            for chunk in np.array_split(triangles, max(1, len(triangles) * len(weights) // 400_000)):
                points = np.einsum("sk,fkc->fsc", weights, chunk).reshape(-1, 3)
                column = np.floor((points[:, 0] + size[0] / 2) / cell).astype(int)
                row = np.floor((points[:, 1] + size[1] / 2) / cell).astype(int)
                ok = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
                np.maximum.at(out, (row[ok], column[ok]), points[ok, 2])
    return out


def level_top(heights: Floats, size: tuple[float, float, float], kind: str, lowest: float = 0.2) -> Top | None:
    """The largest level surface of a height map, as something to put things on; None if there is none."""
    values = heights[heights > lowest]
    if len(values) < 40:
        return None
    counts, edges = np.histogram(values, bins=np.arange(lowest, values.max() + 0.03, 0.015))
    level = edges[int(counts.argmax())]
    near = (heights > level - 0.02) & (heights < level + 0.03)
    if near.sum() < 0.2 * heights.size:
        return None
    z = float(np.median(heights[near]))
    free = np.abs(heights - z) < 0.008
    # Cells at the rim may hang over.
    inner = free.copy()
    inner[:-1] &= free[1:]
    inner[1:] &= free[:-1]
    inner[:, :-1] &= free[:, 1:]
    inner[:, 1:] &= free[:, :-1]
    return Top(-size[0] / 2, -size[1] / 2, z, inner, kind=kind)
