"""Texts are written with an adapter."""

from __future__ import annotations

import torch

from pytest_peftbench.cases.life_cycle.asking import Told, story
from pytest_peftbench.cases.life_cycle.cell import OTHER, SECOND_NAME, Cell
from pytest_peftbench.measure.environment import seed_everything


def _generates(cell: Cell) -> bool:
    return cell.structure.generates


def _repeats(cell: Cell) -> bool:
    """Whether a token is the same however it is computed: in half precision another rounding gives another one."""
    return _generates(cell) and cell.experiment.train.dtype == "float32"


@story("generate", "generate.beams", "generate.sample", applies=_repeats)
def generating(cell: Cell) -> Told:
    """Tokens, one after the other."""
    model = cell.trained()
    yield _others(cell.generated(model), cell.generated(model, use_cache=False))
    yield _others(cell.generated(model, num_beams=2), cell.generated(model, num_beams=2, use_cache=False))
    yield _others(_sampled(cell, model), _sampled(cell, model, use_cache=False))


def _sampled(cell: Cell, model: torch.nn.Module, **arguments: bool) -> torch.Tensor:
    seed_everything(OTHER)
    return cell.generated(model, do_sample=True, **arguments)


@story("generate.disable", applies=_generates)
def generating_disabled(cell: Cell) -> Told:
    """Those of the base model."""
    model = cell.trained()
    with model.disable_adapter():
        yield _others(cell.generated(model, extra=False), cell.generated(cell.base(), extra=False))


@story("generate.mixed", applies=_repeats)
def generating_mixed(cell: Cell) -> Told:
    """Each row its own adapter, and one of them none."""
    found = cell.generated(cell.two(), num_beams=2, adapter_names=[SECOND_NAME, "__base__"])
    second = cell.generated(cell.second_alone(), num_beams=2)
    base = cell.generated(cell.base(), extra=False, num_beams=2)
    yield _others(found, torch.cat([second[:1], base[1:]]))


def _others(obtained: torch.Tensor, expected: torch.Tensor) -> int:
    """How many tokens are others."""
    return int((obtained != expected).sum())


STORIES = (generating, generating_disabled, generating_mixed)
