from types import SimpleNamespace

import pynvml
import pytest
import torch

from pytest_peftbench.memory import MemoryTracker

UUID = "7dd9fb38-0000-0000-0000-d3b4ad3f1d65"


class FakeGpu:
    """Stands in for torch.cuda (or torch.xpu) and NVML; peaks are in bytes."""

    def __init__(self):
        self.allocated_peak_bytes = 3_000
        self.reserved_peak_bytes = 4_000
        self.device_used_bytes = 9_000
        self.handle = object()

    def reset_peak_memory_stats(self, device):
        self.allocated_peak_bytes = self.reserved_peak_bytes = 1_000

    def handle_by_uuid(self, uuid):
        assert uuid == f"GPU-{UUID}"
        return self.handle

    def memory_info(self, handle):
        assert handle is self.handle
        return SimpleNamespace(used=self.device_used_bytes)

    def install(self, monkeypatch, module):
        monkeypatch.setattr(module, "is_available", lambda: True)
        monkeypatch.setattr(module, "get_device_name", lambda device: "NVIDIA H200")
        monkeypatch.setattr(module, "get_device_properties", lambda device: SimpleNamespace(uuid=UUID))
        monkeypatch.setattr(module, "max_memory_allocated", lambda device: self.allocated_peak_bytes)
        monkeypatch.setattr(module, "max_memory_reserved", lambda device: self.reserved_peak_bytes)
        monkeypatch.setattr(module, "reset_peak_memory_stats", self.reset_peak_memory_stats)
        monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", self.handle_by_uuid)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", self.memory_info)


@pytest.fixture
def gpu(monkeypatch):
    fake = FakeGpu()
    fake.install(monkeypatch, torch.cuda)
    return fake


def raise_nvml_error(*args):
    raise pynvml.NVMLError(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)


def test_without_a_gpu_host_memory_is_read_and_the_description_says_so():
    tracker = MemoryTracker("cpu")
    tracker.reset()
    use = tracker.read()
    assert tracker.description == "host memory (no GPU)"
    assert use.host_rss_bytes > 10_000_000
    assert (use.allocated_peak_bytes, use.reserved_peak_bytes, use.device_bytes) == (None, None, None)
    assert use.source == "psutil"


def test_host_memory_rises_by_what_the_process_touches():
    tracker = MemoryTracker("cpu")
    before = tracker.read().host_rss_bytes
    block = torch.ones(16_000_000)
    rise = tracker.read().host_rss_bytes - before
    assert rise > 0.8 * block.untyped_storage().nbytes()


def test_a_device_that_torch_does_not_have_falls_back_to_the_host(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    tracker = MemoryTracker("cuda:1")
    assert tracker.description == "host memory (no cuda:1 device)"
    assert tracker.read().source == "psutil"


def test_a_gpu_is_read_from_its_allocator_and_nvml(gpu):
    tracker = MemoryTracker("cuda")
    use = tracker.read()
    assert tracker.description == "NVIDIA H200, allocator and NVML"
    assert (use.allocated_peak_bytes, use.reserved_peak_bytes, use.device_bytes) == (3_000, 4_000, 9_000)
    assert use.host_rss_bytes > 10_000_000
    assert use.source == "psutil, allocator, NVML"


def test_reset_starts_the_peaks_anew(gpu):
    tracker = MemoryTracker("cuda")
    tracker.reset()
    assert tracker.read().allocated_peak_bytes == 1_000


def test_without_nvml_the_allocator_is_still_read_and_the_reason_told(gpu, monkeypatch):
    monkeypatch.setattr(pynvml, "nvmlInit", raise_nvml_error)
    tracker = MemoryTracker("cuda")
    use = tracker.read()
    assert tracker.description == "NVIDIA H200, allocator (NVML not available: Driver Not Loaded)"
    assert (use.allocated_peak_bytes, use.device_bytes, use.source) == (3_000, None, "psutil, allocator")


def test_nvml_that_fails_later_is_not_available_from_then_on(gpu, monkeypatch):
    tracker = MemoryTracker("cuda")
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", raise_nvml_error)
    assert tracker.read().device_bytes is None
    assert "NVML not available" in tracker.description


def test_an_xpu_is_read_from_its_allocator_alone(monkeypatch):
    FakeGpu().install(monkeypatch, torch.xpu)
    tracker = MemoryTracker("xpu")
    use = tracker.read()
    assert tracker.description == "NVIDIA H200, allocator"
    assert (use.reserved_peak_bytes, use.device_bytes, use.source) == (4_000, None, "psutil, allocator")
