"""What all encoders and all networks have in common."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from model.blocks import resize

Task = Literal["segmentation", "depth"]
TASKS: tuple[Task, Task] = ("segmentation", "depth")
AuxiliaryTask = Literal["normals", "edges"]
AUXILIARY_TASKS: tuple[AuxiliaryTask, AuxiliaryTask] = ("normals", "edges")


def task_channels(classes: int) -> dict[str, int]:
    """Channels of each task's prediction."""
    return {"segmentation": classes, "depth": 1, "normals": 3, "edges": 1}


# -------------------------------------------------------------------------------------------- encoders


class Features(NamedTuple):
    """X1..X4: [N, C_i, H_i, W_i] at strides 4, 8, 16 and the encoder's output stride (sides rounded up)."""

    x1: Tensor
    x2: Tensor
    x3: Tensor
    x4: Tensor


class Backbone(nn.Module):
    """A module whose `forward` maps a normalised picture [N, 3, H, W] to `Features`.

    Attributes:
        channels: C_1..C_4.
    """

    channels: tuple[int, int, int, int]

    def forward(self, image: Tensor) -> Features:
        raise NotImplementedError


class StagedBackbone(Backbone):
    """A backbone that runs as a stem and stages 1 to 4, one after the other.

    Each stage is a chain of blocks, so that its last block can be run apart: `stage` = `stage_end` ∘ `stage_start`.

    Attributes:
        stem_channels: Channels after the stem.
        inner_channels: Channels of each stage before its last block.
    """

    stem_channels: int
    inner_channels: tuple[int, int, int, int]

    def stem(self, image: Tensor) -> Tensor:
        """The layers before stage 1."""
        raise NotImplementedError

    def blocks(self, stage: int) -> nn.Sequential:
        """The blocks of stage 1, 2, 3 or 4."""
        raise NotImplementedError

    def stage(self, i: int, x: Tensor) -> Tensor:
        """Stage `i` (1 to 4) of what the stage before it gave: X_i."""
        y: Tensor = self.blocks(i)(x)
        return y

    def stage_start(self, i: int, x: Tensor) -> Tensor:
        """Stage `i` without its last block."""
        y: Tensor = self.blocks(i)[:-1](x)
        return y

    def stage_end(self, i: int, x: Tensor) -> Tensor:
        """The last block of stage `i`."""
        y: Tensor = self.blocks(i)[-1](x)
        return y

    def forward(self, image: Tensor) -> Features:
        x1 = self.stage(1, self.stem(image))
        x2 = self.stage(2, x1)
        x3 = self.stage(3, x2)
        return Features(x1, x2, x3, self.stage(4, x3))


# -------------------------------------------------------------------------------------------- networks


class Network(nn.Module):
    """What training and export know of a network.

    Attributes:
        tasks: The maps that `forward` returns.
        auxiliary_tasks: Tasks beside these, of intermediate predictions or of further maps that `forward` returns;
            training makes labels for them. An exported network leaves them out.
        training_stride: In training mode the maps have this share of the picture's height and width: 2 is half of each.
        saturation: How much the network sees of a picture's colours: 1 all, 0 none.
    """

    tasks: tuple[Task, ...]
    auxiliary_tasks: tuple[AuxiliaryTask, ...] = ()
    training_stride: int = 1
    saturation: float = 1.0

    def forward(self, image: Tensor) -> dict[str, Any]:
        """The maps of a picture.

        Args:
            image: sRGB in 0..1, [N, 3, H, W].

        Returns:
            `segmentation`: logits [N, classes, H, W]; `depth`: metres [N, 1, H, W]; only the network's tasks.
            A network with deep supervision adds, in training mode, `intermediate`: a list of further predictions,
            each a dict from task to a map at its own resolution. Besides the tasks above these may hold `normals`
            [N, 3, h, w], of any length, and `edges`, logits [N, 1, h, w].
        """
        raise NotImplementedError

    def upsample(self, prediction: Tensor, image: Tensor) -> Tensor:
        """A head's output at the picture's height and width, bilinearly; in training mode at 1 / `training_stride`."""
        if self.training and self.training_stride > 1:
            # Only its size is asked for.
            image = image[:, :, :: self.training_stride, :: self.training_stride]
        return resize(prediction, image)

    def backbones(self) -> list[Backbone]:
        """The encoders, each of which starts from the same pre-trained weights."""
        return [module for module in self.modules() if isinstance(module, Backbone)]

    def new_parameters(self) -> list[nn.Parameter]:
        """Parameters that want a learning rate of their own; most networks have none."""
        return []
