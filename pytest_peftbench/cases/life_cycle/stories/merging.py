"""An adapter goes into the base weights, and out of them."""

from __future__ import annotations

import torch
from torch import Tensor

from pytest_peftbench.cases.life_cycle.asking import NotOffered, Told, gap, gaps, offered, same, story
from pytest_peftbench.cases.life_cycle.cell import NAME, Cell


@story("merge", "merge.again", "merge.disable", "unmerge", "unmerge.weights")
def merging(cell: Cell) -> Told:
    """Into the base weights, and out again."""
    model = cell.trained()
    merge = offered(model, "merge_adapter")
    before = cell.base_weights(model)
    merge()
    yield gap(cell.output(model), cell.active_output) or _untouched(cell.base_weights(model), before)
    model.merge_adapter()
    yield gap(cell.output(model), cell.active_output)
    with model.disable_adapter():
        yield gap(cell.plain_output(model), cell.base_output)
    model.unmerge_adapter()
    yield gap(cell.output(model), cell.active_output)
    yield gaps(cell.base_weights(model), before)


def _untouched(after: dict[str, Tensor], before: dict[str, Tensor]) -> int:
    """1 where nothing was merged into any weight."""
    return int(all(same(after[name], weight) for name, weight in before.items()))


@story("merge.safe")
def merging_safely(cell: Cell) -> Told:
    """With a look for what is no number."""
    model = cell.trained()
    offered(model, "merge_adapter")(safe_merge=True)
    yield gap(cell.output(model), cell.active_output)


@story("merge.train")
def merging_in_training_mode(cell: Cell) -> Told:
    """Where evaluation was forgotten."""
    model = cell.trained().train()
    offered(model, "merge_adapter")()
    yield gap(cell.output(model), cell.active_output)


@story("merge.unload")
def merging_for_good(cell: Cell) -> Told:
    """A model as any other."""
    merged = offered(cell.trained(), "merge_and_unload")()
    left = _tuner_layers(merged)
    yield gap(cell.output(merged), cell.active_output) or left


@story("unload")
def unloading(cell: Cell) -> Told:
    """The base model as it was."""
    model = offered(cell.trained(), "unload")()
    yield gap(cell.plain_output(model), cell.base_output) or _tuner_layers(model)


def _tuner_layers(model: torch.nn.Module) -> int:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return sum(isinstance(module, BaseTunerLayer) for module in model.modules())


@story("safe.raises", "safe.nothing")
def refusing_to_merge(cell: Cell) -> Told:
    """Each kind of tensor of a layer, one after the other, has an entry that is no number: none gets into others."""
    offered(cell.trained(), "merge_adapter")(safe_merge=True)  # what refuses any merge refuses no NaN
    kinds = sorted({_kind(name) for name, _ in cell.trained().named_parameters()} - {""})
    if not kinds:
        raise NotOffered("safe_merge")
    accepted, changed = 0, 0.0
    for kind in kinds:
        model = cell.trained()
        _spoil(model, kind)
        before = _finite(cell.base_weights(model))
        try:
            model.merge_adapter(safe_merge=True)
            accepted += len(before) - len(_finite(cell.base_weights(model)))
        except ValueError:
            after = cell.base_weights(model)
            changed = max(changed, gaps({name: after[name] for name in before}, before))
    yield accepted
    yield changed


def _kind(name: str) -> str:
    """What a parameter is in its adapted layer, as `lora_A.weight` or `base_layer.bias`; empty elsewhere."""
    parts = [part for part in name.split(".") if not part.isdigit()]
    if NAME in parts:
        place = parts.index(NAME)
        return ".".join([*parts[place - 1 : place], *parts[place + 1 :]])
    return name[name.index("base_layer.") :] if "base_layer." in name else ""


def _spoil(model: torch.nn.Module, kind: str) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if _kind(name) == kind and parameter.is_floating_point():
                parameter[(0,) * parameter.dim()] = torch.nan


def _finite(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if torch.isfinite(tensor).all()}


STORIES = (
    merging,
    merging_safely,
    merging_in_training_mode,
    merging_for_good,
    unloading,
    refusing_to_merge,
)
