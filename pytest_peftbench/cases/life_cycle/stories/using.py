"""What one adapter goes through: it comes to be, learns, is switched off and on, looked at and copied."""

from __future__ import annotations

import copy
import io

import torch

from pytest_peftbench.cases.life_cycle.asking import Told, gap, gaps, same, story, unlike
from pytest_peftbench.cases.life_cycle.cell import NAME, Cell, trainable
from pytest_peftbench.measure.environment import seed_everything


@story("inject")
def birth(cell: Cell) -> Told:
    """The first of all: without it nothing else is asked."""
    output = cell.initial_output
    yield int(not cell.trainable) or gap(output, output)  # what is no number is not itself


@story("train", "train.base")
def training(cell: Cell) -> Told:
    """Gradients arrive, and what is frozen stays. An adapter that cannot be trained is asked nothing else."""
    model = cell.untrained()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    cell.train(model)
    after = model.state_dict()
    moved = {name for name in trainable(model) if not same(before[name], after[name])}
    yield unlike(moved, trainable(model))
    base = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    frozen = {name for name in base if NAME not in name.split(".")}
    yield unlike({name for name in frozen if not same(before[name], after[name])}, set())


@story("inject.low_level")
def injection(cell: Cell) -> Told:
    """The other door: an adapter in a model that stays of its own class."""
    from peft import inject_adapter_in_model

    base, config = cell.base(), cell.config()
    seed_everything(1)
    yield gap(cell.output(inject_adapter_in_model(config, base, NAME)), cell.initial_output)


@story("train.mode", applies=lambda cell: not cell.draws)
def training_mode(cell: Cell) -> Told:
    """Nothing is drawn and nothing is kept."""
    model = cell.trained().train()
    with torch.no_grad():
        yield gap(cell.call(model), cell.active_output)


@story("batch")
def batches(cell: Cell) -> Told:
    """Rows do not see each other."""
    model = cell.trained()
    rows = [cell.output(model, slice(row, row + 1)) for row in range(len(cell.active_output))]
    yield gap(torch.cat(rows), cell.active_output)


@story("disable", "enable", "enable.requires_grad")
def disabling(cell: Cell) -> Told:
    """Off and on."""
    model = cell.trained()
    before = trainable(model)
    with model.disable_adapter():
        yield gap(cell.plain_output(model), cell.base_output)
    yield gap(cell.output(model), cell.active_output)
    yield unlike(trainable(model), before)


@story("disable.nested")
def disabling_twice(cell: Cell) -> Told:
    """Off within off: leaving the inner one turns nothing on."""
    model = cell.trained()
    with model.disable_adapter():
        with model.disable_adapter():
            pass
        yield gap(cell.plain_output(model), cell.base_output)


@story("freeze", "thaw")
def freezing(cell: Cell) -> Told:
    """Gradients off and on by name."""
    model = cell.trained()
    before = trainable(model)
    model.set_requires_grad(NAME, requires_grad=False)
    yield unlike(trainable(model), set())
    model.set_requires_grad(NAME)
    yield unlike(trainable(model), before)


def _checkpoints(cell: Cell) -> bool:
    return hasattr(cell.base(), "gradient_checkpointing_enable")


@story("checkpointing", applies=lambda cell: _checkpoints(cell) and not cell.draws)
def checkpointing(cell: Cell) -> Told:
    """Activations that are computed twice give the same gradients."""
    expected = cell.gradients(cell.trained())
    model = cell.trained()
    model.gradient_checkpointing_enable()
    yield gaps(cell.gradients(model), expected)


@story("base.state")
def state_of_the_base(cell: Cell) -> Told:
    """The weights that are not the adapter's, by their own names."""
    from peft import get_base_model_state_dict

    yield gaps(get_base_model_state_dict(cell.trained()), cell.base().state_dict())


@story("convert")
def converting(cell: Cell) -> Told:
    """A LoRA of full rank instead of another method."""
    from peft import convert_to_lora, get_peft_model, set_peft_model_state_dict

    config, state = convert_to_lora(cell.trained(), rank=1.0)
    model = get_peft_model(cell.base(), config)
    set_peft_model_state_dict(model, state)
    yield gap(cell.output(model), cell.active_output)


@story("status")
def status(cell: Cell) -> Told:
    """What it says of itself."""
    found = cell.trained().get_model_status()
    told = (found.active_adapters, found.enabled, found.merged_adapters, found.available_adapters)
    yield unlike(told, ([NAME], True, [], [NAME]))


@story("copy")
def copies(cell: Cell) -> Told:
    """A copy has all that matters."""
    yield gap(cell.output(copy.deepcopy(cell.trained())), cell.active_output)


@story("pickle")
def pickles(cell: Cell) -> Told:
    """So does what torch.save wrote."""
    file = io.BytesIO()
    torch.save(cell.trained(), file)
    file.seek(0)
    yield gap(cell.output(torch.load(file, weights_only=False)), cell.active_output)


STORIES = (
    birth,
    training,
    injection,
    training_mode,
    batches,
    disabling,
    disabling_twice,
    freezing,
    checkpointing,
    state_of_the_base,
    converting,
    status,
    copies,
    pickles,
)
