"""The one reader of git: JSON files as commits hold them, and what changed since one. Imports no torch."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from pytest_peftbench.results.files import InputError, require_name

# Of git's modes: a file, and one that can be run. Links and submodules are none.
_FILES = ("100644", "100755")
# What became of a file; `other` of a link, a submodule, one in the middle of a merge. A renamed one is gone, and new.
Became = Literal["new", "changed", "gone", "other"]


@dataclass(frozen=True)
class Changed:
    """A file of the working tree that is not as it was.

    name: its path below the repository's top, parts joined by `/`. blob: what it was, to be read with `blob_contents`;
    empty where it is new.
    """

    name: str
    became: Became
    blob: str = ""


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


def top_of(about: str, folder: Path) -> Path:
    """The top folder of the repository that a folder lies in. Raises InputError where it lies in none."""
    return Path(git(about, "rev-parse", "--show-toplevel", folder=folder).removesuffix("\n")).resolve()


def is_followed(about: str, file: Path, new: bool = False) -> bool:
    """Whether git follows a file, so that a change to it is seen. new: or would, once it is added."""
    options = ["--cached", *(["--others", "--exclude-standard"] if new else [])]
    return bool(git(about, "ls-files", "-z", *options, "--", file.name, folder=file.parent))


def changed_since(about: str, revision: str, top: Path) -> list[Changed]:
    """The files of a working tree that are not as in a revision, new ones too, sorted; ignored ones are not seen.

    top: of the repository. Raises InputError for what is no revision there.
    """
    commit = _commit(about, revision, top)
    how = ("--raw", "-z", "--no-abbrev", "--no-renames", "--no-ext-diff", "--ignore-submodules=none")
    parts = iter(git(about, "diff", *how, commit, "--", folder=top).split("\0"))
    found = [_changed(head, next(parts)) for head in parts if head]
    new = git(about, "ls-files", "-z", "--others", "--exclude-standard", folder=top).split("\0")
    return sorted([*found, *(Changed(name, "new") for name in new if name)], key=lambda changed: changed.name)


def _commit(about: str, revision: str, top: Path) -> str:
    try:
        return git(about, "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}", folder=top).strip()
    except InputError as error:
        shallow = git(about, "rev-parse", "--is-shallow-repository", folder=top).strip() == "true"
        way_out = (
            "it is a shallow clone: get the rest with `git fetch --unshallow`, or `fetch-depth: 0` of actions/checkout"
            if shallow
            else "name a branch, a tag or a commit that it has, after `git fetch` where it is another repository's"
        )
        raise InputError(f"{about}: {revision!r} is no revision of {top}; {way_out}") from error


def _changed(head: str, name: str) -> Changed:
    """Of git's `:100644 100644 <blob> <blob> M`."""
    before, after, blob, _, status = head.removeprefix(":").split()
    if status == "M" and before in _FILES and after in _FILES:
        return Changed(name, "changed", blob)
    if status == "A" and after in _FILES:
        return Changed(name, "new")
    return Changed(name, "gone" if status == "D" else "other", blob)


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
