"""Compiles service/kernels.c while the project is built or installed, into the library that service/kernels.py loads.

The compiler is `CC`, by default `cc`. Without one the project is installed all the same, and takes NumPy for these
loops; where `CC` was given, it has to work. A wheel gets the library without a change of the source tree; for an
editable installation it is put beside its source.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import platform_tags

SOURCE = "service/kernels.c"
LIBRARY = "service/_kernels.so"
# Products and sums are rounded each by itself, as in NumPy, also where a processor could fuse them.
OPTIONS = ["-O3", "-s", "-shared", "-fPIC", "-ffp-contract=off"]


class CustomBuildHook(BuildHookInterface[Any]):
    """Before a wheel, also one for an editable installation, is put together."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="segdepth-build-")
        made, place = Path(self._folder.name, "kernels.so"), Path(self.root, LIBRARY)
        try:
            self._compile(made)
            if version == "editable":
                # Moved when it is whole: a server that runs goes on with the file that it has.
                beside = place.with_name(f"{place.name}.{made.parent.name}")
                shutil.copy(made, beside)
                beside.replace(place)
        except (OSError, subprocess.CalledProcessError) as error:
            self._folder.cleanup()
            if os.environ.get("CC"):
                raise SystemExit(f"{SOURCE} cannot be compiled by CC={os.environ['CC']}: {error}") from None
            self.app.display_warning(f"{SOURCE} was not compiled, NumPy takes its place: {error}")
            return
        if version != "editable":
            build_data["force_include"][str(made)] = LIBRARY
            # The library knows nothing of Python, so one wheel is for every version.
            build_data["pure_python"] = False
            own = next(tag for tag in platform_tags() if not tag.startswith(("manylinux", "musllinux")))
            build_data["tag"] = f"py3-none-{own}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        self._folder.cleanup()

    def _compile(self, made: Path) -> None:
        source = Path(self.root) / SOURCE
        digest = hashlib.sha256(source.read_bytes()).hexdigest()
        command = [*shlex.split(os.environ.get("CC") or "cc"), *OPTIONS, f'-DSOURCE="{digest}"', str(source)]
        subprocess.run([*command, "-o", str(made)], check=True)
