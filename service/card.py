"""The model card: everything the service knows about a model, read from the ONNX file itself.

The card is one JSON object in the file's metadata under the key `segdepth`, written by `deploy/export.py`.
A file whose card is missing or does not fit this schema is refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

METADATA_KEY = "segdepth"
"""The key of the card in the ONNX file's `metadata_props`."""

Channel = Annotated[int, Field(ge=0, le=255)]
Side = Annotated[int, Field(ge=16, le=8192)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ClassInfo(_Part):
    """One class: the pixel value in masks, its name, and its sRGB colour."""

    id: Annotated[int, Field(ge=0, le=254)]
    name: Annotated[str, Field(min_length=1)]
    color: tuple[Channel, Channel, Channel]


class InputSpec(_Part):
    """The picture sizes, (height, width) in pixels, that are run, and how a picture is brought to one of them."""

    sizes: Annotated[list[tuple[Side, Side]], Field(min_length=1)]
    fit: Literal["letterbox"]
    color_space: Literal["sRGB"]
    saturation: Annotated[float, Field(ge=0, le=1)] = 1.0
    """How much the network sees of a picture's colours, from 0 to 1."""

    @property
    def grey(self) -> bool:
        """It sees none: a picture and its grey (`images.GREY`) are the same to it."""
        return self.saturation == 0


class DepthSpec(_Part):
    """The unit and the invalid value of the depth output, and the range in metres the network was trained on."""

    unit: Literal["mm"]
    invalid: Literal[0]
    min_m: Annotated[float, Field(ge=0)]
    max_m: Annotated[float, Field(gt=0, le=65.535)]
    focal_px: Annotated[float | None, Field(gt=0)] = None
    """The focal length, in pixels of the canvas, for which the depth output is metric; None: depth is taken as it
    is."""


class TrainingSpec(_Part):
    """What the network was trained on, the licence of that data, and what the licence asks to be said."""

    data: str
    license: str
    attribution: str = ""
    pictures: Annotated[int, Field(ge=0)]
    details: dict[str, Any] = {}


class Evaluation(_Part):
    """Figures measured on one split of one data set, with the protocol that was used."""

    data: str
    split: str
    protocol: str
    values: dict[str, float]


class ModelCard(_Part):
    """The whole card."""

    format: Literal[1]
    name: Annotated[str, Field(min_length=1)]
    version: Annotated[str, Field(min_length=1)]
    description: str = ""
    network: str
    backbone: str
    parameters: Annotated[int, Field(ge=0)]
    precision: Literal["fp32", "fp16", "int8"]
    classes: Annotated[list[ClassInfo], Field(min_length=1, max_length=255)]
    input: InputSpec
    depth: DepthSpec
    training: TrainingSpec
    evaluations: list[Evaluation] = []
    agreement: dict[str, Any] = {}
    versions: dict[str, str] = {}

    @model_validator(mode="after")
    def _ids_count_up(self) -> ModelCard:
        if [c.id for c in self.classes] != list(range(len(self.classes))):
            raise ValueError("class ids must count up from 0")
        if self.depth.min_m >= self.depth.max_m:
            raise ValueError("the depth range is empty")
        return self
