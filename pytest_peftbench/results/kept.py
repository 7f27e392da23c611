"""An adapter as one PEFT wrote it, with what it gave there: kept beside the baseline of its case. Imports no torch.

A later PEFT must go on to read it. So nothing writes over one that is there.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated

from msgspec import Meta

from pytest_peftbench.results.files import InputError, converted, format_json, read_json, require_name, require_plain
from pytest_peftbench.results.result import CaseId

RECORD_FILE = "kept.json"
_WAY_OUT = "restore it from version control, or delete the folder and record it again with --peft-update-baselines"


@dataclass(frozen=True)
class Kept:
    """An adapter of a case.

    peft: the version that wrote it. output: what the adapted model gave, in a few numbers, see
    `measure.precision.project`. files: what PEFT wrote, by path below the adapter's folder, parts joined by `/`.
    """

    case: CaseId
    peft: str
    output: list[float]
    files: dict[str, bytes]

    def contents(self) -> dict[str, bytes]:
        """The files of a folder that keeps it, by path: those of the adapter, and one that says what they must give."""
        hashes = {name: _digest(name, content) for name, content in sorted(self.files.items())}
        record = asdict(_Record(self.case, self.peft, self.output, hashes)) | {"case": self.case.to_json()}
        return {RECORD_FILE: (format_json(record, spread=2) + "\n").encode(), **self.files}


@dataclass(frozen=True)
class _Record:
    case: CaseId
    peft: str
    output: Annotated[list[float], Meta(min_length=1)]
    sha256: Annotated[dict[str, str], Meta(min_length=1)]


def kept_path(root: Path, case: CaseId) -> Path:
    """The folder for a case's adapter: beside its baseline, and with the name of that. Raises InputError as `file`."""
    return case.file(root).with_suffix("")


def read_kept(folder: Path, case: CaseId) -> Kept:
    """What a folder keeps for a case. Raises InputError, with the way out, for what is not as it was written."""
    try:
        record = converted(folder / RECORD_FILE, read_json(folder / RECORD_FILE), _Record)
        if record.case != case:
            raise InputError(f"{folder}: keeps an adapter of {record.case}, not of {case}")
        files = {name: _read(folder, name, digest, record.peft) for name, digest in record.sha256.items()}
    except InputError as error:
        raise InputError(f"{error}; {_WAY_OUT}") from error
    return Kept(case, record.peft, record.output, files)


def _read(folder: Path, name: str, digest: str, peft: str) -> bytes:
    for part in PurePosixPath(name).parts or (name,):
        require_name(f"{folder / RECORD_FILE}: sha256", part)
    file = folder / name
    require_plain(file)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from error
    if _digest(name, content) != digest:
        raise InputError(f"{file}: is not what PEFT {peft} wrote, its sha256 is another")
    return content


def _digest(name: str, content: bytes) -> str:
    """sha256; a text's line ends are not counted, which version control changes."""
    return hashlib.sha256(content.replace(b"\r\n", b"\n") if name.endswith(".json") else content).hexdigest()
