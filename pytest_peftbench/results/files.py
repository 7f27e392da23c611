"""JSON files of users: read with errors that name file and key, written atomically. Imports no torch."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import tempfile
import time
from argparse import ArgumentTypeError
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

T = TypeVar("T")

# Beyond any measurement, and still a float: a larger integer cannot even be divided.
TOO_LARGE = 1e300
# More seeds than anyone will train.
MOST_SEEDS = 10_000
# Characters of a written line, and of a value in a message.
LINE = 120
SHORT = 60
# Levels of a written file whose dictionaries have a key per line.
SPREAD = 3
# Bytes of a file's name: most file systems take 255, and while it is written a file has 14 more.
LONGEST_NAME = 240
# Seconds after which nobody is still writing a file.
_STALE_S = 60


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


def stands(path: Path) -> bool:
    """Whether anything has this name, be it a link that leads nowhere: what cannot be read is not missing."""
    return os.path.lexists(path)


def resolved(path: Path) -> Path:
    """The absolute path without links. Raises InputError for links in a circle, and names too long for a file."""
    try:
        return _followed(path)
    except OSError as error:
        raise InputError(f"{str(path)[:LINE]}: {error.strerror}") from error


def _followed(path: Path) -> Path:
    try:
        found = path.resolve()
        circle = stat.S_ISLNK(os.lstat(found).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return found
    except (RuntimeError, ValueError) as error:  # an older Python's error of a circle; that of a name with a NUL
        raise OSError(errno.EINVAL, str(error)) from error
    if circle:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return found


def require_plain(path: Path) -> None:
    """Raise InputError for what is there and no file: a pipe would be waited for, a device be read without end."""
    try:
        plain = path.is_file() or not path.exists()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if not plain:
        raise InputError(f"{path}: is a {'folder' if path.is_dir() else 'pipe or a device'}, expected a file")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`.

    Raises InputError when the file is missing, unreadable, no file, no JSON, not an object, names a key twice, holds
    half a character, or holds NaN, an infinity or what is as good as one (a comparison with NaN is always false, hence
    a silent pass).
    """
    require_plain(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    try:
        value = json.loads(text, object_pairs_hook=_unique_keys)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
        key = _not_finite(value)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: no valid JSON: {error.msg} (line {error.lineno}, column {error.colno})") from error
    except RecursionError as error:
        raise InputError(f"{path}: nested too deeply") from error
    except UnicodeEncodeError as error:
        raise InputError(f"{path}: holds half a character, {error.object[error.start]!a}") from error
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    if key is not None:
        raise InputError(f"{path}: {key or 'the file'} is NaN or infinite, which cannot be compared")
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def require_name(what: str, name: str) -> None:
    """Raise InputError for a name that a file or folder cannot have, or that would lead out of its folder."""
    if name in ("", ".", "..") or set(name) & set("/\\") or not name.isprintable():
        raise InputError(f"{what}: {name!r} cannot be part of a file name")
    if len(name.encode()) > LONGEST_NAME:
        raise InputError(f"{what}: {name[:SHORT]!r} and more is too long for a file name; shorten it")


def require_writable(named: str, folder: Path) -> None:
    """Raise InputError where nothing can be written below `folder`: before the work, and not after it.

    named: how the message calls it.
    """
    try:
        folder = _followed(folder)
        place = next(place for place in (folder, *folder.parents) if place.exists())
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise InputError(f"{named}: cannot be written: {error.strerror}") from error


def require_writable_file(named: str, file: Path) -> None:
    """The same for a file."""
    try:
        require_plain(file)
    except InputError as error:
        raise InputError(f"{named}: cannot be written: {str(error).removeprefix(f'{file}: ')}") from error
    require_writable(named, file.parent)


def converted(source: Path | str, value: Any, kind: type[T], place: str = "") -> T:
    """A JSON value as a `kind`: a dataclass, `dict[str, int]`. A key that a dataclass does not have is passed over.

    source: the file, for the message. place: where the value stands in it, `case`. Raises InputError, naming file and
    key, for a value of another type; true is no integer and 1.0 none either, but 1 is a `float`.
    """
    try:
        return msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        # the library's own path leaves out the keys of a dict: one of the parts fails alike, and is named in full
        for name, part, kind_of_part in _parts(value, kind):
            converted(source, part, kind_of_part, f"{place}{name}".lstrip("."))
        words = _worded(str(error), value, kind)
        raise InputError(f"{source}: {place}: {words}" if place else f"{source}: {words}") from error
    except (NameError, TypeError) as error:  # of annotations that cannot be resolved, in a config of a user's own
        name = getattr(kind, "__name__", str(kind))
        raise InputError(f"{source}: {name}: {error}; define it in a module that can be imported") from error


def _parts(value: Any, kind: Any) -> Iterator[tuple[str, Any, Any]]:
    """Name, value and type of each item of a list, a dict or a dataclass."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        yield from _parts(value, arguments[0])
    elif origin in (Union, UnionType):
        for option in arguments:
            yield from _parts(value, option)
    elif origin is list and isinstance(value, list):
        yield from ((f"[{index}]", item, arguments[0]) for index, item in enumerate(value))
    elif origin is dict and isinstance(value, dict):
        yield from ((f".{key}", item, arguments[1]) for key, item in value.items())
    elif is_dataclass(kind) and isinstance(value, dict):
        hints = get_type_hints(kind, include_extras=True)
        names = [field.name for field in fields(kind) if field.name in value]
        yield from ((f".{name}", value[name], hints[name]) for name in names)


def _worded(error: str, value: Any, kind: Any) -> str:
    """The library's words, with the value that was found and, where there are few, those that were expected."""
    words = (error[0].lower() + error[1:]).partition(" - at ")[0]
    choices = [
        choice for option in (kind, *get_args(kind)) if get_origin(option) is Literal for choice in get_args(option)
    ]
    if choices and isinstance(value, str):
        words = f"expected {' or '.join(map(json.dumps, choices))}"
    if isinstance(value, (dict, list)):
        return words
    return f"{words.partition(', got ')[0]}, found {json.dumps(value)[:SHORT]}"


def write_json(path: Path, value: dict[str, Any], spread: int = SPREAD) -> None:
    """Write `value` atomically: a reader, or a crash, sees the old file or the new one, never a part.

    Formatted by `format_json`, so that a diff reads well. Raises ValueError for NaN and infinities.
    """
    write_text(path, format_json(value, spread) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically, creating its folder. Raises InputError where that cannot be done."""
    write_file(path, text.encode())


def write_file(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically, creating its folder. Raises InputError where that cannot be done."""
    write_files({path: content})


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Write several files, all or none: each atomically, and none before all are on the disk.

    Raises InputError, naming the file, where one cannot be written; then all are as they were.
    """
    temporaries: dict[Path, str] = {}
    replaced: dict[Path, bytes | None] = {}
    path = Path()
    try:
        for path, content in contents.items():
            require_plain(path)
            temporaries[path] = _temporary(path, content)
        for path in contents:
            old = path.read_bytes() if path.exists() else None
            os.replace(temporaries[path], path)
            del temporaries[path]
            replaced[path] = old
    except OSError as error:
        _put_back(replaced)
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        for temporary in temporaries.values():
            os.unlink(temporary)


def _put_back(replaced: Mapping[Path, bytes | None]) -> None:
    for path, old in replaced.items():
        if old is None:
            path.unlink()
        else:
            write_file(path, old)


def _temporary(path: Path, content: bytes) -> str:
    """A file beside `path` with this content, on the disk. Removes those that a killed process left there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix, suffix = f".{path.name}.", ".tmp"
    for name in os.listdir(path.parent):
        if name.startswith(prefix) and name.endswith(suffix):
            _remove_stale(path.parent / name)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=suffix)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes private files; a baseline is as public as any other file of the repository
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
    except BaseException:
        os.unlink(temporary)
        raise
    return temporary


def _remove_stale(file: Path) -> None:
    with contextlib.suppress(OSError):  # another process may be faster
        if time.time() - file.stat().st_mtime > _STALE_S:
            file.unlink()


def format_json(value: Any, spread: int = SPREAD, indent: str = "", column: int = 0) -> str:
    """`value` as JSON, keys in given order, in lines of at most 120 characters as far as texts allow.

    spread: for how many levels dictionaries have a key per line. Below, what fits stands on one line; a longer list
    or dictionary of plain values fills lines, and any other has an item per line. column: where the text starts.
    """
    flat = json.dumps(value, allow_nan=False)
    spreads = isinstance(value, dict) and spread > 0
    # a comma may follow
    if not value or not isinstance(value, (dict, list)) or (not spreads and column + len(flat) < LINE):
        return flat
    inner = indent + "  "
    items = value.items() if isinstance(value, dict) else (("", item) for item in value)
    keyed = [(f"{json.dumps(str(key))}: " if isinstance(value, dict) else "", item) for key, item in items]
    left, right = "{}" if isinstance(value, dict) else "[]"
    if not spreads and not any(_is_nested(item, LINE - len(indent) - 1) for _, item in keyed):
        return _filled(left, keyed, right, indent + " ", column)
    rows = (inner + key + format_json(item, spread - 1, inner, len(inner) + len(key)) for key, item in keyed)
    return f"{left}\n" + ",\n".join(rows) + f"\n{indent}{right}"


def _is_nested(value: Any, width: int) -> bool:
    """Whether an item of a list or dictionary needs lines of its own."""
    return isinstance(value, dict) or (isinstance(value, list) and len(json.dumps(value)) >= width)


def _filled(left: str, keyed: list[tuple[str, Any]], right: str, indent: str, column: int) -> str:
    """Items in as few lines as they need, all but the first of which start with `indent`."""
    words: list[str] = []
    for key, item in keyed:
        text = f"{json.dumps(item)},"
        words += [key + text] if len(indent) + len(key + text) < LINE else [key.rstrip(), text]
    words[-1] = words[-1][:-1] + right
    filled, used, gap = left, column + len(left), ""
    for word in words:
        if used + len(gap) + len(word) >= LINE:
            gap, used = f"\n{indent}", -1  # a new line is no character of the next
        filled += gap + word
        used += len(gap) + len(word)
        gap = " "
    return filled


def _not_finite(value: Any, key: str = "") -> str | None:
    """Where the first NaN or infinity stands, as `metrics.forgetting` or `seeds[0].metrics`; None without one."""
    if isinstance(value, (int, float)):
        return None if abs(value) <= TOO_LARGE else key
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
