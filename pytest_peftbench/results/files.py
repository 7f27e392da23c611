"""JSON files of users: read with errors that name file and key, written atomically. Imports no torch."""

from __future__ import annotations

import json
import math
import os
import tempfile
from argparse import ArgumentTypeError
from pathlib import Path
from typing import Any, TypeVar

_T = TypeVar("_T")

# Beyond any measurement, and still a float: a larger integer cannot even be divided.
TOO_LARGE = 1e300
# What messages call the types of JSON.
TYPES = {
    type(None): "null",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "an object",
}


class InputError(ValueError, ArgumentTypeError):
    """A file or option that a user gave cannot be used; the message names the file, the key and the way out.

    Raised by the `type` of an argument, its message is that of the usage error.
    """


def positive(text: object) -> int:
    """An integer of at least 1, for an option's `type`."""
    try:
        number = int(str(text))
    except ValueError:
        number = 0
    if number < 1:
        raise InputError(f"{text!r}: expected an integer of at least 1")
    return number


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`.

    Raises InputError when the file is missing, unreadable, no JSON, not an object, names a key twice, or holds
    NaN or an infinity (neither is JSON, and a comparison with NaN is always false, hence a silent pass).
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    try:
        value = json.loads(text, object_pairs_hook=_unique_keys)
        key = _not_finite(value)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: no valid JSON: {error.msg} (line {error.lineno}, column {error.colno})") from error
    except RecursionError as error:
        raise InputError(f"{path}: nested too deeply") from error
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    if key is not None:
        raise InputError(f"{path}: {key or 'the file'} is NaN or infinite, which cannot be compared")
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def typed(path: Path, data: dict[str, Any], key: str, kind: type[_T], prefix: str = "") -> _T:
    """The value of a key. Raises InputError, naming file and key, where it is missing or of another type.

    prefix: where `data` stands in the file, `case.`.
    """
    if key not in data:
        raise InputError(f"{path}: key {prefix}{key} is missing")
    value = data[key]
    if type(value) is not kind:  # isinstance would take True for an integer
        found = TYPES[type(value)]
        raise InputError(f"{path}: {prefix}{key} holds {found}, expected {TYPES[kind]}")
    return value


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write `value` atomically: a reader, or a crash, sees the old file or the new one, never a part.

    Dictionaries are written a key per line, innermost lists on one line, so that a diff reads well.
    Raises ValueError for NaN and infinities.
    """
    write_text(path, format_json(value) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically, creating its folder."""
    write_file(path, text.encode())


def write_file(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically, creating its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes private files; a baseline is as public as any other file of the repository
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def format_json(value: Any, indent: str = "") -> str:
    """`value` as JSON, keys in given order: a key per line, but flat lists and dictionaries of them on one line."""
    inner = indent + "  "
    if isinstance(value, dict) and not all(isinstance(item, list) for item in value.values()):
        rows = (f"{inner}{json.dumps(str(key))}: {format_json(item, inner)}" for key, item in value.items())
        return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return "[\n" + ",\n".join(inner + format_json(item, inner) for item in value) + f"\n{indent}]"
    return json.dumps(value, allow_nan=False)


def _not_finite(value: Any, key: str = "") -> str | None:
    """Where the first NaN or infinity stands, as `metrics.forgetting` or `seeds[0].metrics`; None without one."""
    if isinstance(value, float):
        return None if math.isfinite(value) else key
    if isinstance(value, dict):
        places = ((f"{key}.{name}" if key else name, item) for name, item in value.items())
    elif isinstance(value, list):
        places = ((f"{key}[{index}]", item) for index, item in enumerate(value))
    else:
        return None
    return next((found for place, item in places if (found := _not_finite(item, place)) is not None), None)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [key for key, _ in pairs]
        twice = next(key for key in names if names.count(key) > 1)
        raise ValueError(f"key {twice!r} stands twice")
    return value
