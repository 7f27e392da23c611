"""Runs many tries, each of a seed of its own, and counts what came of them."""

import random
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

from fuzz import Slipped, baselines, crash, experiments, imports
from pytest_peftbench.compare import stats

KINDS = {
    "baselines": baselines.attempt,
    "experiments": experiments.attempt,
    "imports": imports.attempt,
    "crash": crash.attempt,
}
# Of the long run.
COUNTS = {"baselines": 10_000, "experiments": 3_000, "imports": 4_000, "crash": 200}


@dataclass
class Tally:
    """outcomes: how many tries came to each. failures: what must not happen, a text each. seconds: of all tries."""

    outcomes: Counter = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def text(self):
        told = ", ".join(f"{name} {count:,}" for name, count in sorted(self.outcomes.items()))
        return f"{sum(self.outcomes.values()):,} tries in {self.seconds:,.0f} s: {told}"


def run(kind, seed, numbers, progress=lambda tally: None):
    """The tries of these numbers."""
    tally, start = Tally(), time.monotonic()
    for number in numbers:
        # so many permutations tell the same here, in a hundredth of the time
        with tempfile.TemporaryDirectory() as folder, patch.object(stats, "RESAMPLES", 999):
            _try(kind, seed, number, Path(folder), tally)
        tally.seconds = time.monotonic() - start
        progress(tally)
    return tally


def _try(kind, seed, number, folder, tally):
    outcome_of, words = KINDS[kind](random.Random(f"{seed}/{kind}/{number}"), folder)
    try:
        tally.outcomes[outcome_of()] += 1
    except Slipped as error:
        tally.outcomes["SLIPPED"] += 1
        tally.failures.append(f"{kind} --seed {seed} --only {number}: {words}: {error}")
    except Exception:
        tally.outcomes["TRACEBACK"] += 1
        tally.failures.append(f"{kind} --seed {seed} --only {number}: {words}\n{traceback.format_exc(limit=-3)}")
