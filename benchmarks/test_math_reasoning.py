"""Math reasoning: train on MetaMathQA, test on GSM8K, forgetting on general text."""

import pytest

from pytest_peftbench import run_experiment


@pytest.mark.peft_task("MetaMathQA")
def test_math_reasoning(experiment, base_model, task_data, gpu_memory, benchmark, peft_progress, peft_baseline):
    result = run_experiment(
        experiment,
        base_model,
        task_data,
        memory=gpu_memory,
        benchmark=benchmark,
        progress=peft_progress,
        second_stage=peft_baseline.second_stage,
    )
    peft_baseline.check(result)
