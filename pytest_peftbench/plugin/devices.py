"""Under xdist each worker has an accelerator of its own, where there are several. Touches no CUDA: workers are to."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from pytest_peftbench.plugin.options import OPTIONS

VISIBLE = "CUDA_VISIBLE_DEVICES"
# Of xdist's `workerinput`.
_GPU = "peftbench_gpu"
# GPU by worker.
_GIVEN = pytest.StashKey[dict[str, str]]()


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; asked of the driver, not of CUDA."""
    if VISIBLE in os.environ:
        return [name.strip() for name in os.environ[VISIBLE].split(",") if name.strip()]
    import pynvml

    try:
        pynvml.nvmlInit()
        return [str(number) for number in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []


def workers(config: pytest.Config) -> int | None:
    """How many workers `-n auto` starts: one for each GPU; None, for xdist's own number, where cases run elsewhere."""
    if not _on_gpus(config) or "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    return len(gpus()) or None


def give(node: Any) -> None:
    """Tell a new worker its GPU: the one that fewest have. With one GPU alone there is nothing to tell."""
    config = node.config
    known = gpus() if _on_gpus(config) else []
    if len(known) > 1:
        given = config.stash.setdefault(_GIVEN, {})
        node.workerinput[_GPU] = given[node.gateway.id] = _least_used(known, given.values())


def take_back(node: Any) -> None:
    """A worker is gone, and the one that takes its place has its GPU."""
    node.config.stash.get(_GIVEN, {}).pop(node.gateway.id, None)


def use(config: pytest.Config) -> None:
    """In a worker that was told a GPU, make it the only one: torch reads that when CUDA is first used."""
    if gpu := getattr(config, "workerinput", {}).get(_GPU):
        os.environ[VISIBLE] = gpu


def _least_used(known: Sequence[str], given: Any) -> str:
    used = Counter(given)
    return min(known, key=lambda gpu: used[gpu])


def _on_gpus(config: pytest.Config) -> bool:
    """Whether the cases run on "cuda"; whoever says "cuda:1" has chosen."""
    (device,) = (option for option in OPTIONS if option.name == "device")
    return bool(device.value(config) == "cuda")
