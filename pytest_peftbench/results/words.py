"""How things are worded: figures told apart, differences, margins, bytes, FLOPs, errors, and tables of text."""

from __future__ import annotations

import math
import re
import shlex
import textwrap
from collections.abc import Collection, Iterable, Sequence

from pytest_peftbench.results.metrics import Metric, Value


def first(lines: list[str], count: int) -> tuple[str, ...]:
    """The first lines, and how many more there are."""
    more = len(lines) - count
    return tuple([*lines[:count], f"and {more} more"] if more > 0 else lines)


def first_line(what: object) -> str:
    """The first line of a text or an error that is not blank; of an error without a message, its type's name."""
    lines = filter(None, map(str.strip, str(what).splitlines()))
    return next(lines, type(what).__name__ if isinstance(what, BaseException) else "")


def error_line(error: BaseException) -> str:
    """`ValueError: shapes differ`, or the type alone where there is no message."""
    kind, line = type(error).__name__, first_line(error)
    return kind if line == kind else f"{kind}: {line}"


def folded(text: str, width: int) -> list[str]:
    """The lines of a text, each folded to `width` columns where words allow; what follows is indented by two more."""
    lines = []
    for line in text.split("\n"):
        shown = printable(line)
        indent = " " * (len(shown) - len(shown.lstrip()) + 2)
        parts = textwrap.wrap(shown, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
        lines += [shown] if len(shown) <= width else parts
    return lines


def printable(text: str) -> str:
    """The text with what would move a terminal's cursor, or colour it, as it is written in Python: `\\x1b`."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda found: repr(found[0])[1:-1], text.replace("\t", "    "))


def one_line(text: str) -> str:
    """The same on one line, whatever ends one."""
    return printable(" ".join(text.splitlines()))


def command_line(arguments: Iterable[str]) -> str:
    """A command as it is typed in sh, cmd and PowerShell alike, wherever quotes allow that."""
    return " ".join(map(_quoted, arguments))


def _quoted(argument: str) -> str:
    if re.fullmatch(r"[\w./:=,+@-]+", argument, re.ASCII):
        return argument
    # between double quotes these mean something, each to another shell
    return shlex.quote(argument) if re.search(r'["$`!%]|\\$', argument) else f'"{argument}"'


def aligned(rows: Sequence[Sequence[str]], left: Collection[int] = (0,), gap: str = "  ") -> list[str]:
    """A line for each row, its cells padded to the widest of their column: to the right, but for the `left` columns.

    All rows have as many cells. Lines end without blanks.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = (
        [cell.ljust(width) if place in left else cell.rjust(width) for place, (cell, width) in enumerate(cells)]
        for cells in (zip(row, widths, strict=True) for row in rows)
    )
    return [gap.join(cells).rstrip() for cells in padded]


def listed(numbers: Iterable[int]) -> str:
    """`0, 1, 2`."""
    return ", ".join(str(number) for number in numbers)


def plural(count: int, noun: str) -> str:
    """`1 seed`, `2 seeds`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def figures(metric: Metric, obtained: Value, expected: Value) -> tuple[str, str]:
    """Both values as shown, with as many digits as it takes to tell them apart."""
    if isinstance(obtained, (int, float)) and isinstance(expected, (int, float)):
        return _number_figures(metric, obtained, expected)
    return _apart([_label(obtained, 12), _label(expected, 12)], [_label(obtained), _label(expected)])


def _number_figures(metric: Metric, obtained: float, expected: float) -> tuple[str, str]:
    numbers = (obtained, expected)
    if metric.unit == "bytes":
        return _apart([bytes_text(number) for number in numbers], [f"{_exact(number)} bytes" for number in numbers])
    if metric.unit == "FLOP":
        return _apart([flops_text(number) for number in numbers], [_exact(number) for number in numbers])
    if metric.unit in ("calls", "parameters", "tensors"):
        return _exact(obtained), _exact(expected)
    if metric.unit == "fraction":
        obtained_text, expected_text = _digits(100 * obtained, 100 * expected, 4)
        return f"{obtained_text} %", f"{expected_text} %"
    return _digits(obtained, expected, 8 if metric.lane == "numerics" else 4)


def _apart(short: list[str], exact: list[str]) -> tuple[str, str]:
    first, second = short if short[0] != short[1] else exact if exact[0] != exact[1] else short
    return first, second


def _digits(first: float, second: float, digits: int) -> tuple[str, str]:
    while digits < 17 and first != second and f"{first:.{digits}g}" == f"{second:.{digits}g}":
        digits += 1
    return f"{first:.{digits}g}", f"{second:.{digits}g}"


def _label(value: Value, length: int | None = None) -> str:
    if isinstance(value, str):
        # hashes are long, words are not
        return value[:length] if len(value) == 64 else value
    if isinstance(value, list):
        return plural(len(value), "value")
    return plural(len(value), "entry").replace("entrys", "entries") if isinstance(value, dict) else str(value)


def change(metric: Metric, obtained: float, expected: float) -> str:
    """The difference as a share of the expected value, or in the metric's unit where a share says little."""
    difference = obtained - expected
    if metric.unit == "fraction":
        return f"{100 * difference:+.3g} points"
    if metric.absolute_margin or not expected:
        return f"{difference:+.4g}"
    percent = 100 * difference / abs(expected)
    if abs(percent) >= 0.05:
        return f"{percent:+,.1f} %"
    return f"{int(difference):+,} {metric.unit}" if float(difference).is_integer() else f"{difference:+.2g}"


def margin(metric: Metric, expected: float) -> str:
    """The difference below which nobody cares, in the metric's unit or as a share."""
    if not metric.absolute_margin and metric.unit != "fraction":
        return f"{100 * metric.relative_margin:.3g} %"
    return amount(metric, metric.margin(expected))


def amount(metric: Metric, difference: float) -> str:
    """A difference in the metric's unit: `4.2 points`, `0.02 nats`."""
    if metric.unit == "fraction":
        return f"{100 * difference:.3g} points"
    return f"{difference:.3g} {metric.unit}"


def _exact(number: float) -> str:
    return f"{int(number):,}" if float(number).is_integer() else f"{number:,}"


def bytes_text(number: float) -> str:
    """`10.70 MiB`."""
    if abs(number) < 1024 or not math.isfinite(number):
        return f"{number:.0f} bytes"
    power = min(int(math.log(abs(number), 1024)), 5)
    return f"{number / 1024**power:.2f} {('KiB', 'MiB', 'GiB', 'TiB', 'PiB')[power - 1]}"


def bytes_change(difference: int) -> str:
    """`+10.70 MiB`."""
    return f"{'-' if difference < 0 else '+'}{bytes_text(abs(difference))}"


def flops_text(number: float) -> str:
    """`1.204e9`, or all digits below a million."""
    if abs(number) < 1e6 or not math.isfinite(number):
        return _exact(number)
    mantissa, _, exponent = f"{number:.3e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def flops_change(difference: int) -> str:
    """`+602 MFLOP`."""
    power = min(len(str(abs(difference))) - 1, 17) // 3
    scaled = difference / 1000**power
    figure = f"{scaled:+,.0f}" if abs(scaled) >= 100 else f"{scaled:+.3g}"
    return f"{figure} {('', 'k', 'M', 'G', 'T', 'P')[power]}FLOP"
