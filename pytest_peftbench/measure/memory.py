"""How much memory the process and the accelerator use, and who said so."""

from __future__ import annotations

import gc
import os
from dataclasses import dataclass
from typing import Any

import psutil  # type: ignore[import-untyped]
import pynvml
import torch

from pytest_peftbench.results.metrics import Value
from pytest_peftbench.results.words import bytes_text

# Devices whose modules tell the allocator's peaks.
_WITH_PEAKS = ("cuda", "xpu")
# A desktop or a monitor that is open on the same card.
IDLE_BYTES = 256 * 2**20
# What a context and the driver hold beside the allocator, where NVML does not say which process is ours.
CONTEXT_BYTES = 2**30


@dataclass(frozen=True)
class MemoryUse:
    """Memory in use, in bytes; lower is better. None: nobody could tell.

    host_rss_bytes: resident memory of this process, now. allocated_peak_bytes, reserved_peak_bytes: most bytes since
    the last reset that tensors used on the accelerator, and that torch's allocator held for them. device_bytes: memory
    of the whole device in use now, other processes included. others_bytes: what these hold of it. source: who said so,
    such as "psutil, allocator, NVML".
    """

    host_rss_bytes: int
    allocated_peak_bytes: int | None
    reserved_peak_bytes: int | None
    device_bytes: int | None
    source: str
    others_bytes: int | None = None

    def metrics(self) -> dict[str, Value]:
        """The figures that are known, by the name of their metric."""
        figures = {
            "host.rss_bytes": self.host_rss_bytes,
            "gpu.allocated_peak_bytes": self.allocated_peak_bytes,
            "gpu.reserved_peak_bytes": self.reserved_peak_bytes,
            "gpu.device_bytes": self.device_bytes,
            "gpu.other_processes_bytes": self.others_bytes,
        }
        return {name: figure for name, figure in figures.items() if figure is not None}

    def load_metrics(self) -> dict[str, Value]:
        """The peak of the phase in which the base model was loaded, if there is one."""
        return {} if self.allocated_peak_bytes is None else {"gpu.load_peak_bytes": self.allocated_peak_bytes}

    def evaluate_metrics(self) -> dict[str, Value]:
        """The peak of the phase in which the trained model was evaluated, if there is one."""
        return {} if self.allocated_peak_bytes is None else {"gpu.evaluate_peak_bytes": self.allocated_peak_bytes}


class MemoryTracker:
    """Reads the memory of the host and of one device: "cuda", "cuda:1", "xpu", or "cpu" for none.

    Where torch has no such device, the tracker reads the host alone and its description says so.
    busy: warning that other processes were using the device when the tracker was made; empty when none was seen.
    """

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        self._allocator = _allocator(self._device)
        self._nvml_device: Any = None
        self._nvml_error = ""
        if self._allocator is not None and self._device.type == "cuda":
            try:
                self._nvml_device = nvml_device(self._device)
            except pynvml.NVMLError as error:
                self._nvml_error = str(error)
        self.busy = self._find_busy()

    @property
    def description(self) -> str:
        """What is read, in one line: "host memory (no GPU)", "NVIDIA H200, allocator and NVML"."""
        if self._allocator is None:
            if self._device.type not in ("cpu", *_WITH_PEAKS):
                return f"host memory (torch tells no peaks of {self._device})"
            return "host memory (no GPU)" if self._device.type == "cpu" else f"host memory (no {self._device} device)"
        name = self._allocator.get_device_name(self._device)
        if self._nvml_device is not None:
            return f"{name}, allocator and NVML"
        return f"{name}, allocator" + (f" (NVML not available: {self._nvml_error})" if self._nvml_error else "")

    def reset(self) -> None:
        """Start a phase: the allocator's peaks begin anew at what is in use now.

        What nothing uses goes back before: the reserved peak begins at what the allocator holds, and an earlier case's
        optimizer, whose schedule refers back to it, is alive until the garbage collector runs.
        """
        if self._allocator is not None:
            self.release()
            self._allocator.reset_peak_memory_stats(self._device)

    def reserved_bytes(self) -> int:
        """What the accelerator's allocator holds now; 0 without an accelerator."""
        return 0 if self._allocator is None else int(self._allocator.memory_reserved(self._device))

    def read(self) -> MemoryUse:
        """Peaks since the last reset, and what the process and the device use now."""
        rss_bytes = int(psutil.Process().memory_info().rss)
        if self._allocator is None:
            return MemoryUse(rss_bytes, None, None, None, "psutil")
        allocated_bytes = int(self._allocator.max_memory_allocated(self._device))
        reserved_bytes = int(self._allocator.max_memory_reserved(self._device))
        device_bytes, others_bytes = self._read_nvml()
        source = "psutil, allocator" if device_bytes is None else "psutil, allocator, NVML"
        return MemoryUse(rss_bytes, allocated_bytes, reserved_bytes, device_bytes, source, others_bytes)

    def release(self) -> None:
        """Give back what nothing uses any more, so that what comes next has all of the memory."""
        gc.collect()
        if self._allocator is not None:
            self._allocator.empty_cache()

    def _find_busy(self) -> str:
        _, others_bytes = self._read_nvml()
        if others_bytes is None or others_bytes < IDLE_BYTES:
            return ""
        return (
            f"{self._allocator.get_device_name(self._device)} was not idle at the start: other processes hold "
            f"{bytes_text(others_bytes)} of its memory; its times, and how much fits, are not to be trusted"
        )

    def _read_nvml(self) -> tuple[int | None, int | None]:
        """Bytes of the whole device in use, and those of other processes."""
        if self._nvml_device is None:
            return None, None
        try:
            used = int(pynvml.nvmlDeviceGetMemoryInfo(self._nvml_device).used)
            processes = pynvml.nvmlDeviceGetComputeRunningProcesses(self._nvml_device)
        except pynvml.NVMLError as error:
            self._nvml_device, self._nvml_error = None, str(error)
            return None, None
        held = {process.pid: process.usedGpuMemory for process in processes}
        if os.getpid() in held and None not in held.values():
            return used, sum(held.values()) - held[os.getpid()]
        # in a container process ids are not ours, or memory by process is not told
        return used, max(0, used - self.reserved_bytes() - CONTEXT_BYTES)


def _allocator(device: torch.device) -> Any:
    """`torch.cuda` or `torch.xpu`, which have the same memory functions; None where torch has no such device."""
    module = getattr(torch, device.type, None) if device.type in _WITH_PEAKS else None
    return module if module is not None and module.is_available() else None


def nvml_device(device: torch.device) -> Any:
    """NVML's handle of a CUDA device, by UUID: NVML numbers all devices, CUDA only the visible ones."""
    pynvml.nvmlInit()
    return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
