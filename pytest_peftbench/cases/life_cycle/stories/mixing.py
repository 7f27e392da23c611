"""Adapters of two methods in one model."""

from __future__ import annotations

from typing import Any

from pytest_peftbench.cases.life_cycle.asking import Told, gap, not_told_from, story, unlike
from pytest_peftbench.cases.life_cycle.cell import NAME, SECOND, Cell, perturb, trainable
from pytest_peftbench.cases.methods import make_config
from pytest_peftbench.measure.environment import seed_everything
from pytest_peftbench.suites import ADAPTER_FILE
from pytest_peftbench.tasks.structures.experiments import partner_of

# The name of the adapter of another method.
_OTHER = "other"


def _can_be_mixed(cell: Cell) -> bool:
    from peft.tuners.mixed import COMPATIBLE_TUNER_TYPES

    return cell.config().peft_type in COMPATIBLE_TUNER_TYPES


@story(
    "mixed.methods",
    "mixed.methods.add",
    "mixed.methods.both",
    "mixed.methods.disable",
    "mixed.methods.merge",
    "mixed.methods.unmerge",
    "mixed.methods.set",
    "mixed.methods.delete",
    applies=_can_be_mixed,
)
def two_methods(cell: Cell) -> Told:
    """An adapter of another method comes, is used beside the first, and goes."""
    model = cell.second_alone(mixed=True)
    yield gap(cell.output(model), cell.second_output)
    _add_other(cell, model)
    yield gap(cell.output(model), cell.second_output)
    model.set_adapter(_OTHER)
    other = cell.output(model)
    model.set_adapter([NAME, _OTHER])
    both = cell.output(model)
    yield not_told_from(both, cell.second_output, other)
    with model.disable_adapter():
        yield gap(cell.plain_output(model), cell.base_output)
    model.merge_adapter()
    yield gap(cell.output(model), both)
    model.unmerge_adapter()
    yield gap(cell.output(model), both)
    model.set_adapter(NAME)
    yield gap(cell.output(model), cell.second_output)
    model.delete_adapter(_OTHER)
    yield gap(cell.output(model), cell.second_output) or unlike(_of_other(model), set())


@story("mixed.methods.unload", applies=_can_be_mixed)
def merging_two_methods(cell: Cell) -> Told:
    """A model as any other."""
    model = cell.second_alone(mixed=True)
    _add_other(cell, model)
    model.set_adapter([NAME, _OTHER])
    both = cell.output(model)
    yield gap(cell.output(model.merge_and_unload()), both)


def _add_other(cell: Cell, model: Any) -> None:
    """An adapter of the same layers, of another method, that has learned something."""
    method = partner_of(cell.adapter["peft_type"])
    keys = {"peft_type": method, "r": 2, "target_modules": cell.adapter["target_modules"]}
    seed_everything(SECOND)
    model.add_adapter(_OTHER, make_config(keys, cell.experiment.path / ADAPTER_FILE))
    model.set_adapter(_OTHER)
    perturb(model, trainable(model))
    model.set_adapter(NAME)


def _of_other(model: Any) -> set[str]:
    return {name for name in model.state_dict() if _OTHER in name.split(".")}


STORIES = (
    two_methods,
    merging_two_methods,
)
