"""Of the trials the best at which training keeps still: on a base model moved by its last digit it gives the same.

Beyond that, at the edge of stability, the figures of a case tell rounding and not the method, and its baseline holds on
one processor alone. The best trial is asked first, then the next best, until one keeps still. A trial that keeps still
because it learns nothing tells nothing either: where any learns, those that do not are passed over.
"""

from __future__ import annotations

from collections.abc import Sequence

from pytest_peftbench.commands.tune.outcome import LOSS, Outcome, Trial

# What a still training moves by at most: the validation metric, in its unit (one of 50 problems is 0.02), and the train
# loss, relative to itself.
STILL_METRIC = 0.025
STILL_LOSS = 5e-4
# What learns is better than the base model by more than this, in the validation metric's unit: by three of 50 problems.
LEARNS = 0.05


def candidates(outcome: Outcome) -> list[Trial]:
    """The trials that may be chosen, the best first."""
    ranked = outcome.ranked()
    sign = 1 if outcome.higher else -1
    start = outcome.untrained[outcome.metric]
    return [trial for trial in ranked if sign * (outcome.score(trial) - start) > LEARNS] or ranked


def unrest(outcome: Outcome, trial: Trial, moved: Trial) -> float:
    """How far its figures moved, as a multiple of what a still training may; infinite where it failed."""
    if moved.state == "failed":
        return float("inf")
    metric = abs(outcome.score(moved) - outcome.score(trial)) / STILL_METRIC
    loss = abs(moved.figures[LOSS] - trial.figures[LOSS]) / (STILL_LOSS * abs(trial.figures[LOSS]) or float("inf"))
    return max(metric, loss)


def settled(outcome: Outcome, moved: Sequence[Trial]) -> tuple[int | None, bool] | None:
    """The number of the best trial that keeps still, or else of the stillest, and whether it does; None: ask one more.

    moved: what the first candidates gave on the moved base model, in their order. No number where there is none.
    """
    asked = candidates(outcome)
    found = {trial.number: unrest(outcome, trial, other) for trial, other in zip(asked, moved, strict=False)}
    for number, size in found.items():
        if size <= 1:
            return number, True
    if len(moved) < len(asked):
        return None
    return min(found, key=lambda number: found[number], default=None), False
