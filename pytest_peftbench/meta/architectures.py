"""Figures of real base models: their configs, without weights. Reads JSON only: imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytest_peftbench.results.files import InputError, read_json
from pytest_peftbench.suites import Experiment
from pytest_peftbench.tasks.embedded import IMAGE_MODEL, MATH_MODEL

FOLDER = Path(__file__).parent / "configs"
_EMBEDDED = {"MetaMathQA": MATH_MODEL, "image-gen": IMAGE_MODEL}
# Where the config of the model that is trained lies in a model's folder.
_CONFIG_FILES = {"MetaMathQA": "config.json", "image-gen": "transformer/config.json"}


def is_real(experiment: Experiment) -> bool:
    """Whether the base model is one whose figures are shipped: too large to train on a CPU."""
    return _shipped(experiment.train.model_id) is not None


def is_embedded(experiment: Experiment) -> bool:
    """Whether the base model comes with the package, weights and all."""
    return experiment.train.model_id == "tiny"


def read_architecture(experiment: Experiment) -> dict[str, Any]:
    """The config of the experiment's base model: of its folder, else as shipped for its id, else from the hub.

    Raises InputError, naming the model and the way out, when there is none.
    """
    model_id, task = experiment.train.model_id, experiment.case.task
    folder = _EMBEDDED[task] if is_embedded(experiment) else Path(model_id)
    if folder.is_dir():
        return read_json(folder / _CONFIG_FILES[task])
    shipped = _shipped(model_id)
    return read_json(shipped or _from_hub(experiment))


def _shipped(model_id: str) -> Path | None:
    file = FOLDER / f"{Path(model_id).name}.json"
    return file if file.is_file() else None


def _from_hub(experiment: Experiment) -> Path:
    from huggingface_hub import hf_hub_download

    model_id, name = experiment.train.model_id, _CONFIG_FILES[experiment.case.task]
    try:
        return Path(hf_hub_download(model_id, name))
    except Exception as error:  # no network, no such id, gated: whatever the hub's client raises, the way out is one
        known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.json")))
        raise InputError(
            f"{experiment.path}: model_id: {model_id!r} is no folder with {name}, its figures are not shipped "
            f"({known} are), and it cannot be had from the hub: {type(error).__name__}"
        ) from error
