"""What `-m` and `-p no:benchmark` come to: a method's marker that there is not, and no pytest-benchmark."""

import pytest
from support import LORA_CASE, assert_usage_error, make_suite

LN_TUNING = {"peft_type": "LN_TUNING", "target_modules": ["norm"], "task_type": "CAUSAL_LM"}


@pytest.mark.parametrize(
    ("marker", "words"),
    [
        ("peft_lorra", "-m: no case is marked peft_lorra; a method's marker is peft_ and the name of its folder: "),
        ("not peft_lorra", "meant may be peft_lora"),
        ("peft_ln_tuning", "meant may be peft_lntuning"),
        ("peft_zzz", "there are peft_full_finetuning, "),
    ],
)
@pytest.mark.parametrize("strict", [(), ("--strict-markers",)], ids=["", "strict"])
def test_a_marker_that_no_case_has_is_refused_with_those_that_may_be_meant(marker, words, strict, bench):
    make_suite(bench.suite, {"lntuning/default": (LN_TUNING, None)})

    assert_usage_error(bench.run("-m", marker, *strict), words)


@pytest.mark.parametrize("marker", ["peft_lora", "peft_lora or peft_newer", "peft_lora and not slow"])
def test_a_marker_that_cases_have_selects_them(marker, bench):
    assert bench.collected("-m", marker) == [LORA_CASE]


def test_the_markers_of_other_tests_are_no_matter_of_ours(bench):
    bench.write("test_mini.py", "def test_other():\n    pass\n")

    assert bench.run("-m", "peft_zzz").ret == 5


def test_a_case_runs_without_pytest_benchmark(bench):
    bench.write(
        "test_mini.py",
        """
        import pytest
        from support import make_result

        @pytest.mark.peft_task("MetaMathQA")
        def test_mini(experiment, benchmark, peft_baseline):
            assert benchmark is None
            peft_baseline.check(make_result(experiment.case))
        """,
    )

    assert bench.run("-p", "no:benchmark", "-k", "lora", "--peft-update-baselines").ret == 0
