"""Users' JSON files: what is refused, and how a file is written."""

import json
import os
import stat
import sys

import pytest

from pytest_peftbench.results.files import InputError, format_json, read_json, write_json, write_text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "no valid JSON: .*line 1"),
        ('{"a": 1,}', "no valid JSON"),
        ("[1]", "expected a JSON object, found list"),
        ('{"a": 1, "metrics": {"forgetting": NaN}}', "metrics.forgetting is NaN or infinite"),
        ('{"a": [1, {"b": -Infinity}]}', r"a\[1\].b is NaN or infinite"),
        ('{"a": 1e999}', "a is NaN or infinite"),
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


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_a_written_file_is_as_public_as_any_other(tmp_path):
    (tmp_path / "plain").write_text("")
    write_text(tmp_path / "ours", "")

    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_format_json_writes_json():
    value = {"a": [[1, 2], [{"b": None}]], 'quote"': True}

    assert json.loads(format_json(value)) == value
