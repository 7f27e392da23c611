"""The JSON files of a folder as a commit of git holds them. Imports no torch."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from pytest_peftbench.results.files import InputError, require_name

# Of git's modes: a file, and one that can be run. Links and submodules are none.
_FILES = ("100644", "100755")


def is_revision(text: str) -> bool:
    """Whether a text names a folder of a commit, as `v1.0:baselines`; what is there as a path is a path."""
    revision, colon, _ = text.partition(":")
    return bool(colon and revision) and not Path(text).exists()


def write_folder(text: str, out: Path) -> None:
    """Write the JSON files of `REV:DIR` below `out`, as git names them: DIR starts at the root of the repository.

    Raises InputError, in git's words, where there is no repository, commit or folder of that name.
    """
    for name, content in _contents(text):
        for part in PurePosixPath(name).parts:
            require_name(text, part)
        file = out / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def _contents(text: str) -> Iterator[tuple[str, bytes]]:
    tree = _git(text, "rev-parse", "--verify", "--end-of-options", f"{text}").decode().strip()
    rows = (row.partition("\t") for row in _git(text, "ls-tree", "-r", "-z", tree).decode().split("\0") if row)
    blobs = [(name, head.split()[2]) for head, _, name in rows if head.startswith(_FILES) and name.endswith(".json")]
    answer = _git(text, "cat-file", "--batch", given="".join(f"{blob}\n" for _, blob in blobs).encode())
    place = 0
    for name, _ in blobs:
        # `<hash> blob <size>`, the content, and the end of a line
        start = answer.index(b"\n", place) + 1
        size = int(answer[place:start].split()[2])
        yield name, answer[start : start + size]
        place = start + size + 1


def _git(text: str, *arguments: str, given: bytes = b"") -> bytes:
    try:
        answer = subprocess.run(["git", *arguments], input=given, capture_output=True, check=False)
    except OSError as error:
        raise InputError(f"{text}: git cannot be run: {error.strerror}") from error
    if answer.returncode:
        words = answer.stderr.decode(errors="replace").strip().splitlines() or ["git failed"]
        raise InputError(f"{text}: {words[0].removeprefix('fatal: ')}")
    return answer.stdout
