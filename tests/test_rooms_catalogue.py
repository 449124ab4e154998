"""The furniture: reading its files, the table, licences, and the folder of converted models."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.rooms import catalogue
from training.rooms.catalogue import Catalogue, FurnitureError, Material, Row
from training.rooms.scene import CLASS_ID, Finish, Part

FURNITURE = Path("/usr/share/sweethome3d/furniture")
needs_furniture = pytest.mark.skipif(
    not (FURNITURE / "Scopia.sh3f").is_file(), reason="no furniture: apt-get install sweethome3d-furniture"
)

# A chair as Sweet Home 3D has them: y is up, the seat is a plate, the back is at -z.
CHAIR = """
mtllib chair.mtl
v 0 0 0
v 2 0 0
v 2 1 0
v 0 1 0
v 0 0 4
v 2 0 4
vt 0 0
vt 1 0
vt 1 1
vt 0 1
usemtl back
f 1/1 2/2 3/3 4/4
usemtl seat
f 1 2 6 5
f 1 5 6 2
"""
CHAIR_MTL = """
newmtl back
Kd 1 1 1
map_Kd back.png
newmtl seat
Kd 0.5 0.5 0.5
Ks 0 0 0
Ns 10
d 1
"""


def row(**changes: object) -> Row:
    values: dict[str, object] = {
        "key": "Scopia/chair",
        "name": "Chair",
        "use": "chair.dining",
        "class_name": "chair",
        "materials": (),
        "turn": 0.0,
        "scale": 1.0,
    }
    return Row(**{**values, **changes})  # type: ignore[arg-type]


def png(width: int = 4, height: int = 2, alpha: int = 255) -> bytes:
    content = io.BytesIO()
    picture = Image.new("RGBA", (width, height), (200, 0, 0, alpha))
    picture.putpixel((0, 0), (0, 0, 200, 255))
    picture.save(content, "PNG")
    return content.getvalue()


def library(folder: Path, name: str, entries: dict[str, dict[str, str]], files: dict[str, bytes | str]) -> None:
    """Writes a `.sh3f` file; all entries are the chair unless they say otherwise."""
    lines = ["id=Test#Library"]
    for number, (entry, values) in enumerate(entries.items(), 1):
        own = {
            "id": f"{name}#{entry}",
            "name": entry.title(),
            "model": f"/models/{entry}/chair.obj",
            "width": "40",
            "depth": "80",
            "height": "100",
            "creator": "Some One",
            **values,
        }
        lines += [f"{kind}#{number}={value}" for kind, value in own.items()]
    with zipfile.ZipFile(folder / f"{name}.sh3f", "w") as archive:
        archive.writestr("PluginFurnitureCatalog.properties", "\n".join(lines))
        for entry in entries:
            archive.writestr(f"models/{entry}/chair.obj", CHAIR)
            archive.writestr(f"models/{entry}/chair.mtl", CHAIR_MTL)
            archive.writestr(f"models/{entry}/back.png", png())
        for path, content in files.items():
            archive.writestr(path, content)


@pytest.fixture
def furniture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the five libraries, of which three have a chair or two, and a table for them."""
    folder = tmp_path / "furniture"
    folder.mkdir()
    zero, by = "Released under Creative Commons Zero (Public Domain)", "Released under Creative Commons Attribution 3.0"
    library(
        folder,
        "BlendSwap-CC-0",
        {"stool": {}, "bench": {}},
        {
            "models/stool/BLENDSWAP_LICENSE.txt": f"{zero} http://www.blendswap.com/blends/view/123",
            "models/bench/LICENSE.html": f"Blend #77 {by}",
        },
    )
    library(folder, "BlendSwap-CC-BY", {}, {})
    library(folder, "KatorLegaz", {"chair": {"creator": ""}}, {})
    library(folder, "Reallusion", {}, {})
    library(folder, "Scopia", {"chair": {"elevation": "12.5"}, "sofa": {}}, {})
    table = tmp_path / "furniture.csv"
    table.write_text(
        "key,name,use,class,materials,turn,scale,comment\n"
        "BlendSwap-CC-0/stool,Stool,chair.stool,otherprop,,,,\n"
        "BlendSwap-CC-0/bench,Bench,bench,otherfurniture,,90,0.5,half as large\n"
        "KatorLegaz/chair,Chair,chair.dining,chair,,,,\n"
        "Scopia/chair,Chair,chair.dining,chair,back=pillow,,,\n"
        "Scopia/sofa,Sofa,sofa,sofa,,,,\n"
    )
    monkeypatch.setattr(catalogue, "TABLE", table)
    return folder


# ------------------------------------------------------------------------------------------------------------ formats


def test_properties_with_escapes_comments_and_long_lines() -> None:
    text = b"# no=1\n! no=2\nname#1=L\\u00e4mp\nlong = a,\\\n    b\nplain=\xe9\nnothing\n"
    assert catalogue.read_properties(text) == {"name#1": "Lämp", "long": "a,b", "plain": "é"}


def test_obj_with_polygons_missing_coordinates_and_numbers_from_the_end() -> None:
    mesh = catalogue.read_obj(
        "mtllib a b.mtl\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvt 0.5 0.25\n"
        "f 1/1 2/1 3/1 4/1\nusemtl red\nf -4//9 -3//9 -1"
    )
    assert mesh.corner.tolist() == [[0, 1, 2], [0, 2, 3], [0, 1, 3]]
    assert mesh.corner_uv.tolist() == [[0, 0, 0], [0, 0, 0], [-1, -1, -1]]
    assert [mesh.names[i] for i in mesh.material] == ["", "", "red"]
    assert mesh.uv.tolist() == [[0.5, 0.25]]
    assert mesh.libraries == ["a b.mtl"]


def test_mtl() -> None:
    materials = catalogue.read_mtl(CHAIR_MTL + "newmtl glass\nKd 2 0.1 -1\nKs 0.3 0.6 0.9\nNs 80\nd 0.25\n")
    assert materials["back"].texture == "back.png"
    assert materials["seat"] == Material((0.5, 0.5, 0.5), 0.0, 10.0)
    assert materials["glass"].color == (1.0, 0.1, 0.0)
    assert materials["glass"].specular == pytest.approx(0.6)
    assert materials["glass"].opacity == 0.25


def test_finish_of_metal_paint_glass_and_gloss() -> None:
    assert catalogue.finish_of("Chrome_1", Material((0.2, 0.2, 0.22))).metallic == 1
    assert catalogue.finish_of("white-metal", Material((0.9, 0.9, 0.9))).metallic == 0
    assert catalogue.finish_of("red_metal", Material((0.9, 0.1, 0.1))).metallic == 0
    assert catalogue.finish_of("pane", Material(opacity=0.3)).roughness == 0.1
    assert catalogue.finish_of("lacquer", Material(specular=0.8, shininess=100)).roughness == 0.25
    assert catalogue.finish_of("cloth", Material()) == Finish()


def test_texture_is_reduced_and_what_is_transparent_takes_the_mean_colour() -> None:
    assert catalogue.read_texture(png(1000, 10)).shape == (3, catalogue.MAX_TEXTURE, 3)
    clear = catalogue.read_texture(png(4, 2, alpha=0))
    assert clear.shape == (2, 4, 3)
    assert (clear == (0, 0, 200)).all()


# ------------------------------------------------------------------------------------------------------------- frames


@pytest.mark.parametrize(
    ("turn", "front", "size"),
    [(0, (0, -1), (2, 4, 1)), (90, (1, 0), (4, 2, 1)), (180, (0, 1), (2, 4, 1)), (270, (-1, 0), (4, 2, 1))],
)
def test_the_front_looks_to_minus_y_before_the_turn(
    turn: float, front: tuple[int, int], size: tuple[float, float, float]
) -> None:
    mesh = catalogue.read_obj(CHAIR)
    piece, found = catalogue.normalised(mesh.vertices, (2.0, 4.0, 1.0), None, turn)
    assert found == pytest.approx(size)
    assert piece.min(0) == pytest.approx([-size[0] / 2, -size[1] / 2, 0])
    assert piece.max(0) == pytest.approx([size[0] / 2, size[1] / 2, size[2]])
    assert piece[4:6, :2].mean(0) == pytest.approx(2 * np.array(front))  # the edge of the seat


def test_model_rotation_comes_before_the_size() -> None:
    upright = np.array([[0.0, 0, 1], [0, 0, 0], [0, 2, 0]])  # lies in the plane x = 0
    rotation = np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])  # z becomes x
    piece, size = catalogue.normalised(upright, (3.0, 0.5, 2.0), rotation, 0)
    assert size == pytest.approx((3.0, 0.0, 2.0))
    assert np.ptp(piece[:, 0]) == pytest.approx(3)
    assert np.ptp(piece[:, 2]) == pytest.approx(2)


def test_clean_merges_corners_and_drops_doubles() -> None:
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0.00001], [1, 1, 0]], float)
    corner = np.array([[0, 1, 2], [2, 1, 3], [3, 0, 1], [1, 4, 2]], np.int32)
    merged, kept = catalogue.clean(vertices, corner)
    assert kept.tolist() == [0, 3]
    assert merged.tolist() == [[0, 1, 2], [1, 4, 2]]


# -------------------------------------------------------------------------------------------------------------- parts


def parts_of(text: str, **changes: object) -> list[Part]:
    mesh, materials = catalogue.read_obj(text), catalogue.read_mtl(CHAIR_MTL)
    own = row(**changes)
    picture = catalogue.read_texture(png())
    return catalogue.make_parts(mesh, mesh.vertices, materials, own, lambda name: picture)


def test_a_part_for_each_texture_and_one_for_the_rest() -> None:
    parts = parts_of(CHAIR, materials=(("ba*", "pillow"),))
    assert len(parts) == 2
    back, seat = parts
    assert back.finish.texture is not None
    assert back.uv is not None
    assert back.uv[back.faces[0]].tolist() == [[0, 0], [1, 0], [1, 1]]
    assert set(back.label) == {CLASS_ID["pillow"]}
    assert seat.finish.texture is None
    assert len(seat.faces) == 2  # the two of the other side are left out
    assert set(seat.label) == {CLASS_ID["chair"]}
    assert seat.color == pytest.approx(0.214, abs=0.001)  # linear


def test_faces_without_coordinates_have_no_texture() -> None:
    parts = parts_of(CHAIR.replace("f 1/1 2/2 3/3 4/4", "f 1/1 2/2 3/3\nf 1 3 4"))
    assert [(len(p.faces), p.finish.texture is None) for p in parts] == [(1, False), (3, True)]


def test_left_out_glow_and_mirror() -> None:
    assert [len(p.faces) for p in parts_of(CHAIR, materials=(("seat", "-"),))] == [2]
    glowing = parts_of(CHAIR, materials=(("seat", "glow"),))[1]
    assert glowing.finish.emission == pytest.approx((catalogue.GLOW * 0.214,) * 3, abs=0.001)
    assert set(glowing.label) == {CLASS_ID["chair"]}
    mirror = parts_of(CHAIR, materials=(("back", "mirror"),))[0]
    assert mirror.finish == Finish(mirror=True)
    assert set(mirror.label) == {CLASS_ID["mirror"]}


def test_saved_parts_are_read_as_they_were(tmp_path: Path) -> None:
    parts = parts_of(CHAIR, materials=(("seat", "glow"),))
    catalogue.save_parts(tmp_path / "a.npz", parts)
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]
    for old, new in zip(parts, catalogue.load_parts(tmp_path / "a.npz"), strict=True):
        for name in ("vertices", "faces", "label", "color", "uv"):
            a, b = getattr(old, name), getattr(new, name)
            assert (a is None and b is None) or (a.dtype == b.dtype and np.array_equal(a, b))
        assert np.array_equal(old.finish.texture, new.finish.texture)  # type: ignore[arg-type]
        assert new.finish.emission == pytest.approx(old.finish.emission)


# -------------------------------------------------------------------------------------------------- table and licences


def test_the_table_is_right() -> None:
    rows = catalogue.read_table()
    assert len(rows) > 500
    assert {r.key.partition("/")[0] for r in rows} == set(catalogue.LIBRARIES)
    # What a bedroom, a kitchen, a bathroom and an office cannot do without.
    uses = {r.use for r in rows}
    wanted = "bed.double night_stand wardrobe dresser chair.dining chair.office sofa.sofa table.dining table.coffee "
    wanted += "desk.desk toilet sink.bath sink.kitchen refrigerator lamp.table lamp.floor tv.wall person.standing"
    assert set(wanted.split()) <= uses
    assert {"bed", "sofa", "toilet", "sink", "books", "television", "shower curtain"} <= {r.class_name for r in rows}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a/b,B,bed,bedd,,,,", "csv:2: 'bedd' is no class"),
        ("a/b,B,bed,bed,x=bedd,,,", "csv:2: 'bedd' is no class"),
        ("a/b,B,bed,bed,pillow,,,", "csv:2: materials are given as pattern=class"),
        ("a/b,B,bed,bed,,left,,", "csv:2: not a line of the table"),
        ("a/b,B", "csv:2: not a line of the table"),
        ("a/b,B,bed,bed,,,,\na/b,B,bed,bed,,,,", "a/b is there twice"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"key,name,use,class,materials,turn,scale,comment\n{line}\n")
    with pytest.raises(FurnitureError, match=message):
        catalogue.read_table(path)


def test_about_a_seventh_of_the_models_is_held_out_and_never_the_only_one() -> None:
    uses = {r.key: r.use for r in catalogue.read_table()}
    kept = catalogue.held_out(uses)
    assert 0.12 < len(kept) / len(uses) < 0.18
    assert set(uses.values()) == {use for key, use in uses.items() if key not in kept}
    assert catalogue.held_out(dict(reversed(uses.items()))) == kept
    families: dict[str, list[str]] = {}
    for key, use in uses.items():
        families.setdefault(use.partition(".")[0], []).append(key)
    for name, keys in families.items():
        if len(keys) >= 10 and len({uses[key] for key in keys}) < len(keys):
            assert 0.05 < len(kept.intersection(keys)) / len(keys) < 0.3, name


def test_own_licence_of_a_model_has_the_last_word(furniture: Path) -> None:
    with zipfile.ZipFile(furniture / "BlendSwap-CC-0.sh3f", "a") as archive:
        archive.writestr("models/odd/license.txt", "All rights reserved")
        assert catalogue.own_license(archive, "models/stool") == (
            "CC0-1.0",
            "http://www.blendswap.com/blends/view/123",
        )
        assert catalogue.own_license(archive, "models/bench") == (
            "CC-BY-3.0",
            "http://www.blendswap.com/blends/view/77",
        )
        assert catalogue.own_license(archive, "models/none") is None
        with pytest.raises(FurnitureError, match="names no licence"):
            catalogue.own_license(archive, "models/odd")


# ---------------------------------------------------------------------------------------------------------- the cache


def test_prepare_and_catalogue(furniture: Path, tmp_path: Path) -> None:
    cache, seen = tmp_path / "cache", []
    catalogue.prepare(furniture, cache, lambda done, total: seen.append((done, total)))
    assert seen == [(i, 5) for i in range(5)]
    found = Catalogue(cache)
    assert [m.key for m in found.models] == sorted(m.key for m in found.models)
    by_key = {m.key: m for m in found.models}
    assert by_key["Scopia/chair"].size == pytest.approx((0.4, 0.8, 1.0))
    assert by_key["Scopia/chair"].elevation == 0.125
    assert by_key["BlendSwap-CC-0/bench"].size == pytest.approx((0.4, 0.2, 0.5))
    assert (by_key["BlendSwap-CC-0/bench"].license, by_key["BlendSwap-CC-0/stool"].license) == ("CC-BY-3.0", "CC0-1.0")
    assert by_key["KatorLegaz/chair"].author == "Andrew Kator & Jennifer Legaz"
    assert by_key["BlendSwap-CC-0/stool"].author == "Some One"
    assert found.addresses["BlendSwap-CC-0/stool"] == "http://www.blendswap.com/blends/view/123"
    assert all(m.license in catalogue.LICENSES for m in found.models)
    back, seat = found.parts(by_key["Scopia/chair"])
    assert set(back.label) == {CLASS_ID["pillow"]}
    assert back.vertices[:, 1] == pytest.approx(0.4)  # the back of the chair is behind
    assert seat.vertices.max(0) == pytest.approx([0.2, 0.4, 0.0])
    assert found.parts(by_key["Scopia/chair"])[0] is back  # kept in memory
    file = catalogue.file_of(cache, "Scopia/chair")
    for damage in (lambda: file.write_bytes(file.read_bytes()[:99]), lambda: file.write_bytes(b""), file.unlink):
        damage()
        with pytest.raises(FurnitureError, match=r"chair\.npz is missing or damaged .*; delete .*index\.json, and"):
            Catalogue(cache).parts(by_key["Scopia/chair"])


def test_of_gives_training_rooms_no_held_out_model(furniture: Path, tmp_path: Path) -> None:
    catalogue.prepare(furniture, tmp_path / "cache")
    index = tmp_path / "cache" / "index.json"
    content = json.loads(index.read_text())
    for model in content["models"]:
        model["held_out"] = model["key"] == "Scopia/chair"
    index.write_text(json.dumps(content))
    found = Catalogue(tmp_path / "cache")

    def keys(use: str, split: str) -> list[str]:
        return [m.key for m in found.of(use, split)]  # type: ignore[arg-type]

    assert keys("chair", "train") == ["BlendSwap-CC-0/stool", "KatorLegaz/chair"]
    assert keys("chair", "val") == keys("chair.dining", "test") == ["Scopia/chair"]
    assert keys("sofa", "val") == keys("sofa", "train") == ["Scopia/sofa"]  # none of its kind is held out
    assert keys("cha", "train") == keys("piano", "val") == []


def test_prepare_does_its_work_once_and_again_when_something_changed(
    furniture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, done = tmp_path / "cache", []
    catalogue.prepare(furniture, cache)
    catalogue.prepare(furniture, cache, lambda i, n: done.append(i))
    assert not done
    monkeypatch.setattr(catalogue, "VERSION", catalogue.VERSION + 1)
    catalogue.prepare(furniture, cache, lambda i, n: done.append(i))
    assert len(done) == 5


def test_models_with_too_many_faces_are_left_out(
    furniture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "MAX_FACES", 3)
    catalogue.prepare(furniture, tmp_path / "cache")
    assert Catalogue(tmp_path / "cache").models == ()


def test_missing_things_are_said_in_one_line(furniture: Path, tmp_path: Path) -> None:
    with pytest.raises(FurnitureError, match="no prepared furniture"):
        Catalogue(tmp_path / "nowhere")
    with catalogue.TABLE.open("a") as table:
        table.write("Scopia/nothing,Nothing,sofa,sofa,,,,\n")
    with pytest.raises(FurnitureError, match="no entry 'nothing'"):
        catalogue.prepare(furniture, tmp_path / "cache")
    assert not (tmp_path / "cache" / "index.json").exists()
    (furniture / "Scopia.sh3f").unlink()
    with pytest.raises(FurnitureError, match="apt-get install sweethome3d-furniture") as error:
        catalogue.prepare(furniture, tmp_path / "cache")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("how", ["cut", "byte"])
def test_a_damaged_library_is_said_in_one_line(furniture: Path, tmp_path: Path, how: str) -> None:
    path = furniture / "KatorLegaz.sh3f"
    content = path.read_bytes()
    at = content.index(b"v 0")  # in a model, which is not read before it is converted
    path.write_bytes(content[: len(content) // 2] if how == "cut" else content[:at] + b"x" + content[at + 1 :])
    with pytest.raises(FurnitureError, match=r"KatorLegaz\.sh3f is damaged .*--reinstall") as error:
        catalogue.prepare(furniture, tmp_path / "cache")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "cache" / "index.json").exists()


@pytest.mark.parametrize("damage", [b"", b'{"fingerprint": "', b"\xff\xfe", b"[]", b"{}"])
def test_a_damaged_index_is_said_in_one_line_and_made_anew(furniture: Path, tmp_path: Path, damage: bytes) -> None:
    cache = tmp_path / "cache"
    catalogue.prepare(furniture, cache)
    kept = (cache / "index.json").read_bytes()
    (cache / "index.json").write_bytes(damage)
    with pytest.raises(FurnitureError, match=r"index\.json is .*; delete it") as error:
        Catalogue(cache)
    assert "\n" not in str(error.value)
    catalogue.prepare(furniture, cache)
    assert (cache / "index.json").read_bytes() == kept


# -------------------------------------------------------------------------------------------------- the real furniture


@needs_furniture
def test_the_table_fits_the_libraries_and_every_licence_is_free() -> None:
    licenses: dict[str, int] = {}
    for own, archive, entry in catalogue._entries(FURNITURE, catalogue.read_table()):
        folder = entry["model"].lstrip("/").rpartition("/")[0]
        found = catalogue.own_license(archive, folder) or (catalogue.LIBRARIES[own.key.partition("/")[0]].license, "")
        licenses[found[0]] = licenses.get(found[0], 0) + 1
        assert own.name == entry["name"]
    assert set(licenses) == set(catalogue.LICENSES)


@needs_furniture
def test_real_pieces_stand_with_their_backs_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = ["chair4", "chair3", "armchair", "bed1", "iron_bed", "beige_sofa", "leather_sofa", "office_chair"]
    pieces.append("plastic_chair")
    lines = catalogue.TABLE.read_text().splitlines()
    table = tmp_path / "furniture.csv"
    chosen = [line for line in lines if line.partition(",")[0] in [f"Scopia/{name}" for name in pieces]]
    table.write_text("\n".join([lines[0], *chosen]) + "\n")
    monkeypatch.setattr(catalogue, "TABLE", table)
    catalogue.prepare(FURNITURE, tmp_path / "cache")
    found = Catalogue(tmp_path / "cache")
    assert len(found.models) == len(pieces)
    for model in found.models:
        vertices = np.concatenate([part.vertices for part in found.parts(model)])
        size = np.array(model.size)
        assert np.abs(vertices.max(0) - size * [0.5, 0.5, 1]).max() < 0.01, model.key
        assert np.abs(vertices.min(0) + size * [0.5, 0.5, 0]).max() < 0.01, model.key
        assert vertices[vertices[:, 2] > 0.9 * size[2], 1].mean() > 0.1 * size[1], model.key  # the back is high
