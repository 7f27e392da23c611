"""The embedded tasks tell methods apart: by the committed baselines, and by the base models themselves."""

import pytest
from support import IMAGE_SUITE, REPOSITORY, TINY_SUITE, skip_under_an_older_peft

from pytest_peftbench.results.baseline import baseline_path, read
from pytest_peftbench.results.result import mean
from pytest_peftbench.suites import read_suite
from pytest_peftbench.tasks.math_reasoning.task import MathReasoning

skip_under_an_older_peft()

EXPERIMENTS = {str(experiment.case): experiment for experiment in read_suite(TINY_SUITE)}
FULL = EXPERIMENTS["MetaMathQA-tiny-full-finetuning-default"]


def mean_of_seeds(baseline, name):
    return mean([run.metrics[name] for run in baseline.seeds])


def evaluation_of_base(experiment):
    """What the task finds of the base model itself."""
    task_type, config, place = experiment.spec.load("task"), experiment.train, experiment.place
    task = task_type(config, place, task_type.load_data(config, place))
    base = task_type.load_base_model(config, place).eval()
    return task.evaluate(base, lambda size: {}, task.reference(base))


@pytest.fixture(scope="module")
def quality():
    """Accuracy and forgetting of each case, as recorded."""
    baselines = {name: read(baseline_path(REPOSITORY / "baselines", case.case)) for name, case in EXPERIMENTS.items()}
    return {
        name: (mean_of_seeds(baseline, "test_accuracy"), mean_of_seeds(baseline, "forgetting"))
        for name, baseline in baselines.items()
    }


def test_the_base_model_solves_next_to_nothing_in_the_benchmark_s_form():
    assert evaluation_of_base(FULL).metrics == {"test_accuracy": pytest.approx(0, abs=0.05), "forgetting": 0.0}


def test_full_finetuning_solves_most_of_it():
    first, *_ = read(baseline_path(REPOSITORY / "baselines", FULL.case)).seeds

    assert first.metrics["test_accuracy"] >= 0.6


def test_methods_differ_in_accuracy_and_few_sit_at_an_end(quality):
    accuracies = [accuracy for accuracy, _ in quality.values()]

    assert max(accuracies) - min(accuracies) >= 0.4
    assert sum(accuracy in (0.0, 1.0) for accuracy in accuracies) <= len(accuracies) / 3


def test_methods_differ_in_forgetting_by_more_than_a_factor_of_ten(quality):
    risen = [forgetting for _, forgetting in quality.values() if forgetting > 0]

    assert max(risen) / min(risen) >= 10


@pytest.mark.parametrize(
    ("case", "key", "text"),
    [
        ("cpt-one-shot", "cpt_token_ids", "Think step by step.\nAnswer: 15+9=24. #### 24</s>"),
        ("trainabletokens-template", "token_indices", "Question"),
        ("lora-rank8-trainable-tokens", "trainable_token_indices", "Question"),
        ("lora-rank8-alora", "alora_invocation_tokens", "\n"),
    ],
)
def test_token_ids_in_an_experiment_mean_what_they_should(case, key, text):
    experiment = EXPERIMENTS[f"MetaMathQA-tiny-{case}"]

    data = MathReasoning.load_data(experiment.train, experiment.place)

    assert text in data.tokenizer.decode(experiment.adapter[key])


# Images

IMAGE_EXPERIMENTS = {str(experiment.case): experiment for experiment in read_suite(IMAGE_SUITE)}


@pytest.fixture(scope="module")
def image_quality():
    """Similarity and drift of each case, as recorded."""
    baselines = [read(baseline_path(REPOSITORY / "baselines", case.case)) for case in IMAGE_EXPERIMENTS.values()]
    return [
        (mean_of_seeds(baseline, "test_dino_similarity"), mean_of_seeds(baseline, "drift")) for baseline in baselines
    ]


@pytest.fixture(scope="module")
def base_similarity():
    """What the base model draws for the concept's prompts, which it never saw."""
    case = IMAGE_EXPERIMENTS["image-gen-tiny-lora-rank8"]
    return evaluation_of_base(case).metrics["test_dino_similarity"]


def test_the_base_model_does_not_know_the_concept_and_some_method_learns_it(base_similarity, image_quality):
    assert base_similarity <= 0.4
    assert max(similarity for similarity, _ in image_quality) >= base_similarity + 0.25


def test_few_methods_learn_nothing_of_the_concept(base_similarity, image_quality):
    near = [similarity for similarity, _ in image_quality if abs(similarity - base_similarity) <= 0.02]

    assert len(near) <= len(image_quality) / 5


def test_methods_differ_in_drift_by_more_than_a_factor_of_ten(image_quality):
    drifts = [drift for _, drift in image_quality if drift > 0]

    assert max(drifts) / min(drifts) >= 10
