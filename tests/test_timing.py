import gc
import math
import time

import pynvml
import pytest
import torch

from pytest_peftbench.measure import clocks, timing
from pytest_peftbench.measure.timing import BUDGET_S, CONFIRMING_BLOCKS, Timing


def work():
    return sum(range(20_000))


class FakeTime:
    """A clock that only the two functions move: A takes the units of the next ratio, B takes one."""

    def __init__(self, monkeypatch, ratios, unit_s):
        self.now = 0.0
        self.unit_s = unit_s
        self.calls = ""
        # A's first call warms up; then each block has two
        self.times = iter([99.0, *(ratio for ratio in ratios for _ in range(2))])
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def a(self):
        self.calls += "A"
        self.now += self.unit_s * next(self.times)

    def b(self):
        self.calls += "B"
        self.now += self.unit_s


def timed(monkeypatch, ratios, unit_s=1.0, **options):
    fake = FakeTime(monkeypatch, ratios, unit_s)
    return timing.compare(fake.a, fake.b, "cpu", **options), fake


def test_a_function_takes_as_long_as_itself():
    assert timing.compare(work, work, "cpu").ratio == pytest.approx(1, abs=0.5)


def test_a_function_that_also_sleeps_takes_a_multiple():
    def slow():
        work()
        time.sleep(0.02)

    compared = timing.compare(slow, work, "cpu", blocks=3)

    assert compared.ratio > 2
    assert compared.time_s > 0.02


def test_both_are_warmed_up_and_then_run_in_turns_that_cancel_a_drift():
    calls = []

    timing.compare(lambda: calls.append("A"), lambda: calls.append("B"), "cpu", blocks=2)

    assert "".join(calls) == "AB" + "ABBA" * 2


def test_the_ratio_is_the_median_of_at_least_seven_blocks_without_the_warm_up(monkeypatch):
    ratios = [1.5, 1.1, 1.2, 9.0, 1.3, 1.4, 1.0]

    compared, fake = timed(monkeypatch, ratios)

    assert fake.calls == "AB" + "ABBA" * 7
    assert compared.ratios == pytest.approx(ratios)
    assert (compared.ratio, compared.time_s) == (pytest.approx(1.3), pytest.approx(1.3))


def test_the_interval_holds_the_median_is_no_wider_than_the_blocks_and_the_same_each_time(monkeypatch):
    ratios = [1.01, 1.05, 1.02, 1.2, 1.03, 1.0, 1.04]
    first, again = (timed(monkeypatch, ratios)[0] for _ in range(2))

    assert first == again
    assert 1.0 <= first.low < first.ratio < first.high <= 1.2
    assert first.interval == [first.low, first.high]


def test_blocks_that_agree_give_an_interval_without_width(monkeypatch):
    assert timed(monkeypatch, [1.25] * 7)[0].interval == [1.25, 1.25]


def test_more_blocks_of_the_same_spread_give_a_narrower_interval(monkeypatch):
    spread = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6]
    few, many = (timed(monkeypatch, spread * times, blocks=7 * times)[0] for times in (1, 3))

    assert many.high - many.low < few.high - few.low


WIDE = [1.0, 2.0, 1.0, 2.0, 1.5, 1.0, 2.0]


def test_while_an_interval_is_wider_than_the_margin_as_many_blocks_again_are_run_and_all_count(monkeypatch):
    compared, fake = timed(monkeypatch, [*WIDE, *[1.5] * 7], relative_margin=0.3)

    assert fake.calls == "AB" + "ABBA" * 14
    assert compared.ratios == pytest.approx((*WIDE, *[1.5] * 7))
    assert compared.interval == [1.5, 1.5]


def test_the_width_alone_decides_how_many_blocks_are_run(monkeypatch):
    ratios = [*WIDE, *[1.5] * 7]
    runs = [timed(monkeypatch, [factor * ratio for ratio in ratios], relative_margin=0.3)[1] for factor in (1, 3)]

    assert [fake.calls.count("A") for fake in runs] == [1 + 2 * 14] * 2


def test_an_interval_that_stays_wide_is_given_up_after_the_confirming_blocks(monkeypatch):
    compared, fake = timed(monkeypatch, [1.0, 2.0] * CONFIRMING_BLOCKS, relative_margin=0.3, unit_s=1e-6)

    assert fake.calls.count("A") == 1 + 2 * CONFIRMING_BLOCKS
    assert compared.high - compared.low > 0.3


@pytest.mark.parametrize(("unit_s", "runs"), [(1.0, 1), (BUDGET_S / 1_000, 4)])
def test_a_confirmation_that_stays_wide_is_given_up_when_its_budget_is_used(monkeypatch, unit_s, runs):
    options = {"blocks": CONFIRMING_BLOCKS, "relative_margin": 0.3, "unit_s": unit_s}

    compared, fake = timed(monkeypatch, [1.0, 2.0] * 1_000, **options)

    assert len(compared.ratios) == runs * CONFIRMING_BLOCKS
    assert fake.now > BUDGET_S


def test_a_narrow_interval_needs_no_confirmation(monkeypatch):
    assert timed(monkeypatch, [1.0, 1.01, 1.02, 1.03, 1.0, 1.01, 1.02], relative_margin=0.3)[1].calls.count("A") == 15


def test_a_single_block_has_no_interval(monkeypatch):
    compared, _ = timed(monkeypatch, [1.5], blocks=1)

    assert (compared.ratio, compared.low, compared.high, compared.interval) == (1.5, 0.0, math.inf, [])


@pytest.mark.parametrize("enabled", [True, False])
def test_the_garbage_collector_rests_while_timing_and_is_as_before_afterwards(enabled):
    seen = set()
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        timing.compare(lambda: seen.add(gc.isenabled()), work, "cpu", blocks=1)
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()

    assert False in seen


def test_the_garbage_collector_is_as_before_after_an_error():
    calls = iter([None, None])

    with pytest.raises(StopIteration):
        timing.compare(lambda: next(calls), work, "cpu")

    assert gc.isenabled()


# Accelerators


class FakeGpu:
    """Stands in for an accelerator's queue and its NVML: A takes 3 ms of its time, B takes 2.

    throttled: per read of the clock, the reasons that hold it back; none after the last. held_mhz: the clock meanwhile.
    """

    def __init__(self, monkeypatch, throttled=(), held_mhz=1_500):
        self.now_ms = 0.0
        self.reasons = list(throttled)
        self.held_mhz = held_mhz
        self.reads = 0
        gpu = self

        class Event:
            def __init__(self, device, enable_timing):
                assert enable_timing
                assert device == "cuda:1"

            def record(self, stream):
                assert stream == "stream of cuda:1"
                self.at_ms = gpu.now_ms

            def synchronize(self):
                pass

            def elapsed_time(self, other):
                return other.at_ms - self.at_ms

        monkeypatch.setattr(torch, "Event", Event)
        monkeypatch.setattr(torch.accelerator, "current_stream", lambda device: f"stream of {device}")
        monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: None)
        monkeypatch.setattr(clocks, "nvml_device", lambda device: "handle")
        monkeypatch.setattr(pynvml, "nvmlDeviceGetClockInfo", self.clock)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetCurrentClocksThrottleReasons", self.throttle_reasons)

    def clock(self, handle, kind):
        assert (handle, kind) == ("handle", pynvml.NVML_CLOCK_SM)
        self.reads += 1
        return self.held_mhz if self.reasons and self.reasons[0] else 1_980

    def throttle_reasons(self, handle):
        return self.reasons.pop(0) if self.reasons else 0

    def a(self):
        self.now_ms += 3

    def b(self):
        self.now_ms += 2

    def timed(self, **options):
        return timing.compare(self.a, self.b, "cuda:1", **options)


HEAT = pynvml.nvmlClocksThrottleReasonHwThermalSlowdown
POWER = pynvml.nvmlClocksThrottleReasonSwPowerCap


def test_an_accelerator_times_itself_by_events_in_its_queue(monkeypatch):
    gpu = FakeGpu(monkeypatch)

    assert gpu.timed() == Timing(1.5, 1.5, 1.5, 0.003, (1.5,) * 7, throttled_blocks=0, sm_mhz=1_980)
    assert gpu.reads == 14  # before and after each block


def test_for_the_host_s_clock_a_call_ends_when_the_accelerator_is_done(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: calls.append(device))

    timing.waiting(lambda: calls.append("step"), "cuda:1")()

    assert calls == ["step", "cuda:1"]
    assert timing.waiting(work, "cpu") is work


@pytest.mark.parametrize("reads", [[HEAT, 0], [0, POWER], [0, HEAT | POWER]])
def test_a_throttled_block_is_discarded_counted_and_run_again(monkeypatch, reads):
    gpu = FakeGpu(monkeypatch, reads)

    compared = gpu.timed()

    assert (len(compared.ratios), compared.throttled_blocks, compared.interval) == (7, 1, [1.5, 1.5])
    assert gpu.reads == 16


def test_an_idle_gpu_and_a_clock_that_somebody_set_are_no_throttling(monkeypatch):
    set_clock = pynvml.nvmlClocksThrottleReasonGpuIdle | pynvml.nvmlClocksThrottleReasonApplicationsClocksSetting

    assert FakeGpu(monkeypatch, [set_clock] * 14).timed().throttled_blocks == 0


@pytest.mark.parametrize("held_mhz", [1_500, 1_960])
def test_a_gpu_at_its_power_limit_all_the_time_is_timed(monkeypatch, held_mhz):
    compared = FakeGpu(monkeypatch, [POWER] * 14, held_mhz).timed()

    assert (compared.interval, compared.throttled_blocks, compared.sm_mhz) == ([1.5, 1.5], 0, held_mhz)


def test_a_clock_that_is_held_back_by_a_few_per_cent_at_one_end_of_a_block_is_steady(monkeypatch):
    assert FakeGpu(monkeypatch, [0, POWER], held_mhz=1_890).timed().throttled_blocks == 0
    assert FakeGpu(monkeypatch, [0, POWER], held_mhz=1_870).timed().throttled_blocks == 1


def test_a_gpu_that_is_always_throttled_has_a_ratio_but_no_interval(monkeypatch):
    compared = FakeGpu(monkeypatch, [HEAT, 0] * 1000).timed()

    assert (compared.ratio, compared.interval, compared.throttled_blocks) == (1.5, [], 21)


def test_always_throttled_is_tried_with_more_blocks_and_then_given_up(monkeypatch):
    compared = FakeGpu(monkeypatch, [HEAT, 0] * 1000).timed(relative_margin=0.3)

    assert (compared.interval, compared.throttled_blocks) == ([], 3 * CONFIRMING_BLOCKS)


def test_without_nvml_a_gpu_is_timed_and_its_clock_is_unknown(monkeypatch):
    def fail(*args):
        raise pynvml.NVMLError(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)

    gpu = FakeGpu(monkeypatch)
    monkeypatch.setattr(clocks, "nvml_device", fail)
    without_library = gpu.timed()
    monkeypatch.setattr(clocks, "nvml_device", lambda device: "handle")
    monkeypatch.setattr(pynvml, "nvmlDeviceGetClockInfo", fail)

    assert without_library == gpu.timed()
    assert (without_library.ratio, without_library.sm_mhz, without_library.throttled_blocks) == (1.5, None, 0)


def test_the_host_has_no_clock_to_read():
    assert clocks.ClockReader("cpu").read() == clocks.Clock(None, throttled=False)
