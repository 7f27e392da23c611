"""What the catalogue of bad input does to a file, and how a row of it reads."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from support import write_json


class Row(NamedTuple):
    """A file, what is done to it, and the words that the error must hold beside the file's name."""

    file: str
    change: Callable[[Path], None]
    words: str


def rows(*table):
    """The rows as parameters, each with an id of file and words."""
    return [pytest.param(Row(*row), id=f"{row[0].rpartition('/')[2]} {row[2]}"[:90]) for row in table]


def keys(**changes):
    """The file's JSON with these keys."""

    def change(path):
        write_json(path, {**(json.loads(path.read_text()) if path.exists() else {}), **changes})

    return change


def without(*names):
    """The file's JSON without these keys."""

    def change(path):
        write_json(path, {key: value for key, value in json.loads(path.read_text()).items() if key not in names})

    return change


def at(place, value):
    """The file's JSON with another value at `train_info.metrics.0`."""

    def change(path):
        data = part = json.loads(path.read_text())
        *above, last = (int(word) if word.isdigit() else word for word in place.split("."))
        for word in above:
            part = part[word]
        part[last] = value
        write_json(path, data)

    return change


def content(value):
    """Another content: text, bytes, or what becomes JSON."""

    def change(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(value, bytes):
            path.write_bytes(value)
        else:
            path.write_text(value if isinstance(value, str) else json.dumps(value))

    return change


def nested(path):
    """JSON that no parser wants to follow."""
    path.write_text('{"a": ' + "[" * 100_000)


def gone(path):
    path.unlink()


def folder(path):
    """A folder in place of the file."""
    path.unlink(missing_ok=True)
    path.mkdir(parents=True)


def pipe(path):
    """A pipe in place of the file: whoever opens it waits."""
    if sys.platform == "win32":
        pytest.skip("no pipes among files")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def device(path):
    """A link to a device that never ends."""
    if not Path("/dev/zero").exists():
        pytest.skip("no such device")
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


def broken(path):
    """A link to nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(path.parent / "nothing")


def loop(path):
    """A link to itself."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(path)


def renamed(name):
    """Another name for the file."""
    return lambda path: path.rename(path.with_name(name))
