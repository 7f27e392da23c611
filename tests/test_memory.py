import json
import mmap
import os
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest
import torch
from support import DEFAULTS, LOHA_CASE, LORA, LORA_CASE, SYNTHETIC_TEST, output, table

from pytest_peftbench.cases.loading import cached_base_models, cached_task_data
from pytest_peftbench.cases.trained import run_experiment
from pytest_peftbench.cases.training import Trainer
from pytest_peftbench.compare import compare
from pytest_peftbench.measure import timing
from pytest_peftbench.measure.memory import CONTEXT_BYTES, MemoryTracker, MemoryUse
from pytest_peftbench.results.metrics import METRICS
from pytest_peftbench.results.result import CaseId
from pytest_peftbench.suites import Experiment
from pytest_peftbench.tasks.math_reasoning.spec import MathTrainConfig

UUID = "7dd9fb38-0000-0000-0000-d3b4ad3f1d65"


class FakeGpu:
    """Stands in for torch.cuda (or torch.xpu) and NVML; peaks are in bytes."""

    def __init__(self):
        self.allocated_peak_bytes = 3_000
        self.reserved_peak_bytes = 4_000
        self.reserved_bytes = 2_000
        self.device_used_bytes = 9_000
        self.processes = []
        self.handle = object()

    def reset_peak_memory_stats(self, device):
        self.allocated_peak_bytes, self.reserved_peak_bytes = 1_000, self.reserved_bytes

    def empty_cache(self):
        self.reserved_bytes = 1_500

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
        monkeypatch.setattr(module, "memory_reserved", lambda device: self.reserved_bytes)
        monkeypatch.setattr(module, "empty_cache", self.empty_cache)
        monkeypatch.setattr(module, "reset_peak_memory_stats", self.reset_peak_memory_stats)
        monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", self.handle_by_uuid)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", self.memory_info)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetComputeRunningProcesses", lambda handle: self.processes)


@pytest.fixture
def gpu(monkeypatch):
    fake = FakeGpu()
    fake.install(monkeypatch, torch.cuda)
    return fake


def process(pid, memory_bytes):
    return SimpleNamespace(pid=pid, usedGpuMemory=memory_bytes)


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
    with mmap.mmap(-1, 64_000_000) as block:  # pages that are new to the process, whatever it has freed before
        block[::4096] = bytes(len(range(0, len(block), 4096)))
        rise = tracker.read().host_rss_bytes - before
    assert rise > 0.8 * 64_000_000


def test_a_device_that_torch_does_not_have_falls_back_to_the_host(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    tracker = MemoryTracker("cuda:1")
    assert tracker.description == "host memory (no cuda:1 device)"
    assert tracker.read().source == "psutil"


def test_a_device_of_whose_memory_torch_tells_no_peaks_says_so():
    assert MemoryTracker("mps").description == "host memory (torch tells no peaks of mps)"


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


def test_what_an_earlier_case_left_is_gone_when_the_peaks_begin_anew(gpu, monkeypatch):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
    torch.optim.lr_scheduler.ConstantLR(optimizer)
    left = weakref.ref(optimizer)
    del optimizer
    alive = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: [alive.append(left() is not None), gpu.empty_cache()])
    tracker = MemoryTracker("cuda")
    tracker.reset()

    assert alive == [False]
    assert tracker.read().reserved_peak_bytes == 1_500


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


# Who else is on the card


def test_a_card_with_nobody_else_on_it_is_idle(gpu):
    gpu.processes = [process(os.getpid(), 8_000_000_000)]
    gpu.device_used_bytes = 9_000_000_000
    tracker = MemoryTracker("cuda")

    assert tracker.busy == ""
    assert tracker.read().metrics()["gpu.other_processes_bytes"] == 0


def test_a_card_that_others_use_gives_a_warning_that_says_how_much(gpu):
    gpu.processes = [process(os.getpid(), 8_000_000_000), process(1, 2**30), process(2, 2**29)]
    tracker = MemoryTracker("cuda")

    assert "NVIDIA H200 was not idle at the start: other processes hold 1.50 GiB of its memory" in tracker.busy
    assert tracker.read().metrics()["gpu.other_processes_bytes"] == 2**30 + 2**29


@pytest.mark.parametrize("processes", [[], [process(12345, None)], [process(os.getpid(), None)]])
def test_where_processes_are_not_told_what_is_neither_ours_nor_a_context_s_is_others(gpu, processes):
    gpu.processes, gpu.device_used_bytes = processes, 2_000 + CONTEXT_BYTES + 10
    assert MemoryTracker("cuda").busy == ""

    gpu.device_used_bytes = 2_000 + CONTEXT_BYTES + 3 * 2**30
    assert "other processes hold 3.00 GiB" in MemoryTracker("cuda").busy


def test_without_nvml_nobody_knows_whether_the_card_is_busy(gpu, monkeypatch):
    monkeypatch.setattr(pynvml, "nvmlInit", raise_nvml_error)

    assert MemoryTracker("cuda").busy == ""


# In a case


class FakeTracker:
    """A tracker of a card whose peak is what the phase allocates: its name tells the phases apart."""

    busy = "the card was not idle"

    def __init__(self):
        self.phases = 0
        self.released = False

    def reset(self):
        self.phases += 1

    def read(self):
        return MemoryUse(1, self.phases * 100, self.phases * 200, None, "fake")

    def reserved_bytes(self):
        return self.phases * 150

    def release(self):
        self.released = True


EXPERIMENT = Experiment(
    CaseId("MetaMathQA", "mini", "lora", "r4"), Path("suite/experiments/lora/r4"), MathTrainConfig(**DEFAULTS), LORA
)


@pytest.fixture(scope="module")
def few():
    data = cached_task_data()(EXPERIMENT)
    return replace(data, train=data.train[:20], valid=data.valid[:2], test=data.test[:4], documents=data.documents[:2])


def run(few, tracker):
    return run_experiment(EXPERIMENT, cached_base_models(), lambda experiment: few, memory=tracker)


def test_loading_training_and_evaluating_have_a_peak_each(few, monkeypatch):
    monkeypatch.setattr(timing, "compare", lambda *_, **__: timing.Timing(1.0, 1.0, 1.0, 0.01, ()))
    result = run(few, FakeTracker())

    names = ("gpu.load_peak_bytes", "gpu.allocated_peak_bytes", "gpu.reserved_peak_bytes", "gpu.evaluate_peak_bytes")
    assert [result.metrics[name] for name in names] == [100, 200, 400, 300]
    assert result.peft["train_info"]["accelerator_memory_max"] == 600
    assert result.warnings == ["the card was not idle"]
    assert result.to_json()["peftbench"]["warnings"] == result.warnings


def test_out_of_memory_is_a_result_with_the_figures_up_to_then(few, monkeypatch):
    step, tracker = Trainer.step, FakeTracker()

    def full(self, batch):
        if self.steps == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nSee documentation")
        return step(self, batch)

    monkeypatch.setattr(Trainer, "step", full)
    result = run(few, tracker)

    assert result.status == "out of memory"
    assert result.error_msg == "while training with seed 0: CUDA out of memory. Tried to allocate 20.00 MiB."
    assert tracker.released
    assert result.metrics["params.trainable"] == 7168
    assert (result.metrics["gpu.load_peak_bytes"], result.metrics["gpu.allocated_peak_bytes"]) == (100, 200)
    assert result.peft["train_info"]["status"] == "failed"
    assert result.peft["train_info"]["accelerator_memory_max"] == 400
    assert "out of memory while training" in result.peft["run_info"]["error_msg"]
    assert compare(result, None, METRICS, tests=1).verdict == "failed"


def test_out_of_memory_while_loading_is_told_too(few):
    def load(experiment):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    result = run_experiment(EXPERIMENT, load, lambda experiment: few, memory=FakeTracker())

    assert (result.status, result.error_msg) == ("out of memory", "while loading: CUDA out of memory.")


@pytest.mark.parametrize("options", [[], ["--peft-no-compare"], ["--peft-update-baselines"]])
def test_out_of_memory_is_red_whatever_is_asked_for_and_the_next_case_runs(bench, options):
    bench.measures("loha", status="out of memory", error_msg="while training: CUDA out of memory.", warnings=["busy!"])

    result = bench.run(*options, "-k", "loha or lora", "--peft-json", "results")

    verdicts = table(result)
    assert verdicts[LOHA_CASE] == "failed"
    assert verdicts[LORA_CASE] != "failed"
    assert "out of memory: while training: CUDA out of memory." in output(result)
    assert "busy!" in output(result)
    assert not list((bench.path / "baselines").rglob("loha*"))
    (written,) = (bench.path / "results").rglob("loha*.json")
    assert json.loads(written.read_text())["peftbench"]["status"] == "out of memory"


def test_a_busy_card_is_a_warning_of_the_run(bench):
    bench.write("conftest.py", BUSY)
    bench.write("test_mini.py", SYNTHETIC_TEST.replace("(experiment, ", "(experiment, gpu_memory, "))

    result = bench.run("-k", "loha", "--peft-no-compare")

    result.assert_outcomes(passed=1, warnings=1, deselected=2)
    assert f"{LOHA_CASE}: the card was not idle" in output(result)


BUSY = """
    import pytest

    @pytest.fixture(autouse=True)
    def busy(monkeypatch):
        from pytest_peftbench.measure.memory import MemoryTracker

        monkeypatch.setattr(MemoryTracker, "_find_busy", lambda self: "the card was not idle")
"""
