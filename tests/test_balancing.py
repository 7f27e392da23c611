"""Cases under xdist: the longest first, each worker on a device of its own, and what a simulation says of many."""

import importlib.util
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
from support import CASES, FULL, LOHA_CASE, LORA_CASE, REPOSITORY, assert_usage_error, output, table, unmeasured

from pytest_peftbench.plugin import devices

pytest.importorskip("xdist")

# Which worker ran which case, in order.
NOTED = """
    import os
    from pathlib import Path
    import pytest
    from support import make_result

    @pytest.mark.peft_task("MetaMathQA")
    def test_mini(experiment, peft_baseline):
        with Path("ran.txt").open("a") as ran:
            ran.write(f"{os.environ['PYTEST_XDIST_WORKER']} {experiment.case}\\n")
        if Path("crash.txt").exists() and experiment.case.method == "lora":
            os._exit(1)
        peft_baseline.check(make_result(experiment.case))
"""


@pytest.fixture
def recorded(bench):
    """Three cases with baselines, one of which takes as long as the others together."""
    bench.record()
    bench.write("test_mini.py", NOTED)
    record(bench, {FULL: 4.0, LOHA_CASE: 2.0, LORA_CASE: 2.0})
    return bench


def record(bench, seconds):
    (bench.path / "baselines" / "durations.json").write_text(json.dumps({"schema": 1, "seconds": seconds}))


def by_worker(bench):
    found = {}
    for line in (bench.path / "ran.txt").read_text().splitlines():
        worker, case = line.split()
        found.setdefault(worker, []).append(case)
    return sorted(found.values(), key=len)


def test_workers_get_cases_by_how_long_they_take(recorded):
    assert table(recorded.run("-n", "2")) == dict.fromkeys(CASES, "identical")

    assert by_worker(recorded) == [[FULL], [LOHA_CASE, LORA_CASE]]


def test_a_worker_that_crashes_is_that_case_s_verdict_and_the_others_go_on(recorded):
    (recorded.path / "crash.txt").touch()

    result = recorded.run("-n", "2")

    assert result.ret == 1
    assert table(result) == {FULL: "identical", LOHA_CASE: "identical", LORA_CASE: "failed"}
    assert "crashed while running" in output(result)


def test_one_worker_runs_the_longest_first_and_then_the_shortest(recorded):
    record(recorded, {FULL: 1.0, LOHA_CASE: 3.0, LORA_CASE: 2.0})

    assert recorded.run("-n", "1").ret == 0

    assert by_worker(recorded) == [[LOHA_CASE, FULL, LORA_CASE]]


@pytest.mark.parametrize("arguments", [("-n", "1", "--dist", "loadfile"), ("-n", "1", "--dist", "worksteal")])
def test_who_asks_for_another_distribution_gets_it(recorded, arguments):
    record(recorded, {FULL: 1.0, LOHA_CASE: 2.0, LORA_CASE: 3.0})

    assert recorded.run(*arguments).ret == 0

    assert by_worker(recorded) == [[FULL, LOHA_CASE, LORA_CASE]]


def test_durations_that_cannot_be_read_end_a_run_of_workers(recorded):
    (recorded.path / "baselines" / "durations.json").write_text("{")

    assert_usage_error(recorded.run("-n", "1"), "durations.json: no valid JSON")


# Devices --------------------------------------------------------------------------------------------------------------


def test_each_worker_has_a_gpu_of_its_own(bench, monkeypatch):
    monkeypatch.setenv(devices.VISIBLE, "3,GPU-5")
    bench.write(
        "test_mini.py",
        """
        import os
        from pathlib import Path
        import pytest

        @pytest.mark.parametrize("number", range(4))
        def test_gpu(number):
            with Path("ran.txt").open("a") as ran:
                ran.write(f"{os.environ['PYTEST_XDIST_WORKER']} {os.environ['CUDA_VISIBLE_DEVICES']}\\n")
        """,
    )

    result = bench.run("-n", "auto", "--peft-device=cuda", "--dist=load")

    result.assert_outcomes(passed=4)
    assert "2 workers" in output(result)
    assert sorted(set(found).pop() for found in by_worker(bench)) == ["3", "GPU-5"]


def node(config, name):
    return SimpleNamespace(config=config, gateway=SimpleNamespace(id=name), workerinput={})


@pytest.mark.parametrize(
    ("visible", "device", "workers", "given"),
    [
        ("0,1", "cuda", 2, ["0", "1", "0"]),
        ("0", "cuda", 1, [None, None, None]),
        ("", "cuda", None, [None, None, None]),
        ("0,1", "cpu", None, [None, None, None]),
        ("0,1", "cuda:1", None, [None, None, None]),
    ],
)
def test_more_workers_than_gpus_share_them_in_turn(pytestconfig, monkeypatch, visible, device, workers, given):
    monkeypatch.setenv(devices.VISIBLE, visible)
    monkeypatch.delenv("PYTEST_XDIST_AUTO_NUM_WORKERS", raising=False)
    monkeypatch.setattr(pytestconfig.option, "peft_device", device)
    nodes = [node(pytestconfig, f"gw{number}") for number in range(3)]

    try:
        for each in nodes:
            devices.give(each)
        assert devices.workers(pytestconfig) == workers
        assert [each.workerinput.get("peftbench_gpu") for each in nodes] == given
    finally:
        for each in nodes:
            devices.take_back(each)


def test_who_takes_the_place_of_a_crashed_worker_has_its_gpu(pytestconfig, monkeypatch):
    monkeypatch.setenv(devices.VISIBLE, "0,1,2")
    monkeypatch.setattr(pytestconfig.option, "peft_device", "cuda")
    first, crashed, third, new = (node(pytestconfig, f"gw{number}") for number in range(4))
    for each in (first, crashed, third):
        devices.give(each)

    devices.take_back(crashed)
    devices.give(new)

    assert new.workerinput == crashed.workerinput == {"peftbench_gpu": "1"}
    for each in (first, third, new):
        devices.take_back(each)


# Many devices ---------------------------------------------------------------------------------------------------------

SCRIPT = REPOSITORY / "perf" / "makespan.py"


@pytest.fixture(scope="module")
def makespan():
    spec = importlib.util.spec_from_file_location("makespan", SCRIPT)
    module = sys.modules["makespan"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["makespan"]


@pytest.mark.parametrize("devices", [1, 2, 8, 64])
def test_a_thousand_cases_keep_their_devices_busy(makespan, devices):
    cases = makespan.drawn([0.1, 0.5, 1.0, 2.0, 4.0, 8.0], 1000, spread=0.1)

    took_s, bound_s = makespan.Fleet(cases, devices).makespan_s(), cases.bound_s(devices)

    assert 0.95 <= bound_s / took_s <= 1.0 + 1e-9


def test_a_device_that_dies_costs_its_case_and_no_other(makespan):
    cases = makespan.Cases([4.0, 2.0, 2.0], [4.0, 2.0, 2.0])

    class Once:
        """The first device dies after three seconds, and nothing else does."""

        def __init__(self):
            self.lifetimes = iter([3.0])

        def expovariate(self, rate):
            return next(self.lifetimes, float("inf"))

    # it ran the longest case, and ends it five seconds later than it was to
    failing = makespan.Fleet(cases, 1, deaths_per_hour=1.0, back_s=1.0, rng=Once())
    assert failing.makespan_s() == 8.0 + 3.0 + 1.0


def test_the_simulation_prints_a_table(tmp_path):
    (tmp_path / "durations.json").write_text('{"schema": 1, "seconds": {"a": 1.0, "b": 3.0}}')
    command = [sys.executable, str(SCRIPT), f"--baselines={tmp_path}", "--cases=20", "--most=4"]

    told = subprocess.run(command, env=unmeasured(), capture_output=True, text=True, timeout=60)

    head, header, *rows = told.stdout.splitlines()
    assert head.startswith("20 cases, ")
    assert header.split() == ["devices", "bound", "longest", "xdist", "shards", "failing", "efficiency"]
    assert [row.split()[0] for row in rows] == ["1", "2", "4"]


def test_without_durations_there_is_nothing_to_simulate(tmp_path):
    command = [sys.executable, str(SCRIPT), f"--baselines={tmp_path}"]

    told = subprocess.run(command, env=unmeasured(), capture_output=True, text=True, timeout=60)

    assert told.returncode == 1
    assert "holds no durations; record some with --peft-update-durations" in told.stderr
