"""An adapter is written, and read elsewhere."""

from __future__ import annotations

import torch

from pytest_peftbench.cases.life_cycle.asking import Told, gap, gaps, story, unlike
from pytest_peftbench.cases.life_cycle.cell import OTHER, SECOND_NAME, Cell, trainable
from pytest_peftbench.cases.life_cycle.old import laid_out
from pytest_peftbench.measure.decompositions import steady_decompositions
from pytest_peftbench.measure.environment import seed_everything
from pytest_peftbench.measure.precision import project


@story("save.load", "load.inference", "save.again")
def saving(cell: Cell) -> Told:
    """Write, and read elsewhere."""
    from peft import get_peft_model_state_dict

    trained = cell.trained()
    seed_everything(OTHER)
    loaded = cell.loaded(cell.checkpoint)
    yield gap(cell.output(loaded), cell.active_output)
    yield unlike(trainable(loaded), set())
    yield gaps(get_peft_model_state_dict(loaded), get_peft_model_state_dict(trained))


@story("load.trainable")
def loading_to_train(cell: Cell) -> Told:
    """Go on where it was left."""
    loaded = cell.loaded(cell.checkpoint, is_trainable=True)
    yield unlike(trainable(loaded), cell.trainable)


@story("load.low_memory")
def loading_lean(cell: Cell) -> Told:
    """Without making the adapter twice."""
    seed_everything(OTHER)
    loaded = cell.loaded(cell.checkpoint, low_cpu_mem_usage=True)
    yield gap(cell.output(loaded), cell.active_output)


@story("load.name")
def loading_by_name(cell: Cell) -> Told:
    """The name is the user's to choose."""
    seed_everything(OTHER)
    loaded = cell.loaded(cell.checkpoint, adapter_name=SECOND_NAME)
    yield gap(cell.output(loaded), cell.active_output)


@story("load.elsewhere", applies=lambda cell: cell.decomposes)
def loading_elsewhere(cell: Cell) -> Told:
    """On another processor, whose factors of the base weights are as good and not the same."""
    seed_everything(OTHER)
    with steady_decompositions(elsewhere=True):
        loaded = cell.loaded(cell.checkpoint)
    yield gap(cell.output(loaded), cell.active_output)


@story("load.onto")
def loading_onto(cell: Cell) -> Told:
    """Beside an adapter that is there."""
    model = cell.second_alone()
    seed_everything(OTHER)
    cell.load_second(model, cell.checkpoint)
    model.set_adapter(SECOND_NAME)
    yield gap(cell.output(model), cell.active_output)


@story("save.two")
def saving_two(cell: Cell) -> Told:
    """Each in its own folder."""
    folder = cell.saved(cell.two())
    loaded = cell.loaded(folder / SECOND_NAME)
    yield gap(cell.output(loaded), cell.second_output)


@story("load.state")
def loading_state(cell: Cell) -> Told:
    """Without a file."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    state = get_peft_model_state_dict(cell.trained())
    model = cell.untrained(OTHER)
    set_peft_model_state_dict(model, state)
    yield gap(cell.output(model), cell.active_output)


@story("old", applies=lambda cell: cell.kept is not None)
def loading_old(cell: Cell) -> Told:
    """What an earlier PEFT wrote, and what it gave then."""
    kept = cell.kept
    assert kept is not None
    folder = laid_out(kept.files, cell.folder / "old")
    seed_everything(OTHER)
    found = project(cell.output(cell.loaded(folder)))
    yield gap(torch.tensor(found), torch.tensor(kept.output))


STORIES = (
    saving,
    loading_to_train,
    loading_lean,
    loading_by_name,
    loading_elsewhere,
    loading_onto,
    saving_two,
    loading_state,
    loading_old,
)
