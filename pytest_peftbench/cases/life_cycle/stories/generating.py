"""Texts are written with an adapter."""

from __future__ import annotations

from pytest_peftbench.cases.life_cycle.asking import Told, gap, story
from pytest_peftbench.cases.life_cycle.cell import Cell


def _generates(cell: Cell) -> bool:
    return cell.structure.generates


@story("generate", "generate.disable", "generate.beams", applies=_generates)
def generating(cell: Cell) -> Told:
    """Tokens, one after the other."""
    model = cell.trained()
    yield gap(cell.generated(model), cell.generated(model, use_cache=False))
    with model.disable_adapter():
        yield gap(cell.generated(model, extra=False), cell.generated(cell.base(), extra=False))
    beams = cell.generated(model, num_beams=2)
    yield gap(cell.generated(model, num_beams=2), beams)


STORIES = (generating,)
