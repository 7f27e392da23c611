"""What a PEFT method needs beyond its config, in one table: no other module knows a method by name."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pytest_peftbench.results.files import InputError, read_json
from pytest_peftbench.results.words import error_line
from pytest_peftbench.suites import ADAPTER_FILE, WEIGHTS_FILE, expert_folders


def _no_preparation(adapter: dict[str, Any], source: Path, base: nn.Module, workdir: Path) -> dict[str, Any]:
    return adapter


def _no_change(base: nn.Module) -> None:
    return None


def _no_inputs(batch_size: int) -> dict[str, Tensor]:
    return {}


def _allocate(model: nn.Module, step: int) -> None:
    """The allocation that AdaLoRA and AdaMSS do after each optimizer step, gradients still in place."""
    allocate = getattr(getattr(model, "base_model", None), "update_and_allocate", None)
    if allocate is not None:
        allocate(step)


@dataclass(frozen=True)
class Needs:
    """What is called for a method.

    prepare: completes the keys of `adapter_config.json`, once per case; gets them, the experiment's folder, a base
    model that it may use up, and a folder for files of its own. base: changes each base model before the adapter is
    added. inputs: extra keyword arguments of each forward call and of `generate`, for a batch of that many items.
    after_step: called with the model and the step, counted from 1, after each optimizer step. draws: whether it draws
    numbers in training mode by design, without dropout. steady: whether what it starts from does not hang on a last
    digit, as a decomposition may of which several are right.
    """

    prepare: Callable[[dict[str, Any], Path, nn.Module, Path], dict[str, Any]] = _no_preparation
    base: Callable[[nn.Module], None] = _no_change
    inputs: Callable[[int], dict[str, Tensor]] = _no_inputs
    after_step: Callable[[nn.Module, int], None] = _allocate
    draws: bool = False
    steady: bool = True


def _one_task(batch_size: int) -> dict[str, Tensor]:
    """All items belong to task 0."""
    return {"task_ids": torch.zeros(batch_size, dtype=torch.long)}


def _make_experts(adapter: dict[str, Any], source: Path, base: nn.Module, workdir: Path) -> dict[str, Any]:
    """Give X-LoRA the experts that it mixes: `adapters` names folders beside its config.

    A folder with a config alone gives an expert with fresh weights, drawn from the global seed.
    """
    from peft import get_peft_model

    experts: dict[str, str] = {}
    for name, folder in experts_of(adapter, source).items():
        if not (folder / WEIGHTS_FILE).exists():
            config_file = folder / ADAPTER_FILE
            model = get_peft_model(copy.deepcopy(base), make_config(read_json(config_file), config_file))
            folder = workdir / "experts" / name
            model.save_pretrained(folder)
        experts[name] = str(folder)
    return {**adapter, "adapters": experts}


def experts_of(adapter: dict[str, Any], source: Path) -> dict[str, Path]:
    """The folders of X-LoRA's experts, by names of our own. Raises InputError for none, as for what is no expert."""
    if not adapter.get("adapters"):
        raise InputError(f"{source / ADAPTER_FILE}: adapters: names no expert; give each a name and a folder")
    return expert_folders(adapter, source)


def _without_cache(base: nn.Module) -> None:
    """X-LoRA refuses a base model that caches: its scalings change with each token."""
    base.config.use_cache = False  # type: ignore[union-attr]


_NEEDS: dict[str, Needs] = {
    "POLY": Needs(inputs=_one_task, draws=True),
    "FROD": Needs(steady=False),
    "PVERA": Needs(draws=True),
    "MULTITASK_PROMPT_TUNING": Needs(inputs=_one_task),
    "XLORA": Needs(prepare=_make_experts, base=_without_cache),
}


# Keys of `adapter_config.json` that count training steps.
_STEPS = {
    "ADALORA": ("tinit", "tfinal", "deltaT", "total_step"),
    "ADAMSS": ("init_warmup", "final_warmup", "mask_interval"),
}


def compressed_steps(adapter: dict[str, Any], share: float) -> dict[str, Any]:
    """The adapter's keys with all that count training steps at a share of them, at least one."""
    counts = {key: adapter[key] for key in _STEPS.get(adapter["peft_type"], ()) if adapter.get(key)}
    return {**adapter, **{key: max(1, round(share * count)) for key, count in counts.items()}}


def needs_of(adapter: dict[str, Any] | None) -> Needs:
    """The needs of an adapter's method; none for full fine-tuning."""
    return _NEEDS.get(adapter["peft_type"], Needs()) if adapter else Needs()


# Types of a config's keys that hold a number, as PEFT writes them. It takes a whole one for a `float` and the reverse.
_NUMBERS = (int, float, "int", "float")


def make_config(adapter: dict[str, Any], source: Path) -> Any:
    """The `PeftConfig` of the keys in `adapter`.

    Raises InputError, naming `source` and the key, when the installed PEFT does not know a key or refuses a value.
    """
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    if adapter["peft_type"] not in PEFT_TYPE_TO_CONFIG_MAPPING:
        raise InputError(f"{source}: peft_type: {adapter['peft_type']!r} is unknown to the installed PEFT")
    config_type = PEFT_TYPE_TO_CONFIG_MAPPING[adapter["peft_type"]]
    known = {item.name for item in fields(config_type)}
    for key in adapter:
        if key not in known:
            raise InputError(f"{source}: key {key!r} is unknown to {config_type.__name__} of the installed PEFT")
    for item in fields(config_type):
        value = adapter.get(item.name)
        if item.type in _NUMBERS and value is not None and type(value) not in (int, float):
            raise InputError(f"{source}: key {item.name!r} must be a number, is {json.dumps(value)}")
    try:
        return config_type(**{key: value for key, value in adapter.items() if key != "peft_type"})
    except Exception as error:  # each config refuses values in its own way
        raise InputError(f"{source}: {config_type.__name__} refuses the values: {error_line(error)}") from error
