"""The settings: one frozen object, from `SEGDEPTH_*` environment variables and the command's flags."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.engine import Device
from service.errors import StartupError

ENV_PREFIX = "SEGDEPTH_"
BUNDLED_MODEL = Path(__file__).parent / "bundled" / "segdepth.onnx"


class Settings(BaseSettings):
    """What an operator may choose. Every field is also an environment variable: `port` is `SEGDEPTH_PORT`."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True)

    model: Path = BUNDLED_MODEL
    """The ONNX file to serve."""
    device: Device = "cpu"
    """What the network runs on: ONNX Runtime on CPU or CUDA, or OpenVINO on the CPU, in full precision or in bf16. None
    of them falls back to another."""
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """The TCP port; 0 takes a free one."""
    max_pixels: Annotated[int, Field(ge=1)] = 50_000_000
    """The largest picture, in pixels, read from its header before it is decoded."""
    max_bytes: Annotated[int, Field(ge=1)] = 32 * 1024 * 1024
    """The largest request body in bytes."""
    max_files: Annotated[int, Field(ge=1)] = 32
    """The most pictures in one request to /predict/batch."""
    max_files_bytes: Annotated[int, Field(ge=1)] = 128 * 1024 * 1024
    """The largest body of such a request in bytes; each of its pictures may have `max_bytes`."""
    max_batch: Annotated[int, Field(ge=1)] = 8
    """The most pictures the network is given at once."""
    queue_size: Annotated[int, Field(ge=1)] = 64
    """The most requests that are worked on or wait; one more is answered with 503."""
    queue_bytes: Annotated[int, Field(ge=1)] = 256 * 1024 * 1024
    """The most bytes that the uploads and canvases of those requests take together."""
    timeout_s: Annotated[float, Field(gt=0)] = 30.0
    """Seconds from the complete upload to the answer; a request that takes longer is answered with 504."""
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads of the network; 0 takes one per core."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @classmethod
    def load(cls, **chosen: Any) -> Settings:
        """The settings from the environment; those in `chosen` (the command's flags) go first.

        Raises:
            StartupError: an unknown `SEGDEPTH_*` variable, or a value that does not fit; the reason names it.
        """
        for variable in os.environ:
            name = variable.upper()
            # pydantic-settings ignores unknown variables, and a misspelt limit would silently not be one.
            if name.startswith(ENV_PREFIX) and name[len(ENV_PREFIX) :].lower() not in cls.model_fields:
                raise StartupError(f"unknown setting {variable}")
        try:
            return cls(**chosen)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            raise StartupError(f"setting {name} ({ENV_PREFIX}{name.upper()}): {first['msg']}") from None
