"""What each operation costs, counted exactly: it is run once more, on a new model, after the stories have run it.

So whatever PEFT and torch make once in a process is there, in whatever order cases run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pytest_peftbench.cases.life_cycle.cell import SECOND, SECOND_NAME, Cell
from pytest_peftbench.measure.counters import count, count_host_calls
from pytest_peftbench.measure.environment import seed_everything
from pytest_peftbench.measure.storages import bytes_of
from pytest_peftbench.results.laws import ends_in_error
from pytest_peftbench.results.metrics import Value


@dataclass(frozen=True)
class Work:
    """An operation about to be done. model: what is there before it. run: does it, and returns what is there then."""

    model: nn.Module
    run: Callable[[], Any]


def costs(cell: Cell, words: dict[str, str]) -> dict[str, Value]:
    """The counters of each operation that the method offers, by the name of their metric; lower is better.

    words: what came of the laws. One that says that PEFT refuses the operation, or ends in an error, says why it is not
    counted; of a law that was not asked nothing is.
    """
    figures: dict[str, Value] = {}
    for name, (law, prepare) in _OPERATIONS.items():
        if law in words and not ends_in_error(words[law]):
            figures |= {f"{name}.{of}": value for of, value in _counted(name, prepare(cell)).items()}
    return figures


def _counted(name: str, work: Work) -> dict[str, int]:
    seed_everything(SECOND)
    done: list[tuple[int, Any]] = []
    counters = count(lambda: done.append(count_host_calls(work.run)), work.model, work=name)
    ((host_calls, model),) = done
    return {
        "flops": counters.flops,
        "calls": counters.calls,
        "peak_bytes": counters.peak_bytes,
        "kept_bytes": bytes_of(model),
        "host_calls": host_calls,
    }


def _inject(cell: Cell) -> Work:
    base, config = cell.base(), cell.config()
    return Work(base, lambda: cell.adapted(base, config))


def _forward(cell: Cell) -> Work:
    model = cell.trained()

    @torch.no_grad()
    def run() -> Any:
        cell.call(model)
        return model

    return Work(model, run)


def _merge(cell: Cell) -> Work:
    model = cell.trained()
    return _on(model, model.merge_adapter)


def _unmerge(cell: Cell) -> Work:
    model = cell.trained()
    model.merge_adapter()
    return _on(model, model.unmerge_adapter)


def _add(cell: Cell) -> Work:
    model, config = cell.trained(), cell.config()
    return _on(model, lambda: cell.add(model, config))


def _set(cell: Cell) -> Work:
    model = cell.two()
    return _on(model, lambda: model.set_adapter(SECOND_NAME))


def _delete(cell: Cell) -> Work:
    model = cell.two()
    return _on(model, lambda: model.delete_adapter(SECOND_NAME))


def _disable(cell: Cell) -> Work:
    model = cell.trained()

    def run() -> None:
        with model.disable_adapter():
            pass

    return _on(model, run)


def _save(cell: Cell) -> Work:
    model = cell.trained()
    return _on(model, lambda: cell.saved(model))


def _load(cell: Cell) -> Work:
    base, folder = cell.base(), cell.checkpoint
    return Work(base, lambda: cell.load(base, folder))


def _on(model: nn.Module, operation: Callable[[], object]) -> Work:
    """Work that changes a model."""

    def run() -> nn.Module:
        operation()
        return model

    return Work(model, run)


# By name: the law in which the operation is done, and what does it.
_OPERATIONS: dict[str, tuple[str, Callable[[Cell], Work]]] = {
    "inject": ("inject", _inject),
    "forward": ("inject", _forward),
    "merge": ("merge", _merge),
    "unmerge": ("unmerge", _unmerge),
    "add": ("add", _add),
    "set": ("set", _set),
    "delete": ("delete", _delete),
    "disable": ("disable", _disable),
    "save": ("save.load", _save),
    "load": ("save.load", _load),
}
