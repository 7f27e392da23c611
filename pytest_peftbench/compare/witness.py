"""What the two sides' witnesses say of each other."""

from __future__ import annotations

import math

from pytest_peftbench.compare.comparison import Comparison

# What stands in a witness before the first gradient.
_OF_THE_START = ("start", "untrained")


def same_start(comparison: Comparison) -> bool:
    """Whether both sides start training from the same adapter, so that a seed's two runs are a pair."""
    ours, theirs = comparison.obtained.witness, comparison.expected.witness
    if ours is None or theirs is None:
        return False
    bound = max(ours.bound, theirs.bound)
    names = [name for name in ours.quantities | theirs.quantities if name.startswith(_OF_THE_START)]
    pairs = [(ours.quantities.get(name, []), theirs.quantities.get(name, [])) for name in names]
    return bool(names) and all(
        len(new) == len(old) and all(map(lambda a, b: math.isclose(a, b, rel_tol=bound), new, old))
        for new, old in pairs
    )
