"""`peftbench fit`: which methods fit a card, by the peak memory of a training step that their footprints predict.

The peak is that of tensors. What a device's runtime and its allocator take beside them is not in it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pytest_peftbench.commands.command import Command, say, tell_progress
from pytest_peftbench.measure import environment
from pytest_peftbench.results.files import InputError, positive, require_writable_file, resolved, write_json
from pytest_peftbench.results.words import aligned, bytes_text, error_line, flops_text
from pytest_peftbench.suites import DEFAULTS_FILE, Experiment, find_suites, read_suite

DTYPES = ("float32", "float16", "bfloat16", "int8", "int4")
SUITES = Path("benchmarks")
BASE_MODEL = "llama-3.2-3B"
# Bytes of a weight in a quantised linear layer, scales included: int8 has one of 4 bytes a row, which is next to
# nothing; int4 (blocks of 64) has one of 4 bytes a block.
_QUANTISED_BYTES = {"int8": 1.0, "int4": 0.5 + 4 / 64}
_UNITS = {"b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40, "kb": 10**3, "mb": 10**6, "gb": 10**9}


@dataclass(frozen=True)
class Sizes:
    """What the training steps are counted with. dtype: of the base weights, one of DTYPES."""

    batch_size: int
    seq_len: int
    dtype: str


@dataclass(frozen=True)
class Need:
    """What one experiment's training step needs. error: why nothing is known; the numbers are 0 then.

    flops_per_token: for each token of the batch (for images: each position).
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


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("experiments", nargs="*", type=Path, metavar="EXPERIMENTS", help="suites or experiments")
    parser.add_argument("--base-model", metavar="NAME", help=f"whose experiments (default: {BASE_MODEL})")
    parser.add_argument("--batch-size", type=positive, default=4, metavar="N", help="texts or pictures (default: 4)")
    parser.add_argument("--seq-len", type=positive, default=768, metavar="N", help="tokens of each text (default: 768)")
    parser.add_argument("--vram", type=memory, metavar="MEMORY", help="the card's memory, as 24GiB")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="of the base weights (default: bfloat16)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report here too")


def _run(options: argparse.Namespace) -> int:
    base_model = options.base_model or (None if options.experiments else BASE_MODEL)
    experiments = find_experiments(base_model, options.experiments)
    sizes = Sizes(options.batch_size, options.seq_len, options.dtype)
    if options.json:
        require_writable_file(f"--json {options.json}", options.json)
    needs = predict(experiments, sizes, tell_progress)
    for line in table(needs, options.vram):
        say(line)
    if options.json:
        write_json(options.json, to_json(needs, base_model, sizes, options.vram))
    return 1 if all(need.error for need in needs) else 0


def memory(text: str) -> int:
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
    chosen = [item for item in found if base_model in (item.case.base_model, item.train.model_id)]
    if not chosen:
        known = sorted({experiment.case.base_model for experiment in found})
        raise InputError(f"--base-model {base_model}: no experiment is on it; there are {', '.join(known)}")
    return chosen


def _in_folder(folder: Path) -> list[Experiment]:
    folder = resolved(folder)
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


def predict(experiments: Sequence[Experiment], sizes: Sizes, progress: Callable[[str], None]) -> list[Need]:
    """What each experiment needs, the one with the lowest peak first, those that cannot be counted last.

    All processors take part. The result does not depend on how many there are. progress: gets a line per experiment.
    """
    needs = []
    for need in _in_parallel([(experiment, sizes) for experiment in experiments]):
        needs.append(need)
        progress(f"{len(needs)}/{len(experiments)}  {need.method}")
    return sorted(needs, key=lambda need: (bool(need.error), need.peak_bytes, need.method))


def _in_parallel(jobs: list[tuple[Experiment, Sizes]]) -> Iterator[Need]:
    workers = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, len(jobs))
    if workers <= 1 or sys.platform != "linux":
        yield from map(_need, jobs)
        return
    import pytest_peftbench.cases.footprint  # noqa: F401 - once here, and not once in each process

    # nothing has run on torch's threads yet, so that its state may be copied
    with _processes(workers) as pool:
        counted = [pool.submit(_need, job) for job in jobs]
        for job, future in zip(jobs, counted, strict=True):
            try:
                yield future.result()
            except BrokenProcessPool:  # one of them died, and took those down that were waiting
                yield _alone(job)


def _processes(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("fork"))


def _alone(job: tuple[Experiment, Sizes]) -> Need:
    """What `_need` gives in a process that may die, as one does that runs out of memory or into a fault of torch."""
    try:
        with _processes(1) as pool:
            return pool.submit(_need, job).result()
    except BrokenProcessPool:
        return Need(job[0].case.experiment, error="its process died; the system may have run out of memory")


def _need(job: tuple[Experiment, Sizes]) -> Need:
    experiment, sizes = job
    try:
        return _counted(experiment, sizes)
    except Exception as error:  # PEFT refuses a config in many ways; each is the row's outcome
        return Need(experiment.case.experiment, error=error_line(error))


def _counted(experiment: Experiment, sizes: Sizes) -> Need:
    """From the footprint in the dtype, or in bfloat16 less what quantising saves."""
    from pytest_peftbench.cases.footprint import count_footprint, shapes_of
    from pytest_peftbench.tasks.shapes import Lengths

    quantised = sizes.dtype in _QUANTISED_BYTES
    train = replace(experiment.train, dtype="bfloat16" if quantised else sizes.dtype)  # type: ignore[arg-type]
    experiment = replace(experiment, train=train)
    lengths = Lengths(sizes.batch_size, sizes.seq_len)
    result = count_footprint(experiment, lengths, decode=False)
    if (outcome := result.metrics["footprint.counted"]) != "ok":
        raise InputError(str(outcome))
    saved = _saved_by_quantising(experiment, sizes.dtype) if quantised else 0
    numbers = {name: int(value) for name, value in result.metrics.items() if isinstance(value, (int, float))}
    return Need(
        method=experiment.case.experiment,
        peak_bytes=numbers["train_step.peak_bytes"] - saved,
        weights_bytes=numbers["train_step.peak_weights_bytes"] - saved,
        gradients_bytes=numbers["train_step.peak_gradients_bytes"],
        optimizer_bytes=numbers["train_step.peak_optimizer_bytes"],
        activations_bytes=numbers["train_step.peak_activations_bytes"],
        temporary_bytes=numbers["train_step.peak_temporary_bytes"],
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


def table(needs: Sequence[Need], vram_bytes: int | None) -> list[str]:
    """Lines of a table, a row per experiment that was counted, then why others were not.

    Whether one fits is a column only where there is a card.
    """
    names = ("method", "fits", "peak", "weights", "grads", "optimizer", "activations", "temporary")
    rows = [_row(need, vram_bytes) for need in needs if not need.error]
    if rows:
        rows.insert(0, [*names, "FLOP/token", "checkpoint", "trainable"])
    if vram_bytes is None:
        rows = [[method, *figures] for method, _, *figures in rows]
    return [*aligned(rows), *(f"{need.method}: cannot be counted: {need.error}" for need in needs if need.error)]


def _row(need: Need, vram_bytes: int | None) -> list[str]:
    parts = (need.weights_bytes, need.gradients_bytes, need.optimizer_bytes, need.activations_bytes)
    sizes = map(bytes_text, (need.peak_bytes, *parts, need.temporary_bytes))
    costs = (flops_text(need.flops_per_token), bytes_text(need.checkpoint_bytes), f"{need.trainable:,}")
    return [need.method, "yes" if need.fits(vram_bytes) else "no", *sizes, *costs]


def to_json(needs: Sequence[Need], base_model: str | None, sizes: Sizes, vram_bytes: int | None) -> dict[str, Any]:
    """The report for other programs; `fits` is null where it is not known."""
    names = ("torch", "transformers", "diffusers", "peft")
    return {
        "base_model": base_model,
        **asdict(sizes),
        "vram_bytes": vram_bytes,
        "environment": {name: environment.installed(name) for name in names},
        "methods": [{**asdict(need), "notes": list(need.notes), "fits": need.fits(vram_bytes)} for need in needs],
    }


COMMAND = Command(
    name="fit",
    help="which methods fit a card",
    description="Predict each experiment's peak memory in training from its base model's shapes, without weights "
    "or a GPU, and show which fit a card. The device's runtime and its allocator take more. 1 when no experiment "
    "can be counted.",
    add_arguments=_add_arguments,
    run=_run,
)
