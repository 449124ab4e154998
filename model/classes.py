"""Class sets: what a segmentation label means, and the colour it is painted in.

Class ids count from 0; the label value `IGNORE` marks pixels without a class (void), which no loss and no
metric looks at.

- `NYU40`: the 40 classes of Gupta et al., "Perceptual Organization and Recognition of Indoor Scenes from
  RGB-D Images", CVPR 2013, in the order of `classMapping40.mat` (there counted from 1, with 0 for void).
- `SUN37`: the first 37 of them, the label set of SUN RGB-D (Song et al., CVPR 2015).
"""

from __future__ import annotations

from dataclasses import dataclass

IGNORE = 255
"""The label value of pixels without a class."""

Color = tuple[int, int, int]


@dataclass(frozen=True)
class ClassInfo:
    """One class: its id (the pixel value in masks), its name and its sRGB colour (0-255)."""

    id: int
    name: str
    color: Color


ClassSet = tuple[ClassInfo, ...]


def same_classes(a: ClassSet, b: ClassSet) -> bool:
    """Whether ids and names are the same: what a network learnt does not depend on the colours to paint it in."""
    return [(c.id, c.name) for c in a] == [(c.id, c.name) for c in b]


def voc_color(index: int) -> Color:
    """Colour `index` of the Pascal VOC colour map: the bits of the index, spread over the high bits of R, G, B."""
    rgb = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            rgb[channel] |= ((index >> (3 * bit + channel)) & 1) << (7 - bit)
    return rgb[0], rgb[1], rgb[2]


def class_set(names: list[str] | tuple[str, ...]) -> ClassSet:
    """A class set from names in the order of their ids, in VOC colours. Colour 0 (black) is left to void.

    Raises:
        ValueError: no name, more than 255, or one name twice.
    """
    if not 1 <= len(names) <= IGNORE:
        raise ValueError(f"a class set has 1 to {IGNORE} classes, not {len(names)}")
    if len(set(names)) != len(names):
        raise ValueError("a class name occurs twice")
    return tuple(ClassInfo(i, name, voc_color(i + 1)) for i, name in enumerate(names))


NYU40 = class_set(
    """wall,floor,cabinet,bed,chair,sofa,table,door,window,bookshelf,picture,counter,blinds,desk,shelves,curtain,
    dresser,pillow,mirror,floor mat,clothes,ceiling,books,refrigerator,television,paper,towel,shower curtain,box,
    whiteboard,person,night stand,toilet,sink,lamp,bathtub,bag,otherstructure,otherfurniture,otherprop""".replace(
        "\n    ", ""
    ).split(",")
)

SUN37 = NYU40[:37]
