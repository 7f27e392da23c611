"""The JSON files of a folder as commits of git hold them. Imports no torch."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator, Sequence
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
    tree = git(text, "rev-parse", "--verify", "--end-of-options", text).strip()
    files = json_blobs(text, tree)
    return zip(files, blob_contents(text, files.values()), strict=True)


def json_blobs(about: str, tree: str, *paths: str, folder: Path | None = None) -> dict[str, str]:
    """The blob of each JSON file of a commit or tree, by its path; below `paths` alone, if any are given."""
    found = blobs(about, tree, *paths, folder=folder)
    return {name: blob for name, blob in found.items() if name.endswith(".json")}


def blobs(about: str, tree: str, *paths: str, folder: Path | None = None) -> dict[str, str]:
    """The blob of each file, links left out, likewise."""
    rows = git(about, "ls-tree", "-r", "-z", tree, *paths, folder=folder).split("\0")
    found = (row.partition("\t") for row in rows if row)
    return {name: head.split()[2] for head, _, name in found if head.startswith(_FILES)}


def blob_contents(about: str, blobs: Iterable[str], folder: Path | None = None) -> Iterator[bytes]:
    """What the blobs hold, in their order."""
    answer = _answer(about, ("cat-file", "--batch"), folder, given="".join(f"{blob}\n" for blob in blobs).encode())
    place = 0
    while place < len(answer):
        # `<hash> blob <size>`, the content, and the end of a line
        start = answer.index(b"\n", place) + 1
        size = int(answer[place:start].split()[2])
        yield answer[start : start + size]
        place = start + size + 1


def git(about: str, *arguments: str, folder: Path | None = None) -> str:
    """What git answers in a folder. Raises InputError that begins with `about`, in git's words, where it does not."""
    return _answer(about, arguments, folder).decode(errors="replace")


def _answer(about: str, arguments: Sequence[str], folder: Path | None, given: bytes = b"") -> bytes:
    try:
        answer = subprocess.run(["git", *arguments], cwd=folder, input=given, capture_output=True, check=False)
    except OSError as error:
        raise InputError(f"{about}: git cannot be run: {error.strerror}") from error
    if answer.returncode:
        words = answer.stderr.decode(errors="replace").strip().splitlines() or ["git failed"]
        raise InputError(f"{about}: {words[0].removeprefix('fatal: ')}")
    return answer.stdout
