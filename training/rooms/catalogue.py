"""Furniture for the rooms: the models of Sweet Home 3D's free libraries, by a table from entry to use and class.

The libraries are `.sh3f` files: zip archives with OBJ models and `PluginFurnitureCatalog.properties`, which gives each
entry's name, model, author and size (https://www.sweethome3d.com/importModels.jsp, Debian's package
`sweethome3d-furniture`). `furniture.csv` says which entries are used and as what, one line each:

    key        library/entry
    name       for people
    use        what the planner asks for
    class      of NYU-40
    materials  parts that are something else, `pattern=class` with blanks between them; patterns match the names of
               materials as in a shell. Instead of a class: `-` leaves the faces out, `glow` is the shade or the
               bulb of a lamp (its emission is GLOW times its colour; a planner may scale it)
    turn       degrees counter-clockwise, seen from above, until the front looks to -y
    scale      of models that are too large in their library
    comment    for people

`prepare` converts the models once into a folder of `.npz` files; a `Catalogue` reads them from there.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import hashlib
import io
import json
import math
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.folder import Split, atomic, write_json
from training.rooms.scene import CLASS_ID, Finish, Floats, Model, Part

VERSION = 1
"""Raised whenever the conversion changes, so that no cache of an older one is used."""
TABLE = Path(__file__).with_name("furniture.csv")
MAX_FACES = 60_000
MAX_TEXTURE = 256  # pixels
HELD_OUT = 0.15
KEPT_IN_MEMORY = 200  # models
GLOW = 0.4

Progress = Callable[[int, int], None]
"""Called with the number of models done and of all."""


class FurnitureError(Exception):
    """Furniture that is missing or cannot be used; the message is one line that says what to do."""


# ---------------------------------------------------------------------------------------------- libraries and licences

LICENSES = {
    "CC0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "CC-BY-3.0": "https://creativecommons.org/licenses/by/3.0/",
    "CC-BY-3.0-US": "https://creativecommons.org/licenses/by/3.0/us/",
}
"""The licences that are used, by SPDX identifier, with their addresses."""


@dataclass(frozen=True)
class Library:
    """A furniture library: what its LICENSE.TXT says.

    Attributes:
        title: For the attribution.
        license: Of its models; those of Blend Swap come with a licence file each, which has the last word.
        author: Whom the licence wants named; None where each entry has its own author.
        address: Where the models are from.
    """

    title: str
    license: str
    author: str | None
    address: str


LIBRARIES = {
    "BlendSwap-CC-0": Library("Blend Swap CC-0", "CC0-1.0", None, "http://www.blendswap.com"),
    "BlendSwap-CC-BY": Library("Blend Swap CC-BY", "CC-BY-3.0", None, "http://www.blendswap.com"),
    "KatorLegaz": Library(
        "Kator Legaz catalog", "CC-BY-3.0-US", "Andrew Kator & Jennifer Legaz", "http://www.katorlegaz.com"
    ),
    "Reallusion": Library("Reallusion catalog", "CC-BY-3.0-US", "Reallusion", "http://www.reallusion.com"),
    "Scopia": Library(
        "Scopia catalog",
        "CC-BY-3.0",
        "Emmanuel Puybaret / eTeks <info@eteks.com> and Scopia Visual Interfaces Systems, s.l.",
        "http://www.scopia.es",
    ),
}


def read_properties(content: bytes) -> dict[str, str]:
    """A Java properties file: Latin-1 with `\\uXXXX` escapes, `#` comments, lines continued by a backslash."""
    text = re.sub(r"\\\r?\n[ \t]*", "", content.decode("latin-1"))
    values = {}
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and not name.startswith(("#", "!")):
            value = value.strip()
            values[name.strip()] = codecs.decode(value, "unicode_escape") if "\\" in value else value
    return values


def read_entries(archive: zipfile.ZipFile) -> dict[str, dict[str, str]]:
    """The entries of a library by the last part of their id (`Scopia#bed1` is `bed1`)."""
    properties = read_properties(archive.read("PluginFurnitureCatalog.properties"))
    numbers = {name[3:]: value.rpartition("#")[2] for name, value in properties.items() if name.startswith("id#")}
    entries: dict[str, dict[str, str]] = {entry: {} for entry in numbers.values()}
    for name, value in properties.items():
        kind, _, number = name.partition("#")
        if number in numbers:
            entries[numbers[number]][kind] = value
    return entries


def own_license(archive: zipfile.ZipFile, folder: str) -> tuple[str, str] | None:
    """Licence and address of a Blend Swap model by the licence file in its folder; None where there is none."""
    for name in archive.namelist():
        if name.startswith(f"{folder}/") and "licen" in PurePosixPath(name).name.lower():
            text = archive.read(name).decode("utf-8", "replace")
            view = re.search(r"blendswap\.com/blends?/(?:view/)?(\d+)|Blend #(\d+)", text)
            address = f"http://www.blendswap.com/blends/view/{view[1] or view[2]}" if view else ""
            if re.search(r"Creative Commons Zero|CC-0|CC-Zero|publicdomain/zero", text):
                return "CC0-1.0", address
            if re.search(r"Creative Commons Attribution 3\.0|licenses/by/3\.0", text):
                return "CC-BY-3.0", address
            raise FurnitureError(f"{archive.filename}: {name} names no licence that is known here; leave the model out")
    return None


# ------------------------------------------------------------------------------------------------------- the table


@dataclass(frozen=True)
class Row:
    """A line of the table; see the top of this file."""

    key: str
    name: str
    use: str
    class_name: str
    materials: tuple[tuple[str, str], ...]
    turn: float
    scale: float


def read_table(path: Path | None = None) -> list[Row]:
    """The table of the furniture (`furniture.csv`, if no other), checked.

    Raises:
        FurnitureError: an unknown class, a key twice, or a line that is not of the form above.
    """
    path = path or TABLE
    rows: list[Row] = []
    with path.open(newline="", encoding="utf-8") as file:
        for number, line in enumerate(csv.DictReader(file), 2):
            try:
                pairs = [pair.rpartition("=") for pair in line["materials"].split()]
                materials = tuple((pattern.lower(), meaning.replace("_", " ")) for pattern, _, meaning in pairs)
                turn, scale = float(line["turn"] or 0), float(line["scale"] or 1)
                row = Row(line["key"], line["name"], line["use"], line["class"], materials, turn, scale)
            except (KeyError, AttributeError, TypeError, ValueError) as error:
                raise FurnitureError(f"{path}:{number}: not a line of the table ({error!r})") from None
            for name in (row.class_name, *(meaning for _, meaning in materials if meaning not in ("-", "glow"))):
                if name not in CLASS_ID:
                    raise FurnitureError(f"{path}:{number}: '{name}' is no class of NYU-40")
            if not all(pattern for pattern, _ in materials):
                raise FurnitureError(f"{path}:{number}: materials are given as pattern=class")
            rows.append(row)
    if twice := sorted({row.key for row in rows if sum(other.key == row.key for other in rows) > 1}):
        raise FurnitureError(f"{path}: {twice[0]} is there twice")
    return rows


def held_out(uses: dict[str, str], share: float = HELD_OUT) -> set[str]:
    """The keys kept for validation and test, about `share` of every use, never a use's only one.

    Args:
        uses: Use by key.

    The order of their hashes decides, so that it is as good as random and always the same. Uses too small for a share
    of their own give together with their relatives (the uses that begin with the same word).
    """

    def ordered(keys: Iterable[str]) -> list[str]:
        return sorted(keys, key=lambda key: hashlib.sha256(key.encode()).digest())

    by_use: dict[str, list[str]] = {}
    families: dict[str, list[str]] = {}
    for key in ordered(uses):
        by_use.setdefault(uses[key], []).append(key)
        families.setdefault(uses[key].partition(".")[0], []).append(key)
    chosen = {key for keys in by_use.values() for key in keys[: round(share * len(keys))]}
    for keys in families.values():
        lacking = round(share * len(keys)) - len(chosen.intersection(keys))
        for key in keys:
            left = [other for other in by_use[uses[key]] if other not in chosen]
            if lacking > 0 and key in left and len(left) > 1:
                chosen.add(key)
                lacking -= 1
    return chosen


# ------------------------------------------------------------------------------------------------------ OBJ and MTL


@dataclass
class Material:
    """What is used of a material of an MTL file; colours as they are written, between 0 and 1."""

    color: tuple[float, float, float] = (0.7, 0.7, 0.7)
    specular: float = 0.0
    shininess: float = 0.0
    opacity: float = 1.0
    texture: str | None = None


@dataclass
class Mesh:
    """An OBJ file: `corner` and `corner_uv` [F, 3] index `vertices` [V, 3] and `uv` [T, 2] (-1 = no coordinates)."""

    vertices: Floats
    uv: Floats
    corner: NDArray[np.int32]
    corner_uv: NDArray[np.int32]
    material: NDArray[np.int32]
    names: list[str] = field(default_factory=list)
    libraries: list[str] = field(default_factory=list)


def read_obj(text: str) -> Mesh:
    """Reads an OBJ file; polygons are cut into triangles as fans."""
    vertices: list[list[str]] = []
    uv: list[list[str]] = []
    corner: list[tuple[int, int, int]] = []
    corner_uv: list[tuple[int, int, int]] = []
    material: list[int] = []
    names: dict[str, int] = {}
    libraries: list[str] = []
    current = names.setdefault("", 0)
    for line in text.replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "v":
            vertices.append(rest.split()[:3])
        elif word == "vt":
            uv.append(rest.split()[:2])
        elif word == "f":
            points = [point.split("/") for point in rest.split()]
            v = [int(point[0]) for point in points]
            t = [int(point[1]) if len(point) > 1 and point[1] else 0 for point in points]
            # Numbers count from 1, or backwards from the latest; 0 stands for none and becomes -1.
            v = [n - 1 if n > 0 else len(vertices) + n for n in v]
            t = [n - 1 if n >= 0 else len(uv) + n for n in t]
            for k in range(1, len(v) - 1):
                corner.append((v[0], v[k], v[k + 1]))
                corner_uv.append((t[0], t[k], t[k + 1]))
                material.append(current)
        elif word == "usemtl":
            current = names.setdefault(rest.strip(), len(names))
        elif word == "mtllib":
            libraries.append(rest.strip())
    return Mesh(
        np.array(vertices, np.float64).reshape(-1, 3),
        np.array(uv, np.float64).reshape(-1, 2),
        np.array(corner, np.int32).reshape(-1, 3),
        np.array(corner_uv, np.int32).reshape(-1, 3),
        np.array(material, np.int32),
        list(names),
        libraries,
    )


def read_mtl(text: str) -> dict[str, Material]:
    """Reads an MTL file."""
    materials: dict[str, Material] = {}
    material = Material()
    for line in text.splitlines():
        word, _, rest = line.strip().partition(" ")
        rest = rest.strip()
        if word == "newmtl":
            material = materials[rest] = Material()
        elif word == "Kd":
            r, g, b = (min(max(float(x), 0.0), 1.0) for x in rest.split()[:3])
            material.color = r, g, b
        elif word == "Ks":
            material.specular = sum(float(x) for x in rest.split()[:3]) / 3
        elif word == "Ns":
            material.shininess = float(rest.split()[0])
        elif word == "d":
            material.opacity = float(rest.split()[-1])
        elif word == "map_Kd":
            material.texture = rest
    return materials


# ---------------------------------------------------------------------------------------------------------- the parts


def to_linear(srgb: Floats) -> Floats:
    """Linear values of sRGB ones, 0 to 1."""
    return np.asarray(np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4))


METALS = re.compile(r"chrom|metal|steel|inox|alumin|silver", re.IGNORECASE)
PAINTED = re.compile(r"white|black|paint|plastic", re.IGNORECASE)


def is_metal(name: str, material: Material) -> bool:
    """Whether a material is bare metal, by its name and its grey."""
    grey = max(material.color) - min(material.color) < 0.1 and not material.texture
    return grey and bool(METALS.search(name)) and not PAINTED.search(name)


def finish_of(name: str, material: Material) -> Finish:
    """Roughness and reflection from what an MTL file says. Few different ones, for every one is a mesh to render."""
    if is_metal(name, material):
        return Finish(roughness=0.3, metallic=1.0)
    if material.opacity < 0.6:
        return Finish(roughness=0.1, specular=0.5)
    if material.specular > 0.3 and material.shininess > 60:
        return Finish(roughness=0.25, specular=0.5)
    return Finish()


def read_texture(content: bytes) -> NDArray[np.uint8]:
    """A texture of at most MAX_TEXTURE pixels; what is transparent takes the mean colour of the rest."""
    with Image.open(io.BytesIO(content)) as opened:
        picture = opened.convert("RGBA")
    picture.thumbnail((MAX_TEXTURE, MAX_TEXTURE), Image.Resampling.BOX)
    rgba = np.asarray(picture, np.float64)
    alpha = rgba[..., 3:] / 255
    mean = (rgba[..., :3] * alpha).sum((0, 1)) / max(alpha.sum(), 1e-9)
    return np.asarray(np.round(rgba[..., :3] * alpha + mean * (1 - alpha)), np.uint8)


def normalised(
    vertices: Floats, size: tuple[float, float, float], rotation: Floats | None, turn: float
) -> tuple[Floats, tuple[float, float, float]]:
    """The vertices of a model in the frame of the piece, and the size of the piece after its turn, in metres.

    Args:
        vertices: [V, 3] as in the OBJ file: y is up and the front looks to +z.
        size: Width, depth and height that the catalogue gives the model, metres.
        rotation: [3, 3], the catalogue's `modelRotation`, which comes before everything else.
        turn: Degrees, counter-clockwise from above.
    """
    if rotation is not None:
        vertices = vertices @ rotation.T
    low, high = vertices.min(0), vertices.max(0)
    scale = np.array([size[0], size[2], size[1]]) / np.maximum(high - low, 1e-9)
    x, y, z = ((vertices - [(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2]) * scale).T
    piece = np.stack([x, -z, y], 1)
    cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    piece[:, :2] = piece[:, :2] @ np.array([[cos, sin], [-sin, cos]])
    extent = piece.max(0) - piece.min(0)
    piece[:, :2] -= (piece[:, :2].max(0) + piece[:, :2].min(0)) / 2
    return piece, (float(extent[0]), float(extent[1]), float(extent[2]))


def meaning_of(name: str, row: Row) -> str:
    """What the faces of a material are: a class, `-` or `glow`."""
    return next((meaning for pattern, meaning in row.materials if fnmatchcase(name.lower(), pattern)), row.class_name)


def color_of(name: str, material: Material) -> Floats:
    """Linear reflectance [3] of a material without texture. Nothing in a house is blacker than 1 % or whiter than 90 %.

    Metals reflect at least a third, however dark they were drawn to look without anything to mirror.
    """
    color = to_linear(np.array(material.color))
    return np.asarray(np.clip(0.35 + 0.5 * color if is_metal(name, material) else color, 0.01, 0.9))


def make_parts(
    mesh: Mesh, piece: Floats, materials: dict[str, Material], row: Row, textures: Callable[[str], NDArray[np.uint8]]
) -> list[Part]:
    """One part for all faces of a texture, and one for all faces without texture that have the same finish.

    Args:
        piece: [V, 3], the mesh's vertices in the frame of the piece.
        textures: Gives the picture of a `map_Kd`.
    """
    corner, keep = clean(piece, mesh.corner)
    corner_uv, material_of = mesh.corner_uv[keep], mesh.material[keep]
    placed = (corner_uv >= 0).all(1)
    groups: dict[tuple[Finish, str | None], NDArray[np.bool_]] = {}
    label, color = np.zeros(len(mesh.names), np.uint8), np.zeros((len(mesh.names), 3), np.float32)
    for index, name in enumerate(mesh.names):
        material, meaning = materials.get(name, Material()), meaning_of(name, row)
        mine = material_of == index
        if meaning == "-" or not mine.any():
            continue
        finish = finish_of(name, material)
        color[index] = color_of(name, material)
        label[index] = CLASS_ID[row.class_name if meaning == "glow" else meaning]
        if meaning == "glow":
            r, g, b = (GLOW if material.texture else GLOW * float(x) for x in color[index])
            finish = replace(finish, emission=(r, g, b))
        if meaning == "mirror":
            finish = Finish(mirror=True)
        texture = None if finish.mirror else material.texture
        for picture, faces in ((texture, mine & placed), (None, mine & ~placed)) if texture else ((None, mine),):
            groups[finish, picture] = groups.get((finish, picture), np.zeros_like(mine)) | faces

    parts = []
    for (finish, texture), chosen in groups.items():
        if not chosen.any():
            continue
        uv = None
        if texture is None:
            used, faces = np.unique(corner[chosen], return_inverse=True)
            vertices = piece[used]
        else:
            pairs = np.stack([corner[chosen].ravel(), corner_uv[chosen].ravel()])
            pairs, faces = np.unique(pairs, axis=1, return_inverse=True)
            vertices, uv = piece[pairs[0]], mesh.uv[pairs[1]].astype(np.float32)
            finish = replace(finish, texture=textures(texture))
        parts.append(
            Part(
                vertices.astype(np.float32),
                faces.reshape(-1, 3).astype(np.int32),
                label[material_of[chosen]],
                color[material_of[chosen]],
                uv,
                finish,
            )
        )
    return parts


def clean(vertices: Floats, corner: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
    """Faces [F', 3] whose corners share vertices at the same place, and which of the faces they are [F'].

    Left out are faces without area, and all but the first of faces at the same place: many models have everything
    twice, once from each side. Shared corners let curved surfaces be shaded as smooth.
    """
    _, first, same = np.unique(np.round(vertices, 4), axis=0, return_index=True, return_inverse=True)
    merged = first[same.reshape(-1)][corner].astype(np.int32)
    ordered = np.sort(merged, axis=1)
    _, keep = np.unique(ordered, axis=0, return_index=True)
    keep = np.sort(keep)
    keep = keep[(ordered[keep, 0] < ordered[keep, 1]) & (ordered[keep, 1] < ordered[keep, 2])]
    return merged[keep], keep


# --------------------------------------------------------------------------------------------------------- the cache


def _rotation(entry: dict[str, str]) -> Floats | None:
    text = entry.get("modelRotation")
    return np.array(text.split(), np.float64).reshape(3, 3) if text else None


def convert(archive: zipfile.ZipFile, entry: dict[str, str], row: Row) -> tuple[list[Part], tuple[float, float, float]]:
    """The parts and the size of an entry of a library."""
    path = PurePosixPath(entry["model"].lstrip("/"))
    contents = {name.lower(): name for name in archive.namelist()}

    def read(name: str) -> bytes | None:
        found = contents.get(os.path.normpath(path.parent / name.replace("\\", "/")).lower())
        return archive.read(found) if found else None

    mesh = read_obj(archive.read(str(path)).decode("utf-8", "replace"))
    materials: dict[str, Material] = {}
    for name in mesh.libraries:
        if (content := read(name)) is not None:
            materials.update(read_mtl(content.decode("utf-8", "replace")))
    pictures: dict[str, NDArray[np.uint8]] = {}
    for material in materials.values():
        if material.texture and material.texture not in pictures:
            content = read(material.texture)
            if content is None:
                material.texture = None
            else:
                pictures[material.texture] = read_texture(content)
    width, depth, height = (row.scale * float(entry[name]) / 100 for name in ("width", "depth", "height"))
    piece, size = normalised(mesh.vertices, (width, depth, height), _rotation(entry), row.turn)
    return make_parts(mesh, piece, materials, row, pictures.__getitem__), size


def save_parts(path: Path, parts: Sequence[Part]) -> None:
    """Writes parts to one `.npz` file, which appears complete or not at all."""
    arrays: dict[str, Any] = {"parts": np.array(len(parts))}
    for number, part in enumerate(parts):
        f = part.finish
        for name in ("vertices", "faces", "label", "color", "uv"):
            if (value := getattr(part, name)) is not None:
                arrays[f"{name}{number}"] = value
        if f.texture is not None:
            arrays[f"texture{number}"] = f.texture
        arrays[f"finish{number}"] = np.array([f.roughness, f.metallic, f.specular, *f.emission, f.mirror])
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def load_parts(path: Path) -> tuple[Part, ...]:
    """Reads what `save_parts` wrote."""
    with path.open("rb") as stored, np.load(stored) as file:
        parts = []
        for number in range(int(file["parts"])):

            def get(name: str, number: int = number) -> Any:
                return file[f"{name}{number}"] if f"{name}{number}" in file.files else None

            roughness, metallic, specular, red, green, blue, mirror = (float(x) for x in get("finish"))
            finish = Finish(get("texture"), roughness, metallic, specular, (red, green, blue), bool(mirror))
            parts.append(Part(get("vertices"), get("faces"), get("label"), get("color"), get("uv"), finish))
    return tuple(parts)


def fingerprint(furniture: Path) -> str:
    """Changes with the conversion, the table and the libraries."""
    parts = [str(VERSION), TABLE.read_text(encoding="utf-8")]
    parts += [f"{name} {(furniture / f'{name}.sh3f').stat().st_size}" for name in sorted(LIBRARIES)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def find_libraries(furniture: Path) -> None:
    """Checks that the libraries are there.

    Raises:
        FurnitureError: one is missing.
    """
    for name in LIBRARIES:
        if not (furniture / f"{name}.sh3f").is_file():
            raise FurnitureError(
                f"{furniture} has no {name}.sh3f; apt-get install sweethome3d-furniture, "
                "then --furniture /usr/share/sweethome3d/furniture"
            )


def file_of(cache: Path, key: str) -> Path:
    """Where the parts of a model are kept."""
    return cache / f"{key.replace('/', '.')}.npz"


@contextlib.contextmanager
def _intact(library: str | Path | None) -> Iterator[None]:
    """Says in one line which library cannot be read, such as one of which half was downloaded."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        advice = "apt-get install --reinstall sweethome3d-furniture"
        raise FurnitureError(f"{library} is damaged ({error}); {advice}") from None


def read_index(cache: Path) -> dict[str, Any]:
    """What `prepare` wrote about the models of a cache.

    Raises:
        FurnitureError: the folder was not prepared, or its index is damaged.
    """
    index = cache / "index.json"
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FurnitureError(f"{cache}: no prepared furniture; see training.rooms.catalogue.prepare") from None
    except ValueError as error:
        raise FurnitureError(f"{index} is damaged ({error}); delete it, and the next run makes it anew") from None
    if not (isinstance(content, dict) and content.keys() >= {"fingerprint", "models"}):
        raise FurnitureError(f"{index} is no index of furniture; delete it, and the next run makes it anew")
    return content


def prepare(furniture: Path, cache: Path, progress: Progress | None = None) -> None:
    """Converts all models of the table into files in `cache`, unless they are there.

    Args:
        furniture: Folder of the `.sh3f` files.

    Raises:
        FurnitureError: missing or damaged libraries, or a table that does not fit them.
    """
    find_libraries(furniture)
    mark = fingerprint(furniture)
    index = cache / "index.json"
    with contextlib.suppress(FurnitureError):  # without an index, or with a damaged one, everything is made anew
        if read_index(cache)["fingerprint"] == mark:
            return
    cache.mkdir(parents=True, exist_ok=True)
    index.unlink(missing_ok=True)
    rows = read_table()
    described = []
    for done, (row, archive, entry) in enumerate(_entries(furniture, rows)):
        if progress:
            progress(done, len(rows))
        library = LIBRARIES[row.key.partition("/")[0]]
        with _intact(archive.filename):
            own = own_license(archive, str(PurePosixPath(entry["model"].lstrip("/")).parent)) or (library.license, "")
            parts, size = convert(archive, entry, row)
        if not 0 < sum(len(part.faces) for part in parts) <= MAX_FACES:
            continue
        save_parts(file_of(cache, row.key), parts)
        author = library.author or entry.get("creator") or "unknown"
        elevation = float(entry.get("elevation") or 0) / 100
        model = Model(row.key, entry["name"], row.use, row.class_name, size, elevation, False, author, own[0])
        described.append({**asdict(model), "address": own[1] or library.address})
    kept = held_out({str(model["key"]): str(model["use"]) for model in described})
    for model_ in described:
        model_["held_out"] = model_["key"] in kept
    described.sort(key=lambda model: str(model["key"]))
    write_json(index, {"fingerprint": mark, "models": described})


def _entries(furniture: Path, rows: Sequence[Row]) -> Iterator[tuple[Row, zipfile.ZipFile, dict[str, str]]]:
    for name in LIBRARIES:
        path = furniture / f"{name}.sh3f"
        with _intact(path), zipfile.ZipFile(path) as archive:
            entries = read_entries(archive)
            for row in rows:
                library, _, entry = row.key.partition("/")
                if library == name:
                    if entry not in entries:
                        raise FurnitureError(f"{TABLE.name}: {archive.filename} has no entry '{entry}'")
                    yield row, archive, entries[entry]


class Catalogue:
    """The prepared furniture.

    Raises:
        FurnitureError: the folder was not prepared, or its index is damaged.
    """

    def __init__(self, cache: Path) -> None:
        content = read_index(cache)
        self.cache = cache
        self.fingerprint = str(content["fingerprint"])
        self.addresses = {model["key"]: model.pop("address") for model in content["models"]}
        models = [Model(**{**model, "size": tuple(model["size"])}) for model in content["models"]]
        self.models = tuple(sorted(models, key=lambda model: model.key))
        self.parts: Callable[[Model], tuple[Part, ...]] = lru_cache(KEPT_IN_MEMORY)(self._parts)

    def of(self, use: str, split: Split) -> tuple[Model, ...]:
        """The models for a use, or for any use that begins with it and a dot.

        In training rooms those that are not held out; in the others those that are, or all where none is.
        """
        fitting = [model for model in self.models if model.use == use or model.use.startswith(f"{use}.")]
        chosen = [model for model in fitting if model.held_out == (split != "train")]
        return tuple(chosen if split == "train" else chosen or fitting)

    def _parts(self, model: Model) -> tuple[Part, ...]:
        path = file_of(self.cache, model.key)
        try:
            return load_parts(path)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            advice = f"delete {self.cache / 'index.json'}, and the next run makes it anew"
            raise FurnitureError(f"{path} is missing or damaged ({error}); {advice}") from None
