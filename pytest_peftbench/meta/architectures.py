"""Figures of real base models: their configs, without weights. Reads JSON only: imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytest_peftbench.results.files import InputError, read_json

FOLDER = Path(__file__).parent / "configs"


def shipped(model_id: str) -> Path | None:
    """The config of a real base model that comes with the package; None for any other."""
    file = FOLDER / f"{Path(model_id).name}.json"
    return file if file.is_file() else None


def read_architecture(model_id: str, name: str, source: Path) -> dict[str, Any]:
    """The config of a base model: of its folder, else as shipped for its id, else from the hub.

    name: of the file in the model's folder. source: the experiment's folder, for messages. Raises InputError, naming
    the model and the way out, when there is none.
    """
    if Path(model_id).is_dir():
        return read_json(Path(model_id) / name)
    return read_json(shipped(model_id) or _from_hub(model_id, name, source))


def _from_hub(model_id: str, name: str, source: Path) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(model_id, name))
    except Exception as error:  # no network, no such id, gated: whatever the hub's client raises, the way out is one
        known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.json")))
        raise InputError(
            f"{source}: model_id: {model_id!r} is no folder with {name}, its figures are not shipped "
            f"({known} are), and it cannot be had from the hub: {type(error).__name__}"
        ) from error
