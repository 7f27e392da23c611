"""Which tests take which suites: real base models are counted on a CPU, and trained where that is asked for."""

import pytest
from support import LORA, Bench, assert_usage_error, make_suite, table

from pytest_peftbench.results.baseline import baseline_path, read
from pytest_peftbench.results.result import CaseId

FOOTPRINT_TEST = """
    from dataclasses import replace

    import pytest
    from support import make_result

    @pytest.mark.peft_footprint
    def test_footprint(experiment, peft_baseline):
        peft_baseline.check(replace(make_result(experiment.case), seeds=[]))
"""
REAL = "MetaMathQA-real-lora-r4"
FOOTPRINT = f"footprint-{REAL}"
TINY = "MetaMathQA-mini-lora-r4"


@pytest.fixture
def bench(pytester):
    bench = Bench(pytester.path, pytester)
    bench.write("test_figures.py", FOOTPRINT_TEST)
    make_suite(bench.path / "MetaMathQA" / "real", {"lora/r4": (LORA, None)}, model_id="meta-llama/Llama-3.2-3B")
    return bench


def test_on_a_cpu_a_real_base_model_is_counted_and_an_embedded_one_trained(bench):
    assert bench.collected("-k", "lora") == [FOOTPRINT, TINY]


def test_on_an_accelerator_a_real_base_model_is_trained_too(bench):
    assert bench.collected("-k", "lora", "--peft-device", "cuda") == [FOOTPRINT, TINY, REAL]


def test_a_real_base_model_is_trained_where_its_suite_is_named(bench):
    assert bench.collected("--peft-suite", "MetaMathQA/real") == [FOOTPRINT, REAL]


def test_a_footprint_has_a_baseline_and_a_table_of_its_own(bench):
    bench.record("-k", "footprint")

    case = CaseId("MetaMathQA", "real", "lora", "r4", "footprint")
    file = baseline_path(bench.path / "baselines", case)
    assert file == bench.path / "baselines" / "footprint" / "MetaMathQA" / "real" / "lora--r4.json"
    assert read(file).case == case
    result = bench.run("-k", "footprint")
    assert result.ret == 0
    result.stdout.fnmatch_lines([f"{FOOTPRINT}  identical *8,192*"])


def test_a_footprint_that_grew_is_red_and_names_the_metric(bench):
    bench.record("-k", "footprint")
    bench.measures("lora", {"train_step.calls": 3_007})

    result = bench.run("-k", "footprint")

    assert result.ret == 1
    result.stdout.fnmatch_lines(["*train_step.calls regressed: 3,006 -> 3,007*"])


def test_a_footprint_test_without_a_real_base_model_is_a_usage_error(pytester):
    bench = Bench(pytester.path, pytester)
    bench.write("test_figures.py", FOOTPRINT_TEST)

    assert_usage_error(bench.run(), "on a real base model")


def test_a_trained_case_keeps_its_name_and_file(bench):
    bench.record("-k", "mini-lora")

    assert table(bench.run("-k", "mini-lora")) == {TINY: "identical"}
    assert '"kind"' not in bench.baseline("lora").read_text()
