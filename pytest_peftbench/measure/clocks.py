"""How fast an accelerator's clock runs, and whether heat or power holds it back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pynvml
import torch

from pytest_peftbench.measure.memory import nvml_device

# An idle GPU and clocks that somebody set are no throttling.
_THROTTLING = (
    pynvml.nvmlClocksThrottleReasonSwPowerCap
    | pynvml.nvmlClocksThrottleReasonHwSlowdown
    | pynvml.nvmlClocksThrottleReasonSwThermalSlowdown
    | pynvml.nvmlClocksThrottleReasonHwThermalSlowdown
    | pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown
)


@dataclass(frozen=True)
class Clock:
    """sm_mhz: clock of the multiprocessors, None where nobody can tell. throttled: heat or power holds it back."""

    sm_mhz: int | None = None
    throttled: bool = False


class ClockReader:
    """Reads the clock of a CUDA device through NVML; of any other device, or without NVML, nothing is known."""

    def __init__(self, device: str) -> None:
        self._device: Any = None
        if torch.device(device).type == "cuda":
            try:
                self._device = nvml_device(torch.device(device))
            except pynvml.NVMLError:
                self._device = None

    def read(self) -> Clock:
        """The clock now."""
        if self._device is None:
            return Clock()
        try:
            sm_mhz = int(pynvml.nvmlDeviceGetClockInfo(self._device, pynvml.NVML_CLOCK_SM))
            reasons = int(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(self._device))
        except pynvml.NVMLError:
            self._device = None
            return Clock()
        return Clock(sm_mhz, bool(reasons & _THROTTLING))
