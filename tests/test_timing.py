import gc
import time

import pytest

from pytest_peftbench import timing


def work():
    return sum(range(20_000))


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
