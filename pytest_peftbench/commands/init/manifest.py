"""What an earlier `peftbench init` wrote: tells what was changed since from what may be brought up to date."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from pytest_peftbench.results.files import InputError, converted, format_json, read_json, stands

FILE = "benchmarks/.peftbench-init.json"
SCHEMA = 1
# `own`: somebody changed or removed it, or it was there before.
State = Literal["new", "same", "updated", "own"]


@dataclass(frozen=True)
class Manifest:
    """methods: those asked for; empty: all. files: sha256 of each file as it was written, by its path."""

    methods: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    schema: int = SCHEMA

    @classmethod
    def of(cls, root: Path) -> Manifest:
        """That of a repository; an empty one where there is none. Raises InputError for one that cannot be read."""
        file = root / FILE
        if not stands(file):
            return cls()
        way_out = "restore it, or delete it: files that differ from what would be written are then left alone"
        try:
            found = converted(file, read_json(file), cls)
        except InputError as error:
            raise InputError(f"{error}; {way_out}") from error
        if found.schema != SCHEMA:
            raise InputError(f"{file}: schema {found.schema} is not {SCHEMA}, the one that is known; {way_out}")
        return found

    def content(self) -> bytes:
        """The file."""
        return (format_json({"schema": self.schema, **asdict(self)}, spread=2) + "\n").encode()

    def state(self, root: Path, name: str, content: bytes) -> State:
        """What becomes of a file that is to have this content."""
        file, written = root / name, self.files.get(name)
        if not stands(file):
            return "own" if written else "new"
        if file.is_symlink() or not file.is_file():
            return "own"
        there = sha256(file.read_bytes())
        if there == sha256(content):
            return "same"
        return "updated" if there == written else "own"

    def after(self, methods: list[str], written: Mapping[str, bytes]) -> Manifest:
        """That of these files beside those of earlier."""
        hashes = self.files | {name: sha256(content) for name, content in written.items()}
        return Manifest(methods, dict(sorted(hashes.items())))


def sha256(content: bytes) -> str:
    """Of a content; line ends are not counted, which version control changes."""
    return hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest()
