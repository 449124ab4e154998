"""What a furnished room is made of: the words that the catalogue, the planner and the renderer share.

world      x, y on the floor, z up, metres, right-handed; the floor is at z = 0
piece      in its own frame: footprint centred on (0, 0), lowest point at z = 0, back towards +y, front towards -y;
           turned counter-clockwise about z by `yaw` (radians), then moved
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.classes import NYU40

Floats = NDArray[np.floating[Any]]

CLASS_ID = {c.name: c.id for c in NYU40}


@dataclass(frozen=True)
class Finish:
    """How a surface looks.

    Attributes:
        texture: sRGB picture, uint8 [h, w, 3], row 0 at v = 1; or None where the part's `color` holds.
        roughness: 0 (polished) to 1 (matt).
        metallic: 0 or 1; between them only at the edge of textures.
        specular: Reflection at normal incidence of what is not metal; 0.5 is common, 0 is chalk.
        emission: Radiance that the surface gives off, linear RGB, in the unit of `Light.radiance`; (0, 0, 0) = none.
        mirror: A perfect mirror; colour and texture do not matter then.
    """

    texture: NDArray[np.uint8] | None = None
    roughness: float = 0.6
    metallic: float = 0.0
    specular: float = 0.3
    emission: tuple[float, float, float] = (0.0, 0.0, 0.0)
    mirror: bool = False


MATT = Finish()


@dataclass(frozen=True)
class Part:
    """A triangle mesh with one finish.

    Attributes:
        vertices: float32 [V, 3] in metres.
        faces: int32 [F, 3], indices of vertices.
        label: uint8 [F], class id of NYU-40 of each face.
        color: float32 [F, 3], linear reflectance 0 to 1 of each face, where there is no texture.
        uv: float32 [V, 2] where there is a texture: units of whole textures, which repeat.
        finish: Of all faces.
    """

    vertices: Floats
    faces: NDArray[np.int32]
    label: NDArray[np.uint8]
    color: Floats
    uv: Floats | None = None
    finish: Finish = MATT

    def moved(self, position: tuple[float, float, float], yaw: float, scale: float = 1.0) -> Part:
        """The part scaled, turned and moved into another frame."""
        cos, sin = math.cos(yaw), math.sin(yaw)
        turn = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
        vertices = (scale * np.asarray(self.vertices, np.float64)) @ turn.T + np.asarray(position)
        return replace(self, vertices=vertices.astype(np.float32))


@dataclass(frozen=True)
class Model:
    """A piece of furniture of the catalogue, without its mesh.

    Attributes:
        key: Unique and stable.
        use: What the planner asks for, e.g. `bed.double`, `chair.office`, `lamp.ceiling`, `sink.kitchen`.
        class_name: Its class of NYU-40 (parts of it may have others: the pillows of a bed).
        size: Width (x), depth (y), height (z) in metres.
        elevation: Usual height of its lowest point above the floor, metres.
        held_out: Kept for the validation and test rooms; no training room has it.
        author, license: For the attribution.
    """

    key: str
    name: str
    use: str
    class_name: str
    size: tuple[float, float, float]
    elevation: float
    held_out: bool
    author: str
    license: str


@dataclass(frozen=True)
class Light:
    """A rectangle that gives light from its front, or a small sphere where `half_extent` has one number.

    Attributes:
        position: Of the centre, metres.
        normal: Direction of the light, unit vector (of rectangles).
        half_extent: Half the sides of the rectangle, or the radius of the sphere, metres.
        radiance: Linear RGB; 1 is the radiance of a white wall in a normally lit room, the picture is metered later.
    """

    position: tuple[float, float, float]
    normal: tuple[float, float, float]
    half_extent: tuple[float, ...]
    radiance: tuple[float, float, float]


@dataclass(frozen=True)
class Object:
    """Something in the room, in world coordinates.

    Attributes:
        name: For people, e.g. `bed.double`.
        parts: Its meshes, already moved into the world.
        model: Key of the catalogue's model, or None for simple shapes; what is attributed and held out.
        furniture: Whether a view needs it: furniture counts, walls, floor and ceiling do not.
    """

    name: str
    parts: tuple[Part, ...]
    model: str | None = None
    furniture: bool = True


@dataclass(frozen=True)
class Room:
    """A furnished room.

    Attributes:
        kind: `bedroom`, `living room`, ...
        outline: [K, 2], corners of the floor, counter-clockwise; may be L-shaped.
        height: Of the ceiling, metres.
        objects: Everything with a surface: walls, floor, ceiling, skirting, furniture, clutter.
        lights: Lamps and windows. Surfaces with `Finish.emission` are only seen, they need not light the room.
        lighting: A word for people: `day`, `evening`, `mixed`, `dim`, `backlit`.
        free: [P, 2], places on the floor where a camera may stand, away from walls and furniture.
    """

    kind: str
    outline: Floats
    height: float
    objects: tuple[Object, ...]
    lights: tuple[Light, ...]
    lighting: str
    free: Floats
    notes: dict[str, Any] = field(default_factory=dict)
