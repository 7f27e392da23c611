"""Texts are written with an adapter."""

from __future__ import annotations

import torch

from pytest_peftbench.cases.life_cycle.asking import Told, gap, story
from pytest_peftbench.cases.life_cycle.cell import SECOND_NAME, Cell


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


@story("generate.mixed", applies=_generates)
def generating_mixed(cell: Cell) -> Told:
    """Each row its own adapter, and one of them none."""
    found = cell.generated(cell.two(), num_beams=2, adapter_names=[SECOND_NAME, "__base__"])
    second = cell.generated(cell.second_alone(), num_beams=2)
    base = cell.generated(cell.base(), extra=False, num_beams=2)
    yield gap(found, torch.cat([second[:1], base[1:]]))


STORIES = (generating, generating_mixed)
