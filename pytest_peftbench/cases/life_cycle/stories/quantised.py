"""Quantised base weights: an adapter beside them does what it does beside the weights that they stand for."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pytest_peftbench.cases.life_cycle.asking import Told, gap, gaps, past, story
from pytest_peftbench.cases.life_cycle.cell import BASE, NAME, SECOND, Cell, perturb, plain
from pytest_peftbench.cases.life_cycle.stories import saving, several, using
from pytest_peftbench.measure.environment import seed_everything
from pytest_peftbench.tasks.structures.models import SINGLE, Quantised


@story("base.quantised", "base.quantised.gradients", "base.quantised.merge", "base.quantised.unmerge")
def standing_for_others(cell: Cell) -> Told:
    """Used, trained, merged and unmerged beside its twin; that weights are rounded again is no fault of PEFT's."""
    model, twin, quantised = cell.trained(), _twin(cell), _quantised(cell)
    yield past(gap(cell.output(model), cell.output(twin)), quantised.output)
    yield past(gaps(cell.gradients(model), cell.gradients(twin)), SINGLE)
    before = _weights(model)
    model.merge_adapter()
    twin.merge_adapter()
    yield past(gaps(_weights(model), _weights(twin)), quantised.step)
    model.unmerge_adapter()
    yield past(gaps(_weights(model), before), 2 * quantised.step)


@story("base.quantised.prepare")
def preparing(cell: Cell) -> Told:
    """As one does before an adapter is trained on them."""
    from peft import get_peft_model, prepare_model_for_kbit_training

    base = prepare_model_for_kbit_training(cell.base())
    seed_everything(SECOND)
    model = get_peft_model(base, cell.config(), NAME)
    perturb(model, cell.trainable)
    yield gaps(cell.gradients(model), cell.gradients(cell.second_alone()))


def _quantised(cell: Cell) -> Quantised:
    found = cell.structure.quantised
    assert found is not None  # or its dtype says what it is not
    return found


def _twin(cell: Cell) -> Any:
    """The trained adapter on a base model of the weights that the quantised ones stand for."""
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    seed_everything(BASE)
    base = _quantised(cell).of()
    for name, weight in _weights(cell.base()).items():
        base.get_submodule(name).weight.data = weight
    model = get_peft_model(base, cell.config(), NAME)
    set_peft_model_state_dict(model, get_peft_model_state_dict(cell.trained()))
    return model


def _weights(model: Any) -> dict[str, Tensor]:
    """What the weights of the base model's layers stand for, by the layer's name in the base model."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.integrations import dequantize_module_weight

    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    adapters = tuple(name for name, layer in model.named_modules() if isinstance(layer, BaseTunerLayer))
    layers = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and (name.endswith(".base_layer") or not name.startswith(adapters))
    }
    return {plain(name): dequantize_module_weight(layer).detach().clone() for name, layer in layers.items()}


STORIES = (
    using.injection,
    using.disabling,
    using.freezing,
    saving.saving,
    saving.loading_to_train,
    several.two_adapters,
    standing_for_others,
    preparing,
)
