"""Every method of the installed PEFT is benchmarked: an experiment, a config that PEFT accepts, a baseline."""

import json

import pytest
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from support import REPOSITORY, TINY_SUITE, skip_under_an_older_peft

from pytest_peftbench.baseline import baseline_path, read
from pytest_peftbench.experiment import ADAPTER_FILE, peft_types, read_suite
from pytest_peftbench.methods import make_config

skip_under_an_older_peft()

BASELINES = REPOSITORY / "baselines"
# PEFT types without an experiment in benchmarks/MetaMathQA/tiny, each with the reason.
EXEMPT: dict[str, str] = {}

EXPERIMENTS = read_suite(TINY_SUITE)
ADAPTERS = [experiment for experiment in EXPERIMENTS if experiment.adapter is not None]


def case(experiment):
    return f"{experiment.case.method}-{experiment.case.name}"


@pytest.mark.parametrize("peft_type", sorted(str(key.value) for key in PEFT_TYPE_TO_CONFIG_MAPPING))
def test_each_method_of_peft_has_an_experiment(peft_type):
    with_experiment = {experiment.adapter["peft_type"] for experiment in ADAPTERS}

    assert peft_type in with_experiment | set(EXEMPT), (
        f"add benchmarks/MetaMathQA/tiny/experiments/{peft_type.lower()}/"
    )


def test_no_method_is_exempt_that_has_an_experiment():
    assert not {experiment.adapter["peft_type"] for experiment in ADAPTERS} & set(EXEMPT)


def test_the_methods_read_from_pefts_source_are_those_that_peft_registers():
    assert peft_types() == {key.value for key in PEFT_TYPE_TO_CONFIG_MAPPING}


def test_full_finetuning_is_benchmarked_too():
    assert [experiment.case.method for experiment in EXPERIMENTS if experiment.adapter is None] == ["full-finetuning"]


@pytest.mark.parametrize("experiment", ADAPTERS, ids=case)
def test_peft_accepts_each_key_of_the_adapters_config(experiment):
    config = make_config(dict(experiment.adapter), experiment.path / ADAPTER_FILE)

    assert config.peft_type.value == experiment.adapter["peft_type"]


def test_adalora_allocates_over_just_the_steps_it_trains():
    adaloras = [experiment for experiment in ADAPTERS if experiment.adapter["peft_type"] == "ADALORA"]

    assert adaloras
    for experiment in adaloras:
        assert experiment.adapter["total_step"] == experiment.train.max_steps
        assert experiment.adapter["tinit"] + experiment.adapter["tfinal"] < experiment.adapter["total_step"]


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=case)
def test_each_experiment_has_a_baseline(experiment):
    baseline = read(baseline_path(BASELINES, experiment.case))

    assert baseline.case == experiment.case
    assert [run.seed for run in baseline.seeds] == [experiment.train.seed]


def test_no_baseline_is_left_of_an_experiment_that_is_gone():
    known = {
        baseline_path(BASELINES, experiment.case)
        for defaults in (REPOSITORY / "benchmarks").rglob("default_training_params.json")
        for experiment in read_suite(defaults.parent)
    }

    assert set(BASELINES.rglob("*.json")) <= known


def test_all_baselines_were_recorded_in_one_environment():
    environments = {json.dumps(read(path).environment) for path in BASELINES.rglob("*.json")}

    assert len(environments) == 1
