#!/bin/sh
# Writes the lock files that the images are built from: deploy/requirements-{cpu,gpu,build}.txt, with the hash of every
# file of every package, at the versions of constraints.txt. Run it after a change of constraints.txt; it needs uv.
set -eu
cd "$(dirname "$0")/.."

lock() {
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --constraint constraints.txt \
        --custom-compile-command deploy/lock.sh --output-file "deploy/requirements-$1.txt" "$2" ${3:+--extra "$3"}
}

lock cpu pyproject.toml cpu
lock gpu pyproject.toml gpu
# What builds the wheel of the project: build-system.requires of pyproject.toml, and a C compiler.
printf '%s\n' 'hatchling>=1.27' 'ziglang>=0.15' | lock build -
