"""The files of an adapter that is kept for later versions of PEFT: taken from a folder, and laid out in another."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pytest_peftbench.results.files import read_json
from pytest_peftbench.suites import ADAPTER_FILE, WEIGHTS_FILE

# Where an adapter that is made of others has them.
_EXPERTS = "experts"


def written(folder: Path) -> dict[str, bytes]:
    """What PEFT wrote of an adapter, by path: config and weights, and those of the adapters that it is made of.

    Paths of this machine are made relative. The class of a plain base model, which PEFT takes down to find it again,
    is one of ours, and left out.
    """
    config = read_json(folder / ADAPTER_FILE)
    experts = {name: Path(place) for name, place in (config.get("adapters") or {}).items()}
    if experts:
        config["adapters"] = {name: f"{_EXPERTS}/{name}" for name in experts}
    config["auto_mapping"] = None
    files = {ADAPTER_FILE: _as_peft_does(config), WEIGHTS_FILE: (folder / WEIGHTS_FILE).read_bytes()}
    for name, place in experts.items():
        files |= {f"{_EXPERTS}/{name}/{file}": content for file, content in written(place).items()}
    return files


def laid_out(files: Mapping[str, bytes], folder: Path) -> Path:
    """The folder, with the adapter in it as PEFT wants to read it."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    config = read_json(folder / ADAPTER_FILE)
    if config.get("adapters"):
        config["adapters"] = {name: str(folder / place) for name, place in config["adapters"].items()}
        (folder / ADAPTER_FILE).write_bytes(_as_peft_does(config))
    return folder


def _as_peft_does(config: Mapping[str, object]) -> bytes:
    return json.dumps(config, indent=2, sort_keys=True).encode()
