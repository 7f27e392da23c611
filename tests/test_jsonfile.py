"""Users' JSON files: what is refused, and how a file is written."""

import json
import os
import stat
import sys
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from pytest_peftbench.results.files import (
    InputError,
    converted,
    format_json,
    read_json,
    write_files,
    write_json,
    write_text,
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "no valid JSON: .*line 1"),
        ('{"a": 1,}', "no valid JSON"),
        ("[1]", "expected a JSON object, found list"),
        ('{"a": 1, "metrics": {"forgetting": NaN}}', "metrics.forgetting is NaN or infinite"),
        ('{"a": [1, {"b": -Infinity}]}', r"a\[1\].b is NaN or infinite"),
        ('{"a": 1e999}', "a is NaN or infinite"),
        pytest.param('{"a": 1' + "0" * 400 + "}", "a is NaN or infinite", id="a huge integer"),
        ("NaN", "the file is NaN or infinite"),
        ('{"a": 1, "a": 2}', "key 'a' stands twice"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_file_and_key(tmp_path, text, words):
    path = tmp_path / "x.json"
    path.write_text(text)

    with pytest.raises(InputError, match=f"x.json: {words}"):
        read_json(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"absent\.json: cannot be read"):
        read_json(tmp_path / "absent.json")


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "x.json").write_bytes(b"\xff\xfe\x00")

    with pytest.raises(InputError, match=r"x\.json: cannot be read"):
        read_json(tmp_path / "x.json")


def test_what_was_written_reads_back_and_keeps_its_order(tmp_path):
    path = tmp_path / "new" / "folder" / "x.json"
    value = {"b": 0.1 + 0.2, "a": [1, 2.5], "rows": [{"x": "ü"}], "empty": {}, "none": []}

    write_json(path, value)

    assert read_json(path) == value
    assert list(read_json(path)) == list(value)


def test_lists_of_numbers_stand_on_one_line_and_keys_on_their_own():
    assert format_json({"a": [1, 2], "b": {"c": 1}}) == '{\n  "a": [1, 2],\n  "b": {\n    "c": 1\n  }\n}'


def test_nan_is_never_written(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})

    with pytest.raises(ValueError):
        write_json(path, {"a": float("nan")})
    assert read_json(path) == {"a": 1}


def test_a_crash_while_writing_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    write_text(path, "old")

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(KeyboardInterrupt):
        write_text(path, "new, and longer")

    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_several_files_are_written_all_or_none(tmp_path, monkeypatch):
    old, new, last = (tmp_path / name for name in ("old", "new", "last"))
    write_text(old, "before")
    replace = os.replace

    def refuse(source, target):
        if target == last:
            raise PermissionError(1, "Operation not permitted")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(InputError, match="last: cannot be written: Operation not permitted"):
        write_files({old: b"after", new: b"after", last: b"after"})

    assert old.read_text() == "before"
    assert list(tmp_path.iterdir()) == [old]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_a_written_file_is_as_public_as_any_other(tmp_path):
    (tmp_path / "plain").write_text("")
    write_text(tmp_path / "ours", "")

    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


@dataclass
class Part:
    """What a file may hold."""

    count: int
    share: float = 0.5
    mode: Literal["a", "b"] | None = None
    sizes: dict[str, Annotated[list[int], Meta(min_length=2, max_length=2)]] = field(default_factory=dict)
    rest: dict[str, Any] = field(default_factory=dict)


@dataclass
class Whole:
    """A file of parts."""

    parts: dict[str, list[Part]]
    main: Part | None = None


def test_values_of_the_right_type_become_the_dataclass(tmp_path):
    value = {"parts": {"x": [{"count": 1, "share": 2, "sizes": {"y": [1, 2]}, "rest": {"z": None}, "new": 0}]}}

    assert converted(tmp_path, value, Whole) == Whole({"x": [Part(1, 2.0, None, {"y": [1, 2]}, {"z": None})]})


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({}, ": object missing required field `count`"),
        ({"count": "many"}, '.count: expected `int`, found "many"'),
        ({"count": True}, ".count: expected `int`, found true"),
        ({"count": 1.0}, ".count: expected `int`, found 1.0"),
        ({"count": None}, ".count: expected `int`, found null"),
        ({"count": []}, ".count: expected `int`, got `array`"),
        ({"count": 1, "share": "half"}, '.share: expected `float`, found "half"'),
        ({"count": 1, "mode": "c"}, '.mode: expected "a" or "b", found "c"'),
        ({"count": 1, "sizes": {"p.q": [1]}}, ".sizes.p.q: expected `array` of length >= 2"),
        ({"count": 1, "sizes": {"p.q": [1, "2"]}}, '.sizes.p.q[1]: expected `int`, found "2"'),
        (3, ": expected `object`, found 3"),
    ],
)
def test_a_value_of_another_type_is_refused_with_file_and_key(part, words):
    for value, place in (({"parts": {"x": [{"count": 1}, part]}}, "parts.x[1]"), ({"parts": {}, "main": part}, "main")):
        with pytest.raises(InputError) as raised:
            converted("x.json", value, Whole)

        assert str(raised.value).replace("`object | null`", "`object`") == f"x.json: {place}{words}"


def test_the_place_of_a_value_is_named_and_a_long_one_is_cut():
    with pytest.raises(InputError) as raised:
        converted("x.json", "long " * 100, int, "run_info.seed")

    assert str(raised.value).startswith('x.json: run_info.seed: expected `int`, found "long long')
    assert len(str(raised.value)) <= 120


def values(texts):
    plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
    return st.recursive(plain, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=30)


@given(values(st.text()), st.integers(0, 4))
def test_what_is_formatted_is_the_same_json(value, spread):
    assert json.loads(format_json(value, spread)) == value


@given(values(st.text("abc ", max_size=30)), st.integers(0, 2))
def test_no_line_is_longer_than_120_characters_unless_a_text_is(value, spread):
    assert max(map(len, format_json({"a": value}, spread).split("\n"))) <= 120


def test_a_list_fills_lines_and_a_dictionary_of_dictionaries_has_a_line_each():
    text = format_json({"a": list(range(100)), "b": {f"key {n}": {"x": [n, n], "y": [n, n]} for n in range(4)}}, 1)

    assert (
        text
        == """{
  "a": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29,
   30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58,
   59, 60, 61, 62, 63, 64, 65, 66, 67, 68, 69, 70, 71, 72, 73, 74, 75, 76, 77, 78, 79, 80, 81, 82, 83, 84, 85, 86, 87,
   88, 89, 90, 91, 92, 93, 94, 95, 96, 97, 98, 99],
  "b": {
    "key 0": {"x": [0, 0], "y": [0, 0]},
    "key 1": {"x": [1, 1], "y": [1, 1]},
    "key 2": {"x": [2, 2], "y": [2, 2]},
    "key 3": {"x": [3, 3], "y": [3, 3]}
  }
}"""
    )


def test_format_json_writes_json():
    value = {"a": [[1, 2], [{"b": None}]], 'quote"': True}

    assert json.loads(format_json(value)) == value
