"""Two adapters beside each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pytest_peftbench.cases.life_cycle.asking import NotOffered, Told, gap, gaps, not_told_from, offered, story, unlike
from pytest_peftbench.cases.life_cycle.cell import NAME, SECOND_NAME, Cell, trainable
from pytest_peftbench.measure.storages import bytes_of


@story("add", "add.requires_grad", "set", "set.requires_grad", "set.back", "delete", "delete.bytes")
def two_adapters(cell: Cell) -> Told:
    """A second adapter comes, is used, and goes."""
    model = cell.trained()
    tensors, size, before = set(model.state_dict()), bytes_of(model), trainable(model)
    cell.add_second(model)
    yield gap(cell.output(model), cell.active_output)
    yield unlike(trainable(model), before)
    model.set_adapter(SECOND_NAME)
    yield gap(cell.output(model), cell.alone_output)
    yield unlike(trainable(model), cell.of_second(before))
    model.set_adapter(NAME)
    yield gap(cell.output(model), cell.active_output)
    model.delete_adapter(SECOND_NAME)
    yield gap(cell.output(model), cell.active_output)
    yield unlike(set(model.state_dict()), tensors) or abs(bytes_of(model) - size)


@story("add.frozen")
def adding_to_the_frozen(cell: Cell) -> Told:
    """What was frozen by name stays so."""
    model = cell.trained()
    model.set_requires_grad(NAME, requires_grad=False)
    before = trainable(model)
    cell.add_second(model)
    yield unlike(trainable(model), before)


@story("delete.merged")
def deleting_the_merged(cell: Cell) -> Told:
    """Refused, or out of the base weights before it goes."""
    model = cell.two()
    offered(model, "merge_adapter")()
    deleted = _accepts(lambda: model.delete_adapter(NAME))
    if deleted:
        yield gaps(cell.base_weights(model), cell.base_weights(cell.two()))
    else:
        yield gap(cell.output(model), cell.active_output)


@story("set.inference")
def setting_for_inference(cell: Cell) -> Told:
    """Without gradients."""
    model = cell.trained()
    model.set_adapter(NAME, inference_mode=True)
    yield unlike(trainable(model), set())


@story("delete.active")
def deleting_the_active(cell: Cell) -> Told:
    """The adapter in use goes, and the other one takes its place, or none."""
    model = cell.two()
    model.delete_adapter(NAME)
    left = model.active_adapters
    yield gap(cell.output(model), cell.second_output if SECOND_NAME in left else cell.base_output)


@story("both", "both.merge", "both.unmerge", "both.merge.apart")
def two_active(cell: Cell) -> Told:
    """Two at a time, and merged in both orders."""
    model = cell.two()
    activate_both(model)
    expected, before = cell.output(model), cell.base_weights(model)
    yield not_told_from(expected, cell.active_output, cell.second_output)
    offered(model, "merge_adapter")()
    yield gap(cell.output(model), expected)
    model.unmerge_adapter()
    yield gaps(cell.base_weights(model), before)
    model.merge_adapter([NAME])
    model.merge_adapter([SECOND_NAME])
    yield gap(cell.output(model), expected)


@story("both.unload")
def merging_two_for_good(cell: Cell) -> Told:
    """A model as any other."""
    model = cell.two()
    activate_both(model)
    expected = cell.output(model)
    yield gap(cell.output(offered(model, "merge_and_unload")()), expected)


def activate_both(model: Any) -> None:
    """Both adapters. Raises NotOffered where a model has no tuner that could."""
    from peft.tuners.tuners_utils import BaseTuner

    if not isinstance(model.base_model, BaseTuner):
        raise NotOffered("set_adapter")
    model.base_model.set_adapter([NAME, SECOND_NAME])


@story("mixed")
def mixed_batch(cell: Cell) -> Told:
    """Each row its own adapter, and one of them none."""
    model = cell.two()
    found = cell.output(model, adapter_names=[SECOND_NAME, "__base__"])
    yield max(gap(found[:1], cell.second_output[:1]), gap(found[1:], cell.base_output[1:]))


@story("refuse.set", "refuse.set.nothing")
def refusing_to_set(cell: Cell) -> Told:
    """A name that there is not."""
    model = cell.trained()
    yield _accepts(lambda: model.set_adapter("unknown"))
    yield gap(cell.output(model), cell.active_output)


@story("refuse.add", "refuse.add.nothing")
def refusing_to_add(cell: Cell) -> Told:
    """A name that is taken."""
    model = cell.trained()
    yield _accepts(lambda: model.add_adapter(NAME, cell.config()))
    yield gap(cell.output(model), cell.active_output)


def _accepts(operation: Callable[[], object]) -> int:
    """1 where what must be refused is not."""
    try:
        operation()
    except ValueError:
        return 0
    return 1


STORIES = (
    two_adapters,
    adding_to_the_frozen,
    deleting_the_merged,
    setting_for_inference,
    deleting_the_active,
    two_active,
    merging_two_for_good,
    mixed_batch,
    refusing_to_set,
    refusing_to_add,
)
