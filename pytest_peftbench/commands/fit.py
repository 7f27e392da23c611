"""Which methods fit a card: predicted peak memory of each experiment's training step, by its footprint.

The peak is that of tensors. What a device's runtime and its allocator take beside them is not in it.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pytest_peftbench.measure import environment
from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.words import bytes_text, flops_text
from pytest_peftbench.suites import DEFAULTS_FILE, Experiment, find_suites, read_suite

DTYPES = ("float32", "float16", "bfloat16", "int8", "int4")
SUITES = Path("benchmarks")
# Bytes of a weight in a quantised linear layer, scales included: int8 has one of 4 bytes a row, which is next to
# nothing; int4 (blocks of 64) has one of 4 bytes a block.
_QUANTISED_BYTES = {"int8": 1.0, "int4": 0.5 + 4 / 64}
_UNITS = {"b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40, "kb": 10**3, "mb": 10**6, "gb": 10**9}


@dataclass(frozen=True)
class Fit:
    """What one experiment needs. error: why nothing is known; the numbers are 0 then.

    flops_per_token: of a training step, for each token of the batch (for images: each position).
    """

    method: str
    peak_bytes: int = 0
    weights_bytes: int = 0
    gradients_bytes: int = 0
    optimizer_bytes: int = 0
    activations_bytes: int = 0
    temporary_bytes: int = 0
    flops_per_token: float = 0.0
    checkpoint_bytes: int = 0
    trainable: int = 0
    notes: tuple[str, ...] = ()
    error: str = ""

    def fits(self, vram_bytes: int | None) -> bool | None:
        """Whether the tensors fit; None where nothing is known."""
        return None if self.error or vram_bytes is None else self.peak_bytes <= vram_bytes


def vram(text: str) -> int:
    """Bytes of `24GiB`, `80GB` or `16384MiB`."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]+)\s*", text)
    if not found or found[2].lower() not in _UNITS or not float(found[1]) > 0:
        raise InputError(f"{text!r}: expected an amount of memory such as 24GiB or 80GB")
    return int(float(found[1]) * _UNITS[found[2].lower()])


def find_experiments(base_model: str | None, folders: Sequence[Path]) -> list[Experiment]:
    """The experiments in `folders` (suites, or experiments of one), or all of the base model's suite below benchmarks/.

    Raises InputError when a folder holds none, and when the base model has no suite.
    """
    found = [experiment for folder in folders or [SUITES] for experiment in _in_folder(folder)]
    if base_model is None:
        return found
    chosen = [experiment for experiment in found if base_model in (experiment.case.base_model, _model(experiment))]
    if not chosen:
        known = sorted({experiment.case.base_model for experiment in found})
        raise InputError(f"--base-model {base_model}: no experiment is on it; there are {', '.join(known)}")
    return chosen


def _model(experiment: Experiment) -> str:
    return experiment.train.model_id


def _in_folder(folder: Path) -> list[Experiment]:
    folder = folder.resolve()
    suite = next((above for above in folder.parents if (above / DEFAULTS_FILE).is_file()), None)
    suites = [suite] if suite else find_suites(folder)
    found = [
        experiment
        for each in suites
        for experiment in read_suite(each)
        if suite is None or experiment.path.is_relative_to(folder)
    ]
    if not found:
        raise InputError(f"{folder}: holds no experiment and no suite, which is a folder with {DEFAULTS_FILE}")
    return found


def fits(
    experiments: Sequence[Experiment],
    batch_size: int,
    seq_len: int,
    dtype: str,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Fit]:
    """What each experiment needs, the one with the lowest peak first, those that cannot be counted last.

    All processors take part. The result does not depend on how many there are. progress: gets a line per experiment.
    """
    jobs = [(experiment, batch_size, seq_len, dtype) for experiment in experiments]
    rows = []
    for row in _map(jobs):
        rows.append(row)
        progress(f"{len(rows)}/{len(jobs)}  {row.method}")
    return sorted(rows, key=lambda fit: (bool(fit.error), fit.peak_bytes, fit.method))


def _map(jobs: list[tuple[Experiment, int, int, str]]) -> Iterator[Fit]:
    workers = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, len(jobs))
    if workers <= 1 or sys.platform != "linux":
        yield from map(_fit, jobs)
        return
    import pytest_peftbench.cases.footprint  # noqa: F401 - once here, and not once in each process

    # nothing has run on torch's threads yet, so that its state may be copied
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("fork")) as pool:
        yield from pool.map(_fit, jobs)


def _fit(job: tuple[Experiment, int, int, str]) -> Fit:
    experiment, batch_size, seq_len, dtype = job
    from pytest_peftbench.cases.footprint import count_footprint, shapes_of
    from pytest_peftbench.tasks.shapes import Lengths

    method = f"{experiment.case.method}/{experiment.case.name}"
    quantised = dtype in _QUANTISED_BYTES
    train = replace(experiment.train, dtype="bfloat16" if quantised else dtype)  # type: ignore[arg-type]
    experiment = replace(experiment, train=train)
    lengths = Lengths(batch_size, seq_len)
    try:
        result = count_footprint(experiment, lengths, decode=False)
        if (outcome := result.metrics["footprint.counted"]) != "ok":
            raise InputError(str(outcome))
        saved = _saved_by_quantising(experiment, dtype) if quantised else 0
    except Exception as error:  # PEFT refuses a config in many ways; each is the row's outcome
        return Fit(method, error=f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}")
    numbers = {name: int(value) for name, value in result.metrics.items() if isinstance(value, (int, float))}

    def part(kind: str) -> int:
        return numbers[f"train_step.peak_{kind}_bytes"]

    return Fit(
        method=method,
        peak_bytes=numbers["train_step.peak_bytes"] - saved,
        weights_bytes=part("weights") - saved,
        gradients_bytes=part("gradients"),
        optimizer_bytes=part("optimizer"),
        activations_bytes=part("activations"),
        temporary_bytes=part("temporary"),
        flops_per_token=numbers["train_step.flops"] / shapes_of(experiment, lengths).trained_tokens,
        checkpoint_bytes=numbers["checkpoint.bytes"],
        trainable=numbers["params.trainable"],
        notes=tuple(result.notes),
    )


def _saved_by_quantising(experiment: Experiment, dtype: str) -> int:
    """Bytes by which quantised linear layers are smaller, less the largest one's bfloat16 copy while it computes."""
    from torch import nn

    from pytest_peftbench.cases.footprint import shapes_of

    if experiment.adapter is None:
        raise InputError(f"full fine-tuning cannot train {dtype} weights")
    base = shapes_of(experiment).base_model()
    head = getattr(base, "lm_head", None)
    sizes = [module.weight.numel() for module in base.modules() if isinstance(module, nn.Linear) and module is not head]
    return int(sum(sizes) * (2 - _QUANTISED_BYTES[dtype])) - 2 * max(sizes)


# Showing


def table(rows: Sequence[Fit], vram_bytes: int | None) -> Iterable[str]:
    """Lines of a table: a row per experiment."""
    words = {True: "yes", False: "no", None: "-"}
    head: tuple[str, ...] = ("method", "fits", "peak", "weights", "grads", "optimizer", "activations", "temporary")
    head += ("FLOP/token", "checkpoint", "trainable")
    if vram_bytes is None:
        words = {None: ""}
    cells = [head]
    for row in rows:
        if row.error:
            continue
        memory: tuple[int, ...] = (row.peak_bytes, row.weights_bytes, row.gradients_bytes, row.optimizer_bytes)
        memory += (row.activations_bytes, row.temporary_bytes)
        figures = [*map(bytes_text, memory), flops_text(row.flops_per_token), bytes_text(row.checkpoint_bytes)]
        cells.append((row.method, words[row.fits(vram_bytes)], *figures, f"{row.trainable:,}"))
    columns = [list(column) for column in zip(*cells, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    for line in zip(*columns, strict=True):
        padded = (cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))
        yield "  ".join([line[0].ljust(widths[0]), *padded]).rstrip()
    for row in rows:
        if row.error:
            yield f"{row.method}: cannot be counted: {row.error}"


def to_json(
    rows: Sequence[Fit], base_model: str | None, batch_size: int, seq_len: int, dtype: str, vram_bytes: int | None
) -> dict[str, Any]:
    """The report for other programs; `fits` is null where it is not known."""
    names = ("torch", "transformers", "diffusers", "peft")
    return {
        "base_model": base_model,
        "batch_size": batch_size,
        "seq_len": seq_len,
        "dtype": dtype,
        "vram_bytes": vram_bytes,
        "environment": {name: environment.installed(name) for name in names},
        "methods": [{**asdict(row), "notes": list(row.notes), "fits": row.fits(vram_bytes)} for row in rows],
    }
