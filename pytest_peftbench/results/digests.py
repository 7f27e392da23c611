"""Hashes of what a result was made from: installed packages, tests, files. Imports no torch, nor what it hashes."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from pytest_peftbench.results.files import InputError

# Of what is not there.
NONE = "none"
# Characters of a hash in a result: it is compared with another one, not relied on against forgery.
_DIGITS = 16


@cache
def package_digest(package: str, *folders: str) -> str:
    """Hash of the files of an installed package, or of these folders of it; `none` where it is not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return NONE
    root = Path(spec.origin).parent
    return files_digest(root, (file for folder in folders or (".",) for file in (root / folder).rglob("*")))


def folder_digest(folder: Path | None) -> str:
    """Hash of all files below a folder; `none` where there is none."""
    return NONE if folder is None or not folder.is_dir() else files_digest(folder, folder.rglob("*"))


def files_digest(root: Path, paths: Iterable[Path]) -> str:
    """Hash of files, by content and by path as seen from `root`; folders and compiled Python are passed over."""
    sha = hashlib.sha256()
    for file in sorted({path for path in paths if path.suffix != ".pyc" and path.is_file()}):
        sha.update(f"{file.relative_to(root).as_posix()}\0{file_sha256(file)}\0".encode())
    return sha.hexdigest()[:_DIGITS]


def file_digest(file: Path) -> str:
    """Hash of one file's content; `none` where there is none. Raises InputError where it cannot be read."""
    return file_sha256(file)[:_DIGITS] if file.is_file() else NONE


def file_sha256(file: Path) -> str:
    """The whole sha256 of a file's content. Raises InputError where it cannot be read."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from error
