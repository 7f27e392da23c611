"""What is recorded of the laws, and the broken ones by their cause."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_peftbench.cases.kinds import LIFE_CYCLE
from pytest_peftbench.results.baseline import read
from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.laws import LAW, size_of, standing
from pytest_peftbench.tasks.structures.causes import Cause, cause_of

# The setting of a method's defaults; a method that cannot be without any has none of that name.
DEFAULT = "default"
# Structures from the simplest on; what single precision shows.
_SIMPLE = """linear conv1d conv2d conv2d-groups conv3d embedding attention experts llama1 llama gpt2 opt gemma bert
    bert-tokens bert-answers bert-features t5 sd3""".split()
_VISIBLE = 1e-4


@dataclass(frozen=True)
class Cell:
    """What is recorded of one law: of which method and setting, on which structure, and its word."""

    method: str
    setting: str
    structure: str
    law: str
    word: str
    task: str = "structures"

    @property
    def place(self) -> str:
        """`llama`, or `llama rslora` of another setting than the defaults."""
        return self.structure if self.setting == DEFAULT else f"{self.structure} {self.setting}"

    @property
    def by(self) -> str:
        """By how much the law is broken, or by which error."""
        return self.word.partition(": ")[2]

    @property
    def size(self) -> float | None:
        """How far off it is; None where it is broken by an error, or not at all."""
        return size_of(self.word)

    @property
    def error(self) -> str:
        """The class of the error that breaks it; empty for a size."""
        return "" if self.size is not None else self.by

    @property
    def cause(self) -> Cause | None:
        """Why it is broken, where others share that or it is by design."""
        return cause_of(self.method, self.setting, self.structure, self.law, self.error or "size")

    @property
    def is_by_design(self) -> bool:
        """Whether it is broken as PEFT means it to be."""
        return standing(self.word) == "broken" and self.cause is not None and self.cause.by_design


@dataclass(frozen=True)
class Group:
    """The cells of one method that break one law by one error, or by some size, of one cause."""

    cells: tuple[Cell, ...]

    @property
    def worst(self) -> Cell:
        """That which is the farthest off."""
        return max(self.cells, key=lambda cell: cell.size or 0.0)

    @property
    def is_by_design(self) -> bool:
        """Whether PEFT means it to be so: the cells of a group share their cause."""
        return self.worst.is_by_design

    @property
    def simplest(self) -> Cell:
        """That to show: on the simplest structure, at the defaults if they do, where single precision shows it."""
        visible = [cell for cell in self.cells if cell.size is None or cell.size >= _VISIBLE] or self.cells
        return min(visible, key=_difficulty)


def _difficulty(cell: Cell) -> tuple[int, bool, str]:
    place = _SIMPLE.index(cell.structure) if cell.structure in _SIMPLE else len(_SIMPLE)
    return place, cell.setting != DEFAULT, cell.setting


def cells(baselines: Path) -> list[Cell]:
    """Every law of every baseline of the life cycle below a folder. Raises InputError for one that is damaged."""
    folder = baselines / LIFE_CYCLE.name
    files = sorted(folder.rglob("*--*.json"))
    if not files:
        raise InputError(f"{folder}: holds no baseline; pass the folder that pytest writes baselines to")
    return [cell for file in files for cell in _cells_of(file)]


def _cells_of(file: Path) -> Iterator[Cell]:
    baseline = read(file)
    case = baseline.case
    for name, word in baseline.metrics.items():
        if name.startswith(LAW):
            law = name.removeprefix(LAW)
            yield Cell(case.method, case.name, case.base_model, law, str(word), case.task)


def groups(found: Iterable[Cell]) -> list[Group]:
    """The broken laws, one group for each method, law, error and cause, in this order."""
    grouped: dict[tuple[str, str, str, str], list[Cell]] = {}
    for cell in found:
        if standing(cell.word) == "broken":
            key = (cell.method, cell.law, cell.error, cell.cause.why if cell.cause else "")
            grouped.setdefault(key, []).append(cell)
    return [Group(tuple(grouped[key])) for key in sorted(grouped)]
