"""Every method of the installed PEFT is benchmarked: an experiment, a config that PEFT accepts, a baseline."""

import json
from dataclasses import replace

import pytest
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from support import IMAGE_SUITE, REPOSITORY, TINY_SUITE, skip_under_an_older_peft

from pytest_peftbench.cases.kinds import KINDS
from pytest_peftbench.cases.methods import make_config
from pytest_peftbench.plugin.selection import BASELINE_SEEDS
from pytest_peftbench.results.baseline import baseline_path, read
from pytest_peftbench.suites import ADAPTER_FILE, peft_types, read_suite

skip_under_an_older_peft()

BASELINES = REPOSITORY / "baselines"
NO_TOKENS = "puts learned tokens before those of a language model; a diffusion transformer has none"
# PEFT types without an experiment in a suite, each with the reason.
EXEMPT: dict[str, dict[str, str]] = {
    "MetaMathQA": {},
    "image-gen": {
        "ADAPTION_PROMPT": "knows the attention of a few language models by name",
        "CARTRIDGE": NO_TOKENS,
        "CPT": NO_TOKENS,
        "MULTITASK_PROMPT_TUNING": NO_TOKENS,
        "POLY": "needs task_ids, which PEFT hands on to a base model without a task type, and that refuses them",
        "PREFIX_TUNING": NO_TOKENS,
        "PROMPT_TUNING": NO_TOKENS,
        "P_TUNING": NO_TOKENS,
        "TRAINABLE_TOKENS": "trains rows of a token embedding; a diffusion transformer has none",
        "XLORA": "cannot load its experts into a model without a task type",
    },
}

EXPERIMENTS = [*read_suite(TINY_SUITE), *read_suite(IMAGE_SUITE)]
ADAPTERS = [experiment for experiment in EXPERIMENTS if experiment.adapter is not None]


def case(experiment):
    return str(experiment.case)


def types_with_experiment(task):
    return {experiment.adapter["peft_type"] for experiment in ADAPTERS if experiment.case.task == task}


@pytest.mark.parametrize("task", EXEMPT)
@pytest.mark.parametrize("peft_type", sorted(str(key.value) for key in PEFT_TYPE_TO_CONFIG_MAPPING))
def test_each_method_of_peft_has_an_experiment(task, peft_type):
    assert peft_type in types_with_experiment(task) | set(EXEMPT[task]), (
        f"add benchmarks/{task}/tiny/experiments/{peft_type.lower()}/"
    )


@pytest.mark.parametrize("task", EXEMPT)
def test_no_method_is_exempt_that_has_an_experiment(task):
    assert not types_with_experiment(task) & set(EXEMPT[task])


def test_the_methods_read_from_pefts_source_are_those_that_peft_registers():
    assert peft_types() == {key.value for key in PEFT_TYPE_TO_CONFIG_MAPPING}


def test_full_finetuning_is_benchmarked_too():
    full = [(item.case.task, item.case.method) for item in EXPERIMENTS if item.adapter is None]

    assert full == [("MetaMathQA", "full-finetuning"), ("image-gen", "full-finetuning")]


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
    first = experiment.train.seed
    assert [run.seed for run in baseline.seeds] == list(range(first, first + BASELINE_SEEDS))


def test_no_baseline_is_left_of_an_experiment_that_is_gone():
    known = {
        baseline_path(BASELINES, replace(experiment.case, kind=kind))
        for kind in KINDS
        for defaults in (REPOSITORY / "benchmarks").rglob("default_training_params.json")
        for experiment in read_suite(defaults.parent)
    }

    assert set(BASELINES.rglob("*--*.json")) <= known


@pytest.mark.parametrize("experiment", read_suite(IMAGE_SUITE), ids=case)
def test_each_image_experiment_has_the_best_of_the_same_trials_as_learning_rate(experiment):
    file = IMAGE_SUITE / "learning_rates" / f"{experiment.case.method}--{experiment.case.name}.json"
    outcome = json.loads(file.read_text())
    trials = {float(rate): trial for rate, trial in outcome["trials"].items()}
    scores = {rate: trial.get("valid_dino_similarity", -1.0) for rate, trial in trials.items()}
    better = [rate for rate in scores if scores[rate] > scores[outcome["chosen"]]]

    assert sorted(scores) == [0.001, 0.003, 0.01, 0.03, 0.1]
    assert all("moved" in trials[rate] for rate in better)  # asked whether it keeps still, and did not
    assert experiment.train.optimizer_kwargs["lr"] == outcome["chosen"]


@pytest.mark.parametrize("suite", [TINY_SUITE, IMAGE_SUITE], ids=lambda suite: suite.parent.name)
def test_all_baselines_of_a_suite_hold_the_same_figures_of_the_base_model(suite):
    """They tell what the environment does; an experiment that moved them would pass for another environment."""
    alike = {}
    for experiment in read_suite(suite):
        baseline = read(baseline_path(BASELINES, experiment.case))
        alike.setdefault(experiment.train.telling("BASE_MODEL"), []).append(baseline)

    for baselines in alike.values():
        first = baselines[0].base
        assert all(replace(baseline.base, losses=first.losses) == first for baseline in baselines)
        losses = {(baseline.environment["arithmetic"], *baseline.base.losses) for baseline in baselines}
        assert len(losses) == len({arithmetic for arithmetic, *_ in losses})
