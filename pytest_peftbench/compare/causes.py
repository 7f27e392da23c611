"""What is behind a changed counter: the operators that were called, or the tensors that are alive at the peak."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pytest_peftbench.compare.comparison import Comparison
from pytest_peftbench.results import words

MAX_ROWS = 5
# What a row of `Operators` counts, in the order of its columns.
COLUMNS = ("calls", "flops")

# "operator @ owner" -> [calls, FLOPs], or "tensor @ owner" -> [count, bytes]
Rows = Mapping[str, list[int]]


def causes(comparison: Comparison, name: str) -> tuple[str, ...]:
    """Those of a counter, a line each, largest change first; none where one of the sides does not hold them."""
    phase, _, counter = name.partition(".")
    sides = (comparison.obtained, comparison.expected)
    if counter in COLUMNS:
        ours, theirs = (side.operators.get(phase) for side in sides)
        return changed_operators(ours, theirs, counter) if ours and theirs else ()
    if counter == "peak_bytes":
        ours, theirs = (side.peak_tensors.get(phase) for side in sides)
        return _changed(ours, theirs, 1, _tensor) if ours and theirs else ()
    return ()


def changed_operators(ours: Rows, theirs: Rows, counter: str) -> tuple[str, ...]:
    """The operators of which `counter`, calls or flops, is not the same on both sides."""
    return _changed(ours, theirs, COLUMNS.index(counter), _operator)


def _changed(
    ours: Rows, theirs: Rows, column: int, word: Callable[[str, list[int], list[int]], str]
) -> tuple[str, ...]:
    changes = []
    for row in ours.keys() | theirs.keys():
        after, before = ours.get(row, [0, 0]), theirs.get(row, [0, 0])
        if after[column] != before[column]:
            changes.append((-abs(after[column] - before[column]), row, word(row, after, before)))
    return words.first([line for _, _, line in sorted(changes)], MAX_ROWS)


def _operator(row: str, ours: list[int], theirs: list[int]) -> str:
    """`aten.mm  48 -> 96 calls (+602 MFLOP) in LoHaLayer.forward`."""
    operator, _, owner = row.partition(" @ ")
    calls = f"{ours[0]:,} calls" if ours[0] == theirs[0] else f"{theirs[0]:,} -> {ours[0]:,} calls"
    flops = f" ({words.flops_change(ours[1] - theirs[1])})" if ours[1] != theirs[1] else ""
    return f"{operator}  {calls}{flops}{f' in {owner}' if owner else ''}"


def _tensor(row: str, ours: list[int], theirs: list[int]) -> str:
    """`[128, 128] float32  4 -> 8 tensors (+256.00 KiB) of LoHaLayer.get_delta_weight`."""
    tensor, _, owner = row.partition(" @ ")
    count = words.plural(ours[0], "tensor") if ours[0] == theirs[0] else f"{theirs[0]:,} -> {ours[0]:,} tensors"
    return f"{tensor}  {count} ({words.bytes_change(ours[1] - theirs[1])}){f' of {owner}' if owner else ''}"
