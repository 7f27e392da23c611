"""How much memory the process and the accelerator use, and who said so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psutil  # type: ignore[import-untyped]
import pynvml
import torch

from pytest_peftbench.result import Value


@dataclass(frozen=True)
class MemoryUse:
    """Memory in use, in bytes; lower is better. None: nobody could tell.

    host_rss_bytes: resident memory of this process, now. allocated_peak_bytes, reserved_peak_bytes: most bytes since
    the last reset that tensors used on the accelerator, and that torch's allocator held for them. device_bytes: memory
    of the whole device in use now, other processes included. source: who said so, such as "psutil, allocator, NVML".
    """

    host_rss_bytes: int
    allocated_peak_bytes: int | None
    reserved_peak_bytes: int | None
    device_bytes: int | None
    source: str

    def metrics(self) -> dict[str, Value]:
        """The figures that are known, by the name of their metric."""
        figures = {
            "host.rss_bytes": self.host_rss_bytes,
            "gpu.allocated_peak_bytes": self.allocated_peak_bytes,
            "gpu.reserved_peak_bytes": self.reserved_peak_bytes,
            "gpu.device_bytes": self.device_bytes,
        }
        return {name: figure for name, figure in figures.items() if figure is not None}


class MemoryTracker:
    """Reads the memory of the host and of one device: "cuda", "cuda:1", "xpu", or "cpu" for none.

    Where torch has no such device, the tracker reads the host alone and its description says so.
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

    @property
    def description(self) -> str:
        """What is read, in one line: "host memory (no GPU)", "NVIDIA H200, allocator and NVML"."""
        if self._allocator is None:
            return "host memory (no GPU)" if self._device.type == "cpu" else f"host memory (no {self._device} device)"
        name = self._allocator.get_device_name(self._device)
        if self._nvml_device is not None:
            return f"{name}, allocator and NVML"
        return f"{name}, allocator" + (f" (NVML not available: {self._nvml_error})" if self._nvml_error else "")

    def reset(self) -> None:
        """Start a phase: the allocator's peaks begin anew at what is allocated now."""
        if self._allocator is not None:
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
        device_bytes = self._read_nvml()
        source = "psutil, allocator" if device_bytes is None else "psutil, allocator, NVML"
        return MemoryUse(rss_bytes, allocated_bytes, reserved_bytes, device_bytes, source)

    def _read_nvml(self) -> int | None:
        if self._nvml_device is None:
            return None
        try:
            return int(pynvml.nvmlDeviceGetMemoryInfo(self._nvml_device).used)
        except pynvml.NVMLError as error:
            self._nvml_device, self._nvml_error = None, str(error)
            return None


def _allocator(device: torch.device) -> Any:
    """`torch.cuda` or `torch.xpu`, which have the same memory functions; None where torch has no such device."""
    module = getattr(torch, device.type, None) if device.type in ("cuda", "xpu") else None
    return module if module is not None and module.is_available() else None


def nvml_device(device: torch.device) -> Any:
    """NVML's handle of a CUDA device, by UUID: NVML numbers all devices, CUDA only the visible ones."""
    pynvml.nvmlInit()
    return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
