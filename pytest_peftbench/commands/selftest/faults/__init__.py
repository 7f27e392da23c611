"""The catalogue: faults of PEFT, and of the benchmark's own pipeline, that the gate must notice.

Each is small, as a slip in a pull request would be, and is tried on one case of the embedded suite, or on one of the
life cycle. Sizes that are figures stand in the edits themselves; what a fault moves in a metric is measured and not
written down here.
"""

from __future__ import annotations

from pytest_peftbench.commands.selftest.faults.exact import EXACT
from pytest_peftbench.commands.selftest.faults.fault import Fault
from pytest_peftbench.commands.selftest.faults.life_cycle import LIFE_CYCLE
from pytest_peftbench.commands.selftest.faults.noisy import NOISY
from pytest_peftbench.commands.selftest.faults.numerics import NUMERICS
from pytest_peftbench.commands.selftest.faults.quality import QUALITY

FAULTS: tuple[Fault, ...] = (*EXACT, *NUMERICS, *QUALITY, *NOISY, *LIFE_CYCLE)
