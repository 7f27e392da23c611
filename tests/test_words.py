"""How errors and tables are worded, wherever they are shown."""

import pytest

from pytest_peftbench.results.words import aligned, error_line, first_line


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("one\ntwo", "one"),
        ("\n  \n two \nthree", "two"),
        ("", ""),
        ("\n", ""),
        (ValueError("one\ntwo"), "one"),
        (ValueError(), "ValueError"),
        (ValueError("\n"), "ValueError"),
        (KeyError("key"), "'key'"),
    ],
)
def test_the_first_line_is_the_first_that_says_something(what, line):
    assert first_line(what) == line


def test_an_error_is_told_by_its_type_and_its_message_if_it_has_one():
    assert error_line(RuntimeError("shapes differ\n2, 3")) == "RuntimeError: shapes differ"
    assert error_line(RuntimeError()) == "RuntimeError"


def test_columns_are_as_wide_as_their_widest_cell():
    rows = [("case", "verdict", "peak"), ("lora/r4", "identical", "9.00 KiB"), ("ia3", "", "10.00 MiB")]

    assert aligned(rows) == [
        "case       verdict       peak",
        "lora/r4  identical   9.00 KiB",
        "ia3                 10.00 MiB",
    ]
    assert aligned(rows, left=(0, 1, 2), gap=" | ") == [
        "case    | verdict   | peak",
        "lora/r4 | identical | 9.00 KiB",
        "ia3     |           | 10.00 MiB",
    ]
    assert aligned([]) == []
