"""What a report shows of a case beside its verdict, as plain data: xdist's workers send it to the controller."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Iterable, Mapping
from typing import Any

from pytest_peftbench.compare.witness import deviations
from pytest_peftbench.results.baseline import Baseline
from pytest_peftbench.results.metrics import METRICS, Metric
from pytest_peftbench.results.result import Measured, Picture, Result, SeedRun

# Rows of what explains a figure: the largest ones.
_MOST = 12
_PEAK = "train_step"


def details(
    measured: Measured,
    expected: Baseline | None = None,
    pictures: Iterable[Picture] = (),
    metrics: Mapping[str, Metric] = METRICS,
) -> dict[str, Any]:
    """Words, spreads, losses, witness, tensors at the peak and pictures of a case, as far as there are any.

    expected: the baseline that it was held against. pictures: with their content.
    """
    found: dict[str, Any] = {
        "words": _words(measured, metrics),
        "spread": _spread(measured.seeds),
        "losses": _losses(measured, expected),
        "course": _course(measured),
        "witness": _witness(measured, expected),
        "tensors": _tensors(measured),
        "environment": dict(measured.environment),
        "notes": [*measured.warnings, *measured.notes] if isinstance(measured, Result) else [],
        "pictures": pictures_shown(pictures),
    }
    return {name: value for name, value in found.items() if value}


def pictures_shown(pictures: Iterable[Picture]) -> list[dict[str, Any]]:
    """Pictures as a page shows them, with their content."""
    return [
        {"name": item.name, "prompt": item.prompt, "seed": item.seed, "png": b64encode(item.png).decode()}
        for item in pictures
    ]


def _words(measured: Measured, metrics: Mapping[str, Metric]) -> dict[str, str]:
    """Checks and laws by metric; hashes are no words."""
    return {
        name: value
        for name, value in measured.metrics.items()
        if isinstance(value, str) and (name not in metrics or metrics[name].unit != "sha256")
    }


def _spread(seeds: list[SeedRun]) -> dict[str, list[float]]:
    """The lowest and the highest of each figure's seeds, and how many they are; of two seeds or more."""
    found: dict[str, list[float]] = {}
    for run in seeds:
        for name, value in run.metrics.items():
            if isinstance(value, (int, float)) and math.isfinite(value):
                found.setdefault(name, []).append(value)
    return {name: [min(values), max(values), len(values)] for name, values in found.items() if len(values) > 1}


def _losses(measured: Measured, expected: Baseline | None) -> dict[str, list[float | None]]:
    """The losses of the first steps of the first seed, here and in the baseline."""
    if not measured.seeds:
        return {}
    seed = measured.seeds[0].seed
    theirs = [run for run in expected.seeds if run.seed == seed] if expected else []
    sides = {"obtained": measured.seeds[0], **({"expected": theirs[0]} if theirs else {})}
    found = {side: run.metrics.get("first_losses") for side, run in sides.items()}
    return {side: list(map(_plain, losses)) for side, losses in found.items() if isinstance(losses, list)}


def _course(measured: Measured) -> list[list[float | None]]:
    """Step and training loss at each validation, as PEFT's schema keeps them."""
    peft = measured.peft if isinstance(measured, Result) else getattr(measured, "imported", {})
    rows = peft.get("train_info", {}).get("metrics") or []
    pairs = [(row.get("step"), row.get("train loss")) for row in rows if isinstance(row, dict)]
    return [[step, _plain(loss)] for step, loss in pairs if isinstance(step, int) and isinstance(loss, (int, float))]


def _plain(number: float) -> float | None:
    """As many digits as a plot shows; none for NaN and infinities, which JSON does not have."""
    return float(f"{number:.6g}") if math.isfinite(number) else None


def _witness(measured: Measured, expected: Baseline | None) -> dict[str, Any]:
    """How far the witness' quantities are from the baseline's, in the order of coming; null for no number."""
    ours, theirs = measured.witness, expected.witness if expected else None
    if ours is None or theirs is None or (ours.version, ours.rate) != (theirs.version, theirs.rate):
        return {}
    found = [[item.name, _plain(item.size)] for item in deviations(ours.quantities, theirs.quantities)]
    return {"bound": theirs.bound, "deviations": found} if any(size != 0 for _, size in found) else {}


def _tensors(measured: Measured) -> list[list[Any]]:
    """The largest rows of what is alive at a training step's peak: tensor and owner, how many, bytes."""
    rows = measured.peak_tensors.get(_PEAK, {})
    largest = sorted(rows.items(), key=lambda row: (-row[1][1], row[0]))
    return [[name, *counts] for name, counts in largest[:_MOST]]
