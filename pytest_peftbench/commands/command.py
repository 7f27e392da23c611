"""What a command of `peftbench` is, what commands ask of their arguments, and where they speak."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pytest_peftbench.results.files import InputError


@dataclass(frozen=True)
class Command:
    """One command. help: a line for the list of all of them; description: what its own `--help` says.

    run: does it with the parsed arguments and returns the exit code; what takes seconds is imported only then. An
    InputError from it, or from an argument's `type`, is a usage error.
    """

    name: str
    help: str
    description: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def require_folder(named: str, folder: Path) -> None:
    """Raise InputError where nothing can be written below `folder`: before the work, and not after it."""
    folder = folder.resolve()
    try:
        with tempfile.TemporaryFile(dir=next(place for place in (folder, *folder.parents) if place.exists())):
            pass
    except OSError as error:
        raise InputError(f"{named}: cannot be written: {error.strerror}") from error


def require_file(named: str, file: Path) -> None:
    """The same for a file."""
    if file.is_dir():
        raise InputError(f"{named}: is a folder; give a file in it")
    require_folder(named, file.parent)


def say(line: str) -> None:
    """What the command gives."""
    print(line)  # noqa: T201


def tell_progress(line: str) -> None:
    """What it is doing, for whoever waits."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201
