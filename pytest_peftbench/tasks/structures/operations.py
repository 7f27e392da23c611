"""The operations whose cost is counted, and the cases that count it. Imports no torch."""

from __future__ import annotations

from pytest_peftbench.results.metrics import PHASES, Metric, counter
from pytest_peftbench.tasks.structures.kept import keeps

# By the name of their metrics: what is counted.
OPERATIONS: dict[str, str] = {
    "inject": "adding the adapter to the base model",
    "forward": "a forward pass with the adapter, without gradients",
    "merge": "merging the adapter into the base weights",
    "unmerge": "taking it out again",
    "add": "adding a second adapter",
    "set": "setting the second adapter",
    "delete": "deleting the second adapter",
    "disable": "switching the adapter off and on again",
    "save": "saving the adapter",
    "load": "loading the adapter into the base model",
}
# Declared with the other figures of a training.
_OF_TRAINING = frozenset(
    {f"{phase}.{name}" for phase in ("inject", "merge", "load") for name in PHASES[phase][1]} | {"inject.host_calls"}
)
COUNTERS = ("flops", "calls", "peak_bytes", "kept_bytes", "host_calls")
# The smallest structure of each kind of layer.
_LAYERS = frozenset({"linear", "conv2d", "embedding", "attention", "experts"})


def counts(structure: str, experiment: str) -> bool:
    """Whether the case of an experiment `<method>/<name>` on a structure counts what operations cost.

    Those that keep an adapter do, which are each method once and special formats, and defaults on each kind of layer.
    """
    return keeps(structure, experiment) or (structure in _LAYERS and experiment.endswith("/default"))


def metrics_of_operations() -> list[Metric]:
    """The counters of each operation, but for those that cases which are trained have, too."""
    found = [counter(name, of, what) for name, what in OPERATIONS.items() for of in COUNTERS]
    return [metric for metric in found if metric.name not in _OF_TRAINING]
