"""What cross-stitch networks and NDDR-CNN share: one encoder per task, with exchanges between them.

    segmentation:  stem ─┬─ stage 1 ─┬─ stage 2 ─┬─ stage 3 ─┬─ stage 4 ─┬─ ASPP ─ up
                      exchange    exchange    exchange    exchange    exchange
    depth:         stem ─┴─ stage 1 ─┴─ stage 2 ─┴─ stage 3 ─┴─ stage 4 ─┴─ ASPP ─ up

Both start from trained single-task networks, to whose features the exchanges are then learned.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from model.backbones import normalize
from model.base import TASKS, Network, StagedBackbone, Task, task_channels
from model.blocks import random_start
from model.heads import ASPPHead


class TwoStreamNetwork(Network):
    """Two streams and the exchanges between them.

    Args:
        backbone: The encoder of the first stream; the second one starts as its copy.
        classes: Number of segmentation classes.
        exchange: Makes the module for a number of channels; it maps a feature per task to a feature per task.
        after_stem: Exchange after the stem too, not only after stages 1 to 4.
        aspp_rates: Dilation rates of the ASPP heads.
        dropout: In the ASPP heads.
    """

    tasks = TASKS

    def __init__(
        self,
        backbone: StagedBackbone,
        classes: int,
        exchange: Callable[[int], nn.Module],
        *,
        after_stem: bool,
        aspp_rates: tuple[int, int, int],
        dropout: float,
    ) -> None:
        super().__init__()
        self.streams = nn.ModuleDict({"segmentation": backbone, "depth": copy.deepcopy(backbone)})
        outputs = task_channels(classes)
        self.heads = nn.ModuleDict(
            {task: ASPPHead(backbone.channels[3], outputs[task], aspp_rates, dropout) for task in TASKS}
        )
        random_start(self.heads)
        self.exchanges = nn.ModuleList(
            [
                exchange(backbone.stem_channels) if after_stem else nn.Identity(),
                *(exchange(c) for c in backbone.channels),
            ]
        )

    def stream(self, task: Task) -> StagedBackbone:
        """The encoder of a task."""
        stream = self.streams[task]
        assert isinstance(stream, StagedBackbone)
        return stream

    def new_parameters(self) -> list[nn.Parameter]:
        """Those of the exchanges, which the single-task networks do not have."""
        return list(self.exchanges.parameters())

    def load_single_task(self, segmentation_weights: Mapping[str, Tensor], depth_weights: Mapping[str, Tensor]) -> None:
        """Fills both streams with their heads from the state dicts of trained `stl_aspp` and `stl_aspp_depth`.

        Raises:
            ValueError: weights of another network, encoder or class set; the message is one line, and this network
                is as it was.
        """
        own: dict[Task, dict[str, Tensor]] = {}
        for task, weights in zip(TASKS, (segmentation_weights, depth_weights), strict=True):
            parts = {"backbone": self.streams[task], f"heads.{task}": self.heads[task]}
            own[task] = {f"{prefix}.{k}": v for prefix, part in parts.items() for k, v in part.state_dict().items()}
            _refuse_other_weights(task, own[task], weights)
        for task, weights in zip(TASKS, (segmentation_weights, depth_weights), strict=True):
            for name, tensor in own[task].items():
                tensor.copy_(weights[name])

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x = normalize(image, self.saturation)
        features = self.exchanges[0]({t: self.stream(t).stem(x) for t in TASKS})
        for i in (1, 2, 3, 4):
            features = self.exchanges[i]({t: self.stream(t).stage(i, features[t]) for t in TASKS})
        return {t: self.upsample(self.heads[t](features[t]), image) for t in TASKS}


def _refuse_other_weights(task: Task, own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    missing, unknown = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    other_shape = [k for k in own.keys() & weights.keys() if own[k].shape != weights[k].shape]
    if missing:
        problem = f"'{missing[0]}' is missing"
    elif unknown:
        problem = f"'{unknown[0]}' has no place here"
    elif other_shape:
        name = min(other_shape)
        problem = f"'{name}' has the shape {list(weights[name].shape)}, not {list(own[name].shape)}"
    else:
        return
    raise ValueError(f"the {task} weights are not of a single-task network that fits this one: {problem}")
