"""Unchanged code is identical in another process: with another hash seed, in another order, with other workers."""

from support import CASES, EXPERIMENTS, make_suite, table

REVERSED = """
    def pytest_collection_modifyitems(items):
        items.reverse()
"""


def test_hash_seed_order_and_number_of_workers_change_no_verdict(bench):
    make_suite(bench.suite, EXPERIMENTS)
    bench.trains()
    recorded = bench.spawn("--peft-update-baselines", PYTHONHASHSEED="0")
    assert recorded.returncode == 0, recorded.stdout

    bench.write("reversing.py", REVERSED)
    reverse = bench.spawn("-v", "-p", "reversing", PYTHONHASHSEED="12345")
    workers = bench.spawn("-n", "2", PYTHONHASHSEED="random")

    lines = [line for line in reverse.stdout.splitlines() if "PASSED" in line]
    assert [case for line in lines for case in CASES if f"[{case}]" in line] == CASES[::-1]
    assert "2 workers" in workers.stdout
    for run in (reverse, workers):
        assert run.returncode == 0, run.stdout
        assert table(run) == dict.fromkeys(CASES, "identical")
