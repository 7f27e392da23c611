"""What a session set out to compare: known where tests are collected, and told to the process that reports."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from _pytest.mark.expression import Expression

from pytest_peftbench.plugin.options import relative_path
from pytest_peftbench.results.result import CaseId


@dataclass(frozen=True)
class Orphan:
    """A baseline beside those of the session's suites, or an adapter kept there, of a case that no experiment has.

    asked: whether `-k` names the case.
    """

    file: str
    case: CaseId
    asked: bool


@dataclass(frozen=True)
class Inventory:
    """What was collected.

    cases: of the selected tests, by node id; None where only the test itself knows which. whole: whether no test was
    left out. untaken: suites that no test takes. shares: under `--peft-shard`, the number of the shard that runs each
    test, of all selected ones, by node id. affected: of `--peft-affected`, how many cases can be reached and by what,
    in lines. idle: whether that is none, and no other test was selected.
    """

    cases: dict[str, CaseId | None] = field(default_factory=dict)
    whole: bool = False
    orphans: tuple[Orphan, ...] = ()
    untaken: tuple[str, ...] = ()
    shares: dict[str, int] = field(default_factory=dict)
    affected: tuple[str, ...] = ()
    idle: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain data, which xdist's workers send to the controller."""
        data: dict[str, Any] = msgspec.to_builtins(self)
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Inventory:
        """The inventory that `to_json` wrote."""
        return msgspec.convert(data, cls)


def orphans(root: Path, cases: Collection[CaseId], keyword: str, start: Path) -> Iterator[Orphan]:
    """The baselines and adapters below `root` beside those of `cases` that belong to none, as seen from `start`.

    keyword: pytest's `-k`.
    """
    known = set(cases)
    for kind, task, base_model in sorted({(case.kind, case.task, case.base_model) for case in cases}):
        for file in sorted((root / kind / task / base_model).glob("*--*")):
            if file.suffix != ".json" and not file.is_dir():
                continue
            method, _, name = file.name.removesuffix(".json").partition("--")
            case = CaseId(task, base_model, method, name, kind)
            if case not in known:
                yield Orphan(relative_path(file, start), case, _is_asked_for(str(case), keyword))


def _is_asked_for(name: str, keyword: str) -> bool:
    """Whether a `-k` expression names something: `not loha` names nothing, though it holds for all but LoHa."""
    if not keyword:
        return False
    expression = Expression.compile(keyword)
    return _holds(expression, name.lower()) and not _holds(expression, "")


def _holds(expression: Expression, text: str) -> bool:
    return bool(expression.evaluate(lambda word, /, **_: word.lower() in text))


def is_whole(config: pytest.Config) -> bool:
    """Whether a session is asked for all tests of whole folders."""
    return all((config.invocation_params.dir / argument).is_dir() for argument in config.args)


def runs_nothing(config: pytest.Config) -> bool:
    """Whether pytest is asked to collect alone, or to show what it would set up."""
    return bool(config.option.collectonly or config.option.setuponly)
