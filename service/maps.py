"""What is known of one picture once the network has seen it; every map is made when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from service import images
from service.arrays import UInt8, UInt16
from service.cameras import Camera
from service.card import ModelCard
from service.engine import Prediction
from service.images import Color, Letterbox


@dataclass(frozen=True)
class Maps:
    """A picture and its maps, [H, W] of the uploaded picture as seen upright."""

    read_picture: Callable[[], UInt8]
    """Decodes the upload once more: pixels are not kept while a request waits."""
    box: Letterbox
    camera: Camera
    canvas: Prediction
    """The maps as the network gives them, [h, w] with padding, but depth metric for this camera."""
    card: ModelCard

    @cached_property
    def labels(self) -> UInt8:
        """Class ids."""
        return images.unfit_nearest(self.canvas.labels, self.box)

    @cached_property
    def depth(self) -> UInt16:
        """Millimetres along the optical axis, 0 = invalid."""
        return images.unfit_depth(self.canvas.depth, self.box)

    @cached_property
    def confidence(self) -> UInt8:
        """The probability of the class x 255."""
        return images.unfit_nearest(self.canvas.confidence, self.box)

    @cached_property
    def picture(self) -> UInt8:
        """The picture itself, [H, W, 3]."""
        return self.read_picture()

    @cached_property
    def colors(self) -> list[Color]:
        """The classes' colours, by id."""
        return [info.color for info in self.card.classes]
