"""One random change of a JSON file: of a value in it, or of its text. Tells what it changed."""

import copy
import json
import math

JUNK = [
    *(None, True, False, 0, -1, 1.5, -0.0, 2**32, 10**40, 1e299),
    *("", "x", "../x", "/a", "..", "{", "\x00", "\ud800", "é" * 300, "-" * 5, "a @ b"),
    *([], [1], ["a"], [[1]], {}, {"a": 1}, {"": 1}, {"a": {"b": [1, 2]}}, [True]),
]
NAMES = ["", "x", "..", "/x", "x" * 300, "\x00", " @ ", "a @ b @ c"]


def damaged(rng, text):
    """The text of a JSON object with one change, as bytes, and the change in words."""
    if rng.random() < 0.75:
        data = copy.deepcopy(json.loads(text))
        words = _change_value(rng, data)
        return json.dumps(data, indent=1).encode(), words
    return _change_text(rng, text)


def _change_value(rng, data):
    parent, path = _place(rng, data)
    key = path[-1]
    old = parent[key]
    change = rng.choice([_delete, _duplicate, _rename, _swap, _junk, _not_finite, _alter, _alter, _alter])
    new = change(rng, parent, key)
    return f"{'.'.join(map(str, path))}: {change.__name__[1:]} {_short(old)} -> {_short(new)}"


def _place(rng, data):
    """A container and the path of one of its items: near the top as likely as deep below."""
    parent, path = data, []
    while True:
        key = rng.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
        path.append(key)
        if not isinstance(parent[key], (dict, list)) or not parent[key] or rng.random() < 0.2:
            return parent, path
        parent = parent[key]


def _delete(rng, parent, key):
    del parent[key]


def _duplicate(rng, parent, key):
    if isinstance(parent, list):
        parent.insert(key, copy.deepcopy(parent[key]))
    else:
        parent[f"{key}2"] = copy.deepcopy(parent[key])
    return "twice"


def _rename(rng, parent, key):
    new = rng.choice([*NAMES, f"{key}s", str(key)[1:], str(key).upper()])
    if isinstance(parent, dict):
        parent[new] = parent.pop(key)
    return new


def _swap(rng, parent, key):
    other = rng.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
    parent[key], parent[other] = parent[other], parent[key]
    return parent[key]


def _junk(rng, parent, key):
    parent[key] = copy.deepcopy(rng.choice(JUNK))
    return parent[key]


def _not_finite(rng, parent, key):
    parent[key] = rng.choice([math.nan, math.inf, -math.inf])
    return parent[key]


def _alter(rng, parent, key):
    """Another value of the same type."""
    parent[key] = _altered(rng, parent[key])
    return parent[key]


def _altered(rng, value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice([value + 1, value - 1, -value, value * 2, value // 2, 0])
    if isinstance(value, float):
        near = math.nextafter(value, math.inf)
        return rng.choice([near, -value, value * 1.0001, value * 1.1, value * 10, value / 10, 0.0])
    if isinstance(value, str) and value:
        at = rng.randrange(len(value))
        return value[:at] + rng.choice("01ax-/") + value[at + 1 :]
    if isinstance(value, list):
        return value[::-1]
    if isinstance(value, dict):
        return dict(list(value.items())[1:])
    return "x"


def _change_text(rng, text):
    content, lines = text.encode(), text.splitlines(keepends=True)
    how = rng.choice(["cut", "flipped bit", "lost line", "line twice", "swapped lines", "lost byte", "marked", "wide"])
    at, line, other = rng.randrange(len(content)), rng.randrange(len(lines)), rng.randrange(len(lines))
    if how == "cut":
        content = content[:at]
    elif how == "flipped bit":
        content = content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]
    elif how == "lost byte":
        content = content[:at] + content[at + 1 :]
    elif how == "marked":
        content = b"\xef\xbb\xbf" + content
    elif how == "wide":
        content = text.encode("utf-16")
    else:
        if how == "lost line":
            del lines[line]
        elif how == "line twice":
            lines.insert(line, lines[line])
        else:
            lines[line], lines[other] = lines[other], lines[line]
        content = "".join(lines).encode()
    return content, f"{how}, byte {at}, lines {line + 1} and {other + 1}"


def _short(value):
    return repr(value)[:60]
