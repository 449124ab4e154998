"""ImageNet weights of the backbones, from the addresses of torchvision and timm or from a file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from model.base import Backbone

# The eight digits in a file's name begin its SHA-256; the download is refused when they differ.
IMAGENET_URLS = {
    "resnet18": "https://download.pytorch.org/models/resnet18-f37072fd.pth",
    "resnet34": "https://download.pytorch.org/models/resnet34-b627a593.pth",
    "resnet50": "https://download.pytorch.org/models/resnet50-0676ba61.pth",
    "mobilenet_v2": "https://download.pytorch.org/models/mobilenet_v2-b0353104.pth",
    # The weights of HRNet-Image-Classification, as timm hosts them.
    "hrnet_w18": "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-hrnet/hrnetv2_w18-8cb57bb9.pth",
}

# What a classification network has beyond our encoders.
_CLASSIFIER_PREFIXES = ("fc.", "classifier.", "features.18.", "incre_modules.", "downsamp_modules.", "final_layer.")


class WeightsError(Exception):
    """Weights that cannot be had or do not fit; the message is one line."""


def load_backbone_weights(backbone: Backbone, name: str, source: str) -> None:
    """Fills `backbone` in place.

    Args:
        backbone: The encoder.
        name: Its key in `model.backbones.BACKBONES`.
        source: `imagenet` (downloaded once, hash-checked, into torch's hub cache), `none` (stays at its random
            start), or the path of a `.pth` or `.safetensors` file with the same parameter names.

    Raises:
        WeightsError: the file is missing, damaged or of another network, or the download failed.
    """
    if source == "none":
        return
    if source == "imagenet":
        if name not in IMAGENET_URLS:
            raise WeightsError(f"there are no ImageNet weights of {name}; give a file, or 'none'")
        path = _download(IMAGENET_URLS[name])
    else:
        path = Path(source)
        if not path.is_file():
            raise WeightsError(f"{path}: no such weights file (give a path, 'imagenet' or 'none')")
    state = {k: v for k, v in _read(path).items() if not k.startswith(_CLASSIFIER_PREFIXES)}
    # Older files lack these counters, which only matter without a momentum.
    own = backbone.state_dict()
    state |= {k: own[k] for k in own.keys() - state.keys() if k.endswith("num_batches_tracked")}
    try:
        backbone.load_state_dict(state, strict=True)
    except RuntimeError as error:
        detail = " ".join(str(error).split())
        raise WeightsError(f"{path}: not the weights of {name}: {detail[:200]}") from None


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise WeightsError(f"{path}: not a safetensors file: {error}") from None
    try:
        # weights_only: a .pth file is a pickle, and only tensors may come out of it.
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch.load has no exception of its own for a damaged file: zip, pickle and runtime errors all occur.
        raise WeightsError(f"{path}: cannot be read as PyTorch weights ({type(error).__name__})") from None
    return state


def _download(url: str) -> Path:
    file = url.rsplit("/", 1)[1]
    path = Path(torch.hub.get_dir()) / "checkpoints" / file
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        digits = file.rsplit("-", 1)[1].removesuffix(".pth")
        try:
            # Downloads to a temporary file, compares the hash, and moves it into place.
            torch.hub.download_url_to_file(url, str(path), hash_prefix=digits)
        except (OSError, RuntimeError) as error:
            reason = f"{url} could not be downloaded ({error})"
            raise WeightsError(f"{reason}; give --weights PATH, or --weights none to start from scratch") from None
    return path
