"""Figures of one side of a comparison, kept by what they depend on, so that they are measured once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

import pytest_peftbench
from pytest_peftbench.results.files import InputError, converted, format_json, read_json, require_name, write_files

_CONTENTS = "contents.json"
_SCHEMA = 1
# An entry that nobody asked for so long is removed.
_KEEP_S = 30 * 24 * 3600


@dataclass(frozen=True)
class _Contents:
    """schema: see _SCHEMA. sha256: of each file, by its path below the entry's folder."""

    schema: int
    sha256: dict[str, str]


class Cache:
    """Entries of files, each in a folder that is named by its key. folder: None: nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def take(self, key: str, out: Path) -> bool:
        """Write the files of an entry below `out`; whether there is a whole one. What is damaged counts as absent."""
        if self._folder is None:
            return False
        place = self._folder / key
        try:
            found = converted(place, read_json(place / _CONTENTS), _Contents)
            files = {name: _whole(place, name, sha) for name, sha in found.sha256.items()}
        except (InputError, OSError):
            return False
        if found.schema != _SCHEMA or not files:
            return False
        write_files({out / name: content for name, content in files.items()})
        with contextlib.suppress(OSError):  # it is in use; another process may have removed it
            os.utime(place / _CONTENTS)
        return True

    def keep(self, key: str, files: Mapping[str, bytes]) -> None:
        """Make an entry. Its list of contents comes last: an entry without is none."""
        if self._folder is None or not files:
            return
        place = self._folder / key
        contents = {"schema": _SCHEMA, "sha256": {name: _digest(content) for name, content in files.items()}}
        write_files({place / name: content for name, content in files.items()})
        write_files({place / _CONTENTS: (format_json(contents) + "\n").encode()})

    def drop(self, key: str) -> None:
        """Remove an entry, its list of contents first."""
        if self._folder is not None:
            (self._folder / key / _CONTENTS).unlink(missing_ok=True)
            shutil.rmtree(self._folder / key, ignore_errors=True)

    def prune(self) -> None:
        """Remove the entries that nobody asked for in a month."""
        for file in sorted(self._folder.glob(f"*/{_CONTENTS}")) if self._folder else []:
            with contextlib.suppress(OSError):
                if time.time() - file.stat().st_mtime > _KEEP_S:
                    self.drop(file.parent.name)


def key_of(*parts: object) -> str:
    """The name of an entry, from plain data that its files depend on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:40]


@cache
def own_digest() -> str:
    """Hash of this package: its code, and the base models and data that come with it."""
    root, sha = Path(pytest_peftbench.__file__).parent, hashlib.sha256()
    for file in sorted(path for path in root.rglob("*") if path.is_file() and path.suffix != ".pyc"):
        name = file.relative_to(root).as_posix()
        if not name.startswith("shipped/"):  # of those the cases say themselves what they depend on
            sha.update(f"{name}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return sha.hexdigest()


def files_of(root: Path, names: Sequence[Path]) -> dict[str, bytes]:
    """The content of files, and of all files in folders, by their path below `root`; of those that are there."""
    found: dict[str, bytes] = {}
    for name in names:
        for file in sorted(name.rglob("*")) if name.is_dir() else [name]:
            if file.is_file():
                found[file.relative_to(root).as_posix()] = file.read_bytes()
    return found


def _whole(place: Path, name: str, sha256: str) -> bytes:
    for part in PurePosixPath(name).parts:
        require_name(f"{place / _CONTENTS}: sha256", part)
    content = (place / name).read_bytes()
    if _digest(content) != sha256:
        raise InputError(f"{place / name}: is not as it was written")
    return content


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
