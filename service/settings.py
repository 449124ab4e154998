"""The settings: one frozen object, from `SEGDEPTH_*` environment variables and the command's flags."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.cores import usable_cores
from service.errors import StartupError

ENV_PREFIX = "SEGDEPTH_"
_DEVICE = re.compile(r"cpu|(cuda|tensorrt)(:\d+)?|openvino(-bf16)?")
BUNDLED_MODEL = Path(__file__).parent / "bundled" / "segdepth.onnx"
MAX_CPU_ENGINES = 8
"""With more cores there may be fewer, each with several threads and its own copy of the weights."""


def _devices(text: str) -> str:
    """Checked here, since people would be shown a field's pattern."""
    if not all(_DEVICE.fullmatch(device) for device in text.split(",")):
        known = "cpu, cuda, cuda:1, tensorrt, openvino and openvino-bf16, or several with commas between"
        raise PydanticCustomError("device", "'{text}' is no device; there are {known}", {"text": text, "known": known})
    return text


class Settings(BaseSettings):
    """What an operator may choose. Every field is also an environment variable: `port` is `SEGDEPTH_PORT`."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True)

    model: Path = BUNDLED_MODEL
    """The ONNX file to serve."""
    device: Annotated[str, AfterValidator(_devices)] = "cpu"
    """What the network runs on: ONNX Runtime on `cpu`, `cuda` or `tensorrt`, or OpenVINO on the CPU, in full precision
    (`openvino`) or in bf16 (`openvino-bf16`); or several with commas between, such as `cuda:0,cuda:1`, which then share
    the work. None of them falls back to another. `cpu` alone is an engine for each core, up to `MAX_CPU_ENGINES`."""
    cuda_graphs: bool = False
    """On `cuda` and `tensorrt`: capture each shape as a CUDA graph, which spares launches."""
    gpu_memory: Annotated[int, Field(ge=0)] = 0
    """On `cuda` and `tensorrt`: the most bytes of GPU memory that ONNX Runtime takes in each session, for weights, the
    maps between layers and workspaces; 0 sets no limit. CUDA's own memory and the pictures' buffers come on top."""
    cache_dir: Path | None = None
    """Where TensorRT's engines are kept; by default in `~/.cache/segdepth`."""
    exit_when_lost: bool = False
    """End with code 1, a second after the last engine is lost, so that whoever started the process starts it again: a
    process does not get a lost device back. Kubernetes does so by its liveness probe, after a minute."""
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
    """The most pictures the network is given at once. At its start the service tries whether so many gain anything on
    the device, and takes fewer where they do not."""
    queue_size: Annotated[int, Field(ge=1)] = 64
    """The most requests that are worked on or wait; one more is answered with 503."""
    queue_bytes: Annotated[int, Field(ge=1)] = 256 * 1024 * 1024
    """The most bytes that the uploads and canvases of those requests take together; also the most bytes of uploads
    that are being received, of large answers that clients have not taken yet, and of one answer of `/predict/batch`."""
    timeout_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 30.0
    """Seconds from the complete upload to the answer; a request that takes longer is answered with 504."""
    max_timeout_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 120.0
    """The most seconds that a request may ask for instead, with the header `X-Request-Timeout-Ms`."""
    transfer_timeout_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 60.0
    """Seconds in which an upload must be complete (else 408), and in which a client must take what it is sent."""
    keep_alive_s: Annotated[int, Field(ge=1)] = 75
    """Seconds that an idle connection is kept for its next request. More than a load balancer keeps it (nginx and AWS's
    60 s, Google's 600 s), which may otherwise send a request just as it is closed, and answer 502 for it."""
    grace_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 31.0
    """Seconds from SIGTERM on in which accepted requests are answered; then the process ends in any case."""
    drain_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Seconds of those in which new requests are still accepted, while `/health/ready` says 503 already, until load
    balancers have seen it."""
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads of an engine; 0 takes one per core, of all engines together. With another number, `cpu` is one
    engine."""
    pixel_workers: Annotated[int, Field(ge=0)] | None = None
    """Processes that decode pictures and make answers; 0: threads of the server itself. By default 0 where no device is
    a GPU, and otherwise one for each core but one, at least 1 and at most 16."""
    api_keys_file: Path | None = None
    """SHA-256 sums of API keys, one per line, each optionally with a name; without it the service is open to all."""
    cors_origins: str = ""
    """Origins whose web pages may use the service, with commas between, or `*`; by default none."""
    log_format: Literal["text", "json"] = "text"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @property
    def devices(self) -> list[str]:
        """One entry per engine."""
        if self.device != "cpu" or self.threads:
            return self.device.split(",")
        cores = usable_cores()
        return ["cpu"] * (cores // math.ceil(cores / MAX_CPU_ENGINES))

    @property
    def gpus(self) -> list[str]:
        """Those of `devices` that are GPUs; the others share the cores."""
        return [device for device in self.devices if device.startswith(("cuda", "tensorrt"))]

    @model_validator(mode="after")
    def _limits_fit_each_other(self) -> Settings:
        if self.timeout_s > self.max_timeout_s:
            raise ValueError("timeout_s is larger than max_timeout_s")
        if self.drain_s >= self.grace_s:
            raise ValueError("drain_s is not smaller than grace_s")
        return self

    @classmethod
    def load(cls, **chosen: Any) -> Settings:
        """The settings from the environment; those in `chosen` (the command's flags) go first.

        Raises:
            StartupError: an unknown `SEGDEPTH_*` variable, or a value that does not fit; the reason names it.
        """
        for variable in os.environ:
            name = variable.upper()
            # pydantic-settings ignores unknown variables, and a misspelt limit would silently not be one.
            if not name.startswith(ENV_PREFIX) or _is_of_kubernetes(variable):
                continue
            if name[len(ENV_PREFIX) :].lower() not in cls.model_fields:
                raise StartupError(f"unknown setting {variable}")
        if f"{ENV_PREFIX}PORT" in kubernetes_variables():
            chosen = {"port": cls.model_fields["port"].default, **chosen}
        try:
            return cls(**chosen)
        except ValidationError as error:
            first = error.errors()[0]
            if not first["loc"]:
                raise StartupError(f"settings: {first['msg']}") from None
            name = ".".join(str(part) for part in first["loc"])
            raise StartupError(f"setting {name} ({ENV_PREFIX}{name.upper()}): {first['msg']}") from None


def kubernetes_variables() -> list[str]:
    """The `SEGDEPTH_*` variables of the environment that are no settings, but describe a Kubernetes Service.

    For a Service named `segdepth`, or `segdepth-` and more, Kubernetes gives every container of the namespace
    SEGDEPTH_SERVICE_HOST, SEGDEPTH_PORT=tcp://10.0.0.1:8000, SEGDEPTH_PORT_8000_TCP_ADDR and more.
    """
    return sorted(variable for variable in os.environ if _is_of_kubernetes(variable))


_SERVICE = re.compile(
    rf"{ENV_PREFIX}(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)


def _is_of_kubernetes(variable: str) -> bool:
    if _SERVICE.fullmatch(variable):
        return True
    is_url = re.match(r"(tcp|udp|sctp)://", os.environ[variable]) is not None
    return is_url and re.fullmatch(rf"{ENV_PREFIX}(\w+_)?PORT", variable) is not None
