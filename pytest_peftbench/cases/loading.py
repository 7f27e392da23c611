"""Base models and data, loaded once per session: what the fixtures `base_model` and `task_data` give."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from pytest_peftbench.cases.subject import BaseModel, TaskData
from pytest_peftbench.measure.weights import fingerprint
from pytest_peftbench.suites import Experiment
from pytest_peftbench.tasks.config import QUANTISED


def cached_base_models() -> BaseModel:
    """Loads each base model once and gives a copy of it at each call, with the weights as loaded, to the bit.

    A quantised one is loaded each time: it lies on its device, where there is no room for two.
    """
    loaded: dict[tuple[object, ...], tuple[nn.Module, int]] = {}

    def base_model(experiment: Experiment) -> nn.Module:
        config, task = experiment.train, experiment.spec.load("task")
        if config.dtype in QUANTISED:
            model: nn.Module = task.load_base_model(config, experiment.place)
            return model
        key = (experiment.case.task, experiment.models, config.telling("BASE_MODEL"))
        if key not in loaded:
            model = task.load_base_model(config, experiment.place)
            loaded[key] = model, fingerprint(model)
        model, expected = loaded[key]
        restored = copy.deepcopy(model)
        if fingerprint(restored) != expected:
            raise RuntimeError(f"{config.model_id}: an earlier case changed the weights that all start from")
        return restored

    return base_model


def cached_task_data() -> TaskData:
    """Loads each task's data once for all experiments that agree on what it depends on."""
    loaded: dict[tuple[object, ...], Any] = {}

    def task_data(experiment: Experiment) -> Any:
        places = (experiment.device, experiment.data, experiment.models)
        key = (experiment.case.task, places, experiment.train.telling("DATA"), torch.get_default_dtype())
        if key not in loaded:
            loaded[key] = experiment.spec.load("task").load_data(experiment.train, experiment.place)
        return loaded[key]

    return task_data
