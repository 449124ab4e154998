"""What no layer of an image may hold: keys, passwords, and files that come from a developer's or builder's home."""

from __future__ import annotations

import json
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import PurePosixPath

NAMES = re.compile(
    r"(id_(rsa|dsa|ecdsa|ed25519)|\.git|\.env|\.netrc|\.pypirc|\.npmrc|\.ssh|\.aws|\.docker|\.dockercfg|\.kube|\.gnupg"
    r"|\.git-credentials|pip\.conf|kubeconfig|credentials(\.json)?|\.?\w*_history|.+\.(key|p12|pfx|jks|keystore))"
)
"""Of files and folders, whole."""
CONTENTS = [
    re.compile(pattern)
    for pattern in (
        rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----\s+[A-Za-z0-9+/]{40}",
        rb"AKIA[0-9A-Z]{16}(?![A-Za-z0-9+/])",
        rb"gh[pousr]_[A-Za-z0-9]{36}",
        rb"glpat-[A-Za-z0-9_-]{20}",
        rb"pypi-AgEIcHlwaS5vcmc[A-Za-z0-9_-]{40}",
        rb"hf_[A-Za-z0-9]{34}",
        rb"://[^\s/:@\"'<>{}$%]{1,64}:[^\s/:@\"'<>{}$%]{8,64}@[a-z0-9.-]+\.[a-z]{2,}",
    )
]
"""A private key, keys of AWS, GitHub, GitLab, PyPI and Hugging Face, and a password in a URL."""
LARGEST = 8 * 1024 * 1024
"""Bytes; larger files are libraries and models, which are looked at by their names only."""


def secrets(layer: tarfile.TarFile) -> Iterator[str]:
    """What a layer should not have, in words."""
    for member in layer:
        path = PurePosixPath(member.name)
        if any(NAMES.fullmatch(part) for part in path.parts):
            yield f"{member.name}: by its name"
        if member.isfile() and member.size <= LARGEST:
            file = layer.extractfile(member)
            assert file is not None
            content = file.read()
            for pattern in CONTENTS:
                if found := pattern.search(content):
                    yield f"{member.name}: {found[0][:24]!r}..."


def of_image(image: str, base: str) -> tuple[int, list[str]]:
    """How many layers an image has on its base, and what is in them that should not be: also what a later one hides."""
    below = len(layers(base))
    found: list[str] = []
    with tempfile.TemporaryFile() as saved:
        subprocess.run(["docker", "save", image], stdout=saved, check=True)
        saved.seek(0)
        with tarfile.open(fileobj=saved) as archive:
            manifest = archive.extractfile("manifest.json")
            assert manifest is not None
            ours = json.load(manifest)[0]["Layers"][below:]
            for name in ours:
                with tarfile.open(fileobj=archive.extractfile(name)) as layer:
                    found += secrets(layer)
    return len(ours), found


def layers(image: str) -> list[str]:
    done = subprocess.run(["docker", "inspect", image], capture_output=True, check=True)
    found: list[str] = json.loads(done.stdout)[0]["RootFS"]["Layers"]
    return found
