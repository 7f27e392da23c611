"""Adapters are combined, scaled and exchanged."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor

from pytest_peftbench.cases.life_cycle.asking import NotOffered, Story, Told, gap, not_told_from, offered, story
from pytest_peftbench.cases.life_cycle.cell import NAME, SECOND_NAME, Cell
from pytest_peftbench.cases.life_cycle.stories.several import activate_both
from pytest_peftbench.results.files import read_json, write_json
from pytest_peftbench.suites import ADAPTER_FILE

_COMBINATIONS: dict[str, dict[str, float]] = {
    "linear": {},
    "cat": {},
    "svd": {},
    **{
        kind: {"density": 1.0}
        for rule in ("ties", "dare_linear", "dare_ties", "magnitude_prune")
        for kind in (rule, f"{rule}_svd")
    },
}


@story("weighted")
def combining_one(cell: Cell) -> Told:
    """Of whatever kind it is when none is asked for."""
    model = cell.trained()
    offered(model.base_model, "add_weighted_adapter")([NAME], [1.0], "sum")
    yield gap(_output_of_sum(cell, model), cell.active_output)


def _has_kinds(cell: Cell) -> bool:
    """Whether the method's combinations have kinds."""
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    tuner = PEFT_TYPE_TO_TUNER_MAPPING.get(cell.config().peft_type)
    combine = getattr(tuner, "add_weighted_adapter", None)
    return combine is not None and "combination_type" in inspect.signature(combine).parameters


def _combination(kind: str, options: dict[str, Any]) -> Story:
    @story(f"weighted.{kind}", applies=_has_kinds)
    def combining_two(cell: Cell) -> Told:
        model = cell.two()
        expected = cell.output(model)
        # TIES divides by the number of adapters that agree, whatever their weights
        names, weights = ([NAME], [1.0]) if "ties" in kind else ([NAME, SECOND_NAME], [1.0, 0.0])
        model.base_model.add_weighted_adapter(names, weights, "sum", combination_type=kind, **options)
        yield gap(_output_of_sum(cell, model), expected)

    return combining_two


@story("weighted.cat.both", applies=_has_kinds)
def concatenating(cell: Cell) -> Told:
    """Two in one."""
    model = cell.two()
    model.base_model.add_weighted_adapter([NAME, SECOND_NAME], [1.0, 1.0], "sum", combination_type="cat")
    found = _output_of_sum(cell, model)
    activate_both(model)
    yield gap(found, cell.output(model))


def _output_of_sum(cell: Cell, model: Any) -> Tensor:
    model.set_adapter("sum")
    return cell.output(model)


@story("scale", "scale.reset", "scale.set")
def scaling(cell: Cell) -> Told:
    """Twice as much, and back to what it was in three ways."""
    model = cell.trained()
    layers = [module for module in model.modules() if hasattr(module, "scale_layer")]
    if not layers:
        raise NotOffered("scale_layer")
    for layer in layers:
        layer.scale_layer(2.0)
    scaled = cell.output(model)
    for layer in layers:
        layer.unscale_layer(2.0)
    yield not_told_from(scaled, cell.active_output) or gap(cell.output(model), cell.active_output)
    for layer in layers:
        layer.scale_layer(2.0)
        layer.unscale_layer()
    yield gap(cell.output(model), cell.active_output)
    for layer in layers:
        layer.scale_layer(2.0)
        offered(layer, "set_scale")(NAME, 1.0)
    yield gap(cell.output(model), cell.active_output)


@story("scale.context")
def rescaling(cell: Cell) -> Told:
    """For a while."""
    from peft.helpers import rescale_adapter_scale

    model = cell.trained()
    with rescale_adapter_scale(model, 0.5):
        scaled = cell.output(model)
    yield not_told_from(scaled, cell.active_output) or gap(cell.output(model), cell.active_output)


@story("hotswap")
def hot_swapping(cell: Cell) -> Told:
    """Another adapter in the place of this one."""
    from peft.utils.hotswap import hotswap_adapter

    folder = cell.saved(cell.second_alone())
    model = cell.trained()
    hotswap_adapter(model, folder, NAME)
    yield gap(cell.output(model), cell.alone_output)


@story("hotswap.alpha")
def hot_swapping_another_scale(cell: Cell) -> Told:
    """One that is stronger."""
    from peft.utils.hotswap import hotswap_adapter

    folder = cell.saved(cell.second_alone())
    config = read_json(folder / ADAPTER_FILE)
    if not config.get("lora_alpha"):
        raise NotOffered("lora_alpha")
    write_json(folder / ADAPTER_FILE, {**config, "lora_alpha": 2 * config["lora_alpha"]})
    model = cell.trained()
    hotswap_adapter(model, folder, NAME)
    yield gap(cell.output(model), cell.output(cell.loaded(folder)))


STORIES = (
    combining_one,
    *(_combination(kind, options) for kind, options in _COMBINATIONS.items()),
    concatenating,
    scaling,
    rescaling,
    hot_swapping,
    hot_swapping_another_scale,
)
