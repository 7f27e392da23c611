"""Each experiment of the suite is a case."""

import pytest

from pytest_peftbench import run_experiment


@pytest.mark.peft_task("mood")
def test_mood(experiment, base_model, task_data, peft_baseline):
    result = run_experiment(experiment, base_model, task_data, second_stage=peft_baseline.second_stage)
    peft_baseline.check(result)
