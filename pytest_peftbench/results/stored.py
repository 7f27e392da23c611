"""A result as `--peft-json` left it, read again with its pictures. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from pytest_peftbench.results.files import InputError, converted, read_json, require_name
from pytest_peftbench.results.result import CaseId, Picture, Result


def read_result(file: Path, case: CaseId) -> Result:
    """The result of a case, whole. Raises InputError for one that is damaged, of another case, or lacks a picture."""
    data = read_json(file)
    if "peftbench" not in data:
        raise InputError(f"{file}: is no result of this benchmark")
    result = Result.from_json(data, str(file))
    if result.case != case:
        raise InputError(f"{file}: is a result of {result.case}, not of {case}")
    return replace(result, pictures=[with_content(path, picture) for path, picture in pictures_of(file, data)])


def with_content(file: Path, picture: Picture) -> Picture:
    """The picture with what its file holds. Raises InputError where that cannot be read."""
    try:
        return replace(picture, png=file.read_bytes())
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from error


@dataclass(frozen=True)
class _Row:
    file: str
    prompt: str
    seed: int


def pictures_of(file: Path, data: Mapping[str, Any]) -> tuple[tuple[Path, Picture], ...]:
    """Where a result's pictures lie, below its folder and nowhere else, and what each is of, without its content."""
    place = "peftbench.pictures"
    rows = converted(file, data["peftbench"].get("pictures", []), list[_Row], place)
    for row in rows:
        for part in PurePosixPath(row.file).parts:
            require_name(f"{file}: {place}", part)
    return tuple((file.parent / row.file, Picture(row.file, row.prompt, row.seed, b"")) for row in rows)
