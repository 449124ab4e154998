"""MATLAB files, as the official data sets come: before version 7.3 (scipy) and 7.3, which is HDF5 (h5py)."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from training.data import DataError


def _imported(name: str) -> Any:
    """A module of the extra `prepare`.

    Raises:
        DataError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise DataError(
            f"{name} is not installed, which reads MATLAB's files: pip install -c constraints.txt -e '.[prepare]'"
        ) from None


def load_old_mat(path: Path, variables: Iterable[str]) -> dict[str, Any]:
    """Variables of a MATLAB file before version 7.3.

    Raises:
        DataError: the file is missing, damaged or of another version, or lacks a variable.
    """
    scipy_io = _imported("scipy.io")
    wanted = list(variables)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        content: dict[str, Any] = scipy_io.loadmat(str(path), variable_names=wanted)
    except NotImplementedError:
        raise DataError(f"{path}: MATLAB 7.3; the official file is of an older version") from None
    except Exception as error:  # scipy's reader fails in many ways on a damaged file
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path}: not a MATLAB file, or damaged ({type(error).__name__}: {reason})") from None
    for name in wanted:
        if name not in content:
            raise DataError(f"{path}: variable '{name}' is missing")
    return content


@contextlib.contextmanager
def open_mat73(path: Path) -> Iterator[Any]:
    """A MATLAB 7.3 file (HDF5), open for reading.

    Raises:
        DataError: the file is missing, truncated or something else.
    """
    h5py = _imported("h5py")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        if "truncated" in str(error):
            raise DataError(f"{path}: truncated; download it again ({' '.join(str(error).split())})") from None
        raise DataError(f"{path}: not a MATLAB 7.3 file ({' '.join(str(error).split())[:200]})") from None
    with file:
        yield file


def read_hdf(path: Path, what: str, read: Callable[[], Any]) -> Any:
    """`read()`, with the library's complaints about a damaged file as one line."""
    try:
        return read()
    except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
        raise DataError(f"{path}: {what} cannot be read ({' '.join(str(error).split())[:200]})") from None
