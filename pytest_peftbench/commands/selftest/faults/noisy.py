"""Faults that times tell. Each wait is measured in what the case itself does, so that a slow machine stretches both."""

from __future__ import annotations

from pytest_peftbench.commands.selftest.faults.fault import Fault
from pytest_peftbench.commands.selftest.faults.places import HIRA, IA3, TUNER
from pytest_peftbench.commands.selftest.patching import Edit

NOISY = (
    Fault(
        "training step waits",
        "loha/rank8",
        "twice as long as the forward pass",
        "noisy",
        ("step_time_ratio",),
        (
            Edit(
                f"{TUNER}:BaseTuner.forward",
                "return self.model(*args, **kwargs)",
                "import time\n"
                "started = time.perf_counter()\n"
                "output = self.model(*args, **kwargs)\n"
                "if self.training:\n"
                "    time.sleep(2 * (time.perf_counter() - started))\n"
                "return output",
            ),
        ),
    ),
    Fault(
        "decoding works on the host, without an operator",
        "hira/rank8",
        "30,000 additions in Python a layer",
        "noisy",
        ("decode_time_ratio",),
        (
            Edit(
                f"{HIRA}:Linear.forward",
                "if self.disable_adapters:",
                "if not self.training:\n    sum(range(30_000))\nif self.disable_adapters:",
            ),
        ),
    ),
    Fault(
        "every pass works on the host, without an operator",
        "ia3/default",
        "200,000 additions in Python a layer",
        "noisy",
        ("step_time_ratio", "decode_time_ratio"),
        (
            Edit(
                f"{IA3}.layer:Linear.forward",
                "dtype = previous_dtype = x.dtype",
                "dtype = previous_dtype = x.dtype\nsum(range(200_000))",
            ),
        ),
    ),
)
