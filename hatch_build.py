"""Compiles service/kernels.c while the project is built or installed, into the library that service/kernels.py loads.

The compiler is `CC`, by default `cc`. Without one the project is installed all the same, and takes NumPy for these
loops; where `CC` was given, it has to work.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = "service/kernels.c"
LIBRARY = "service/_kernels.so"
# Products and sums are rounded each by itself, as in NumPy, also where a processor could fuse them.
OPTIONS = ["-O3", "-s", "-shared", "-fPIC", "-ffp-contract=off"]


class CustomBuildHook(BuildHookInterface[Any]):
    """Before a wheel, also one for an editable installation, is put together."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        # Linked beside it and moved: a server that runs goes on with the file that it has.
        made = root / f"{LIBRARY}.{os.getpid()}"
        digest = hashlib.sha256((root / SOURCE).read_bytes()).hexdigest()
        options = [*OPTIONS, f'-DSOURCE="{digest}"', str(root / SOURCE), "-o", str(made)]
        command = [*shlex.split(os.environ.get("CC") or "cc"), *options]
        try:
            subprocess.run(command, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            if os.environ.get("CC"):
                raise
            self.app.display_warning(f"{SOURCE} was not compiled, NumPy takes its place: {error}")
            (root / LIBRARY).unlink(missing_ok=True)  # Of an older source.
            return
        made.replace(root / LIBRARY)
        # The library knows nothing of Python, so one wheel is for every version.
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
        build_data["artifacts"].append(LIBRARY)
