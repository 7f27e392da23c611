"""Ways to run an adapter: in half batches, under autocast, compiled; and on weights of half precision."""

from __future__ import annotations

from typing import Any

import torch
from torch._dynamo.utils import counters

from pytest_peftbench.cases.life_cycle.asking import Told, gap, gaps, offered, past, story, unlike
from pytest_peftbench.cases.life_cycle.cell import BOUNDS, NAME, SECOND_NAME, Cell
from pytest_peftbench.measure.precision import as_stored
from pytest_peftbench.results.laws import ROUNDING
from pytest_peftbench.tasks.structures.models import ROWS


@story("inject.dtype", "inject.dtype.kept")
def types_of_parameters(cell: Cell) -> Told:
    """Weights of half precision, an adapter that is not, and one that is."""
    yield _of_another_type(cell, autocast=True)
    yield _of_another_type(cell, autocast=False)


def _of_another_type(cell: Cell, autocast: bool) -> float:
    """How many of an adapter's parameters have another type than was asked for, on weights of both half precisions."""
    from peft import get_peft_model

    strange = 0
    for half in (torch.bfloat16, torch.float16):
        model = get_peft_model(cell.base().to(half), cell.config(), NAME, autocast_adapter_dtype=autocast)
        asked = torch.float32 if autocast else half
        strange += sum(weight.dtype != asked for weight in model.parameters() if weight.requires_grad)
    return float(strange)


@story("train.accumulate", applies=lambda cell: not cell.draws)
def accumulating(cell: Cell) -> Told:
    """A batch that does not fit at once."""
    expected = cell.gradients(cell.trained())
    model = cell.trained().train()
    for row in range(ROWS):
        loss = cell.loss(model, slice(row, row + 1)) / ROWS
        loss.backward()  # type: ignore[no-untyped-call]
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    yield gaps(found, expected)


@story("train.autocast", "train.autocast.types", applies=lambda cell: cell.experiment.train.use_amp)
def autocasting(cell: Cell) -> Told:
    """In single precision: torch casts no double."""
    with as_stored():
        single = cell.anew()
        model = single.second_alone()
        expected, before = single.output(model), _types(model)
        with torch.autocast("cpu", torch.bfloat16):
            found, base = single.output(model), single.plain_output(single.base())
        yield past(gap(found, expected), BOUNDS["bfloat16"])
        yield unlike(_types(model), before) or unlike(found.dtype, base.dtype)


def _types(model: torch.nn.Module) -> set[tuple[str, torch.dtype]]:
    return {(name, tensor.dtype) for name, tensor in model.state_dict().items()}


@story(
    "train.compile",
    "train.compile.disable",
    "train.compile.set",
    "train.compile.merge",
    applies=lambda cell: cell.experiment.train.compile,
)
def compiling(cell: Cell) -> Told:
    """With a backend that computes as always: what is compiled, how often, and whether it is still right."""
    with as_stored():
        torch.compiler.reset()
        counters.clear()
        for difference in _compiled(cell.anew()):
            cell.figures |= _counted()
            yield past(difference, ROUNDING)


def _compiled(cell: Cell) -> Told:
    model = cell.trained()
    compiled: Any = torch.compile(model, backend="eager")
    cell.output(compiled)
    yield gap(cell.output(compiled), cell.active_output)
    with model.disable_adapter():
        yield gap(cell.plain_output(compiled), cell.base_output)
    cell.add_second(model)
    model.set_adapter(SECOND_NAME)
    yield gap(cell.output(compiled), cell.second_output)
    model.set_adapter(NAME)
    offered(model, "merge_adapter")()
    yield gap(cell.output(compiled), cell.active_output)


def _counted() -> dict[str, int]:
    """How much has been compiled since the counters were cleared."""
    return {
        "compile.graphs": counters["stats"]["unique_graphs"],
        "compile.graph_breaks": sum(counters["graph_break"].values()),
    }


STORIES = (
    types_of_parameters,
    accumulating,
    autocasting,
    compiling,
)
