"""`peftbench rank`: where a method stands among the others, and how sure that is."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from support import REPOSITORY
from test_between import CASE, OLD, measured, put

from pytest_peftbench.commands import main
from pytest_peftbench.commands.ranking import ordinal
from pytest_peftbench.compare.ranking import Contender, contender, probability, ranking
from pytest_peftbench.results.baseline import baseline_path, from_result, write
from pytest_peftbench.results.metrics import METRICS
from pytest_peftbench.results.result import CaseId, SeedRun

REFERENCE = REPOSITORY.parent / "shared" / "peft-reference"
ACCURACY, FLOPS = METRICS["test_accuracy"], METRICS["train_step.flops"]


def exact(**values):
    return {name: Contender(value) for name, value in values.items()}


def places(contenders, metric=FLOPS):
    return {place.name: place for place in ranking(contenders, metric, [*contenders])}


# Places ---------------------------------------------------------------------------------------------------------------


def test_the_catalogue_tells_which_way_is_better():
    assert [place.name for place in ranking(exact(a=2.0, b=1.0), FLOPS, ["a", "b"])] == ["b", "a"]
    assert [place.name for place in ranking(exact(a=2.0, b=1.0), ACCURACY, ["a", "b"])] == ["a", "b"]


def test_a_metric_that_knows_no_better_ranks_nothing():
    with pytest.raises(ValueError, match="knows no better"):
        ranking(exact(a=1.0), METRICS["checkpoint.tensors"], ["a"])


def test_equals_share_the_best_of_their_places():
    found = places(exact(a=1.0, b=2.0, c=2.0, d=3.0))

    assert {name: (place.place, place.best, place.worst, place.ties) for name, place in found.items()} == {
        "a": (1, 1, 1, ()),
        "b": (2, 2, 2, ("c",)),
        "c": (2, 2, 2, ("b",)),
        "d": (4, 4, 4, ()),
    }


def test_a_place_is_an_interval_over_all_that_cannot_be_told_apart():
    near = {
        name: Contender(0.5 + shift, [0.5 + shift + step for step in (-0.03, 0.0, 0.03)])
        for name, shift in (("a", 0.0), ("b", 0.01), ("c", -0.01))
    }
    far = {"best": Contender(0.9, [0.89, 0.9, 0.91]), "worst": Contender(0.1, [0.09, 0.1, 0.11])}

    found = places({**near, **far}, ACCURACY)

    assert {name: (place.best, place.worst) for name, place in found.items()} == {
        **dict.fromkeys(near, (2, 4)),
        "best": (1, 1),
        "worst": (5, 5),
    }
    assert found["a"].half == pytest.approx(4.3027 * 0.03 / 3**0.5, rel=1e-3)


def test_one_seed_without_samples_has_a_place_and_no_interval():
    found = places({"a": Contender(0.5, [0.5]), "b": Contender(0.6, [0.6])}, ACCURACY)

    assert (found["a"].half, found["a"].best, found["a"].worst) == (None, 2, 2)


def test_a_case_of_known_noise_is_not_told_apart_from_one_of_unknown_noise():
    found = places({"a": Contender(0.5, [0.49, 0.5, 0.51]), "b": Contender(0.9, [0.9])}, ACCURACY)

    assert (found["a"].best, found["a"].worst) == (1, 2)


def test_seeds_and_samples_must_both_tell():
    seeds = [0.8, 0.81, 0.82], [0.2, 0.21, 0.22]
    same, other = [1.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 1.0]

    assert probability(Contender(0.8, seeds[0]), Contender(0.2, seeds[1])) < 0.001
    assert probability(Contender(0.8, seeds[0], same), Contender(0.2, seeds[1], other)) == 1.0
    assert probability(Contender(0.8, (), [1.0] * 4), Contender(0.2, (), [0.0] * 4)) == 0.0
    assert probability(Contender(0.8), Contender(0.2)) == 1.0


def test_samples_are_means_over_the_seeds_and_count_where_all_hold_as_many():
    runs = [SeedRun(seed, {"test_accuracy": 0.5}, {"test_correct": bits}) for seed, bits in enumerate(("10", "11"))]

    assert contender(replace(OLD, seeds=runs), ACCURACY) == Contender(0.5, [0.5, 0.5], [1.0, 0.5])
    runs[1].samples["test_correct"] = "1"
    assert contender(replace(OLD, seeds=runs), ACCURACY).samples == []
    assert contender(replace(OLD, seeds=[]), ACCURACY) is None
    assert contender(replace(OLD, metrics={"train_step.flops": float("nan")}), FLOPS) is None


def test_ordinals():
    assert [ordinal(number) for number in (1, 2, 3, 4, 11, 12, 13, 21, 112)] == [
        "1st",
        "2nd",
        "3rd",
        "4th",
        "11th",
        "12th",
        "13th",
        "21st",
        "112th",
    ]


# The command ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Three methods, the second of which is the most accurate and the most expensive."""
    monkeypatch.chdir(tmp_path)
    for method, accuracy, flops in (("ia3", 0.2, 10**9), ("loha", 0.7, 3 * 10**9), ("lora", 0.5, 2 * 10**9)):
        result = measured(replace(CASE, method=method), test_accuracy=accuracy, **{"train_step.flops": flops})
        spread = [
            SeedRun(run.seed, {**run.metrics, "test_accuracy": accuracy + run.seed / 100}) for run in result.seeds
        ]
        put(tmp_path / "results", replace(result, seeds=spread))
    return tmp_path / "results"


def test_a_method_stands_somewhere_by_every_figure(results, capsys):
    assert main(["rank", "--method", "loha", "results"]) == 0
    assert capsys.readouterr().out == (
        "MetaMathQA mini\n"
        "  loha/r4  accuracy            71.0% ±2.5%  1st of 3\n"
        "  loha/r4  forgetting        +0.250 ±0.005  1st to 3rd of 3\n"
        "  loha/r4  params.trainable          8,192  tied 1st of 3 with ia3/r4, lora/r4\n"
        "  loha/r4  train_step.flops        3.000e9  3rd of 3\n"
        "  loha/r4  step_time_ratio            1.25  tied 1st of 3 with ia3/r4, lora/r4\n"
        "±: half of the 95 % interval; the places are those that a test of each pair at 5\n"
        "  % leaves open\n"
    )


@pytest.mark.parametrize("metric", ["accuracy", "test_accuracy"])
def test_all_methods_by_one_metric_by_its_name_or_its_column(results, capsys, metric):
    assert main(["rank", metric, "results", "--json", "out.json"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:4]] == ["loha/r4", "lora/r4", "ia3/r4"]
    (told,) = json.loads(Path("out.json").read_text())["rankings"]
    assert (told["of"], told["metric"], told["better"], told["contenders"]) == (
        "MetaMathQA mini",
        "test_accuracy",
        "higher",
        3,
    )
    assert [(place["name"], place["best"], place["worst"]) for place in told["places"]] == [
        ("loha/r4", 1, 1),
        ("lora/r4", 2, 2),
        ("ia3/r4", 3, 3),
    ]


def test_results_stand_among_baselines_and_what_is_given_first_counts(results, capsys):
    for method, accuracy in (("loha", 0.1), ("oft", 0.99)):
        result = measured(replace(CASE, method=method), test_accuracy=accuracy)
        write(from_result(result), baseline_path(results.parent / "baselines", result.case))

    assert main(["rank", "--method", "loha", "accuracy", "results", "baselines"]) == 0

    told = capsys.readouterr().out
    assert "loha/r4  accuracy  71.0% ±2.5%  2nd of 4" in told
    assert "1 case passed over: what was given before holds them, too" in told


def test_memory_is_ranked_on_one_accelerator_alone(results, capsys):
    for method, card in (("loha", "A"), ("lora", "A"), ("ia3", "B")):
        result = measured(replace(CASE, method=method), **{"gpu.allocated_peak_bytes": 10**9})
        put(results, replace(result, environment={**result.environment, "accelerator": card}))

    assert main(["rank", "gpu.allocated_peak_bytes", "results"]) == 0

    told = capsys.readouterr().out
    assert "MetaMathQA mini on A\n" in told
    assert "tied 1st of 2 with lora/r4" in told
    assert "ia3" not in told


def test_a_file_that_cannot_be_read_is_told_and_the_rest_ranked(results, capsys):
    (results / "bad.json").write_text("{")
    put(results, replace(OLD, case=replace(CASE, method="oft"), status="failed", error_msg="no memory"))

    assert main(["rank", "accuracy", "results"]) == 1

    told = capsys.readouterr().out
    assert "loha/r4" in told
    assert "bad.json: no valid JSON" in told
    assert "1 case failed: MetaMathQA-mini-oft-r4" in told


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["results"], "give a METRIC, which ranks all methods, or --method NAME"),
        (["acuracy", "results"], "acuracy: is neither a metric nor a path; accuracy?"),
        (["accuracy"], "accuracy: name the folder of results behind it"),
        (["checkpoint.tensors", "results"], "checkpoint.tensors: is no number that is better lower or higher"),
        (["adapter_sha256", "results"], "adapter_sha256: is no number"),
        (["similarity", "results"], "similarity: no two cases of one task and base model hold it"),
        (["results", "--method", "lohaa"], "--method lohaa: no case of it that could be ranked; loha?"),
        (["results", "--method", "x" * 9], "there are ia3, loha, lora"),
        (["nowhere"], "nowhere: no such file or folder"),
        (["accuracy", "empty"], "empty: holds no JSON file"),
    ],
)
def test_what_cannot_be_ranked_is_a_usage_error(results, capsys, arguments, words):
    (results.parent / "empty").mkdir()

    with pytest.raises(SystemExit) as stopped:
        main(["rank", *arguments])

    assert stopped.value.code == 2
    assert words in capsys.readouterr().err


def test_names_that_are_too_long_stand_on_lines_of_their_own(results, capsys):
    for method in ("aaa", "bbb"):
        put(results, measured(CaseId("MetaMathQA", "mini", method, "n" * 60)))

    assert main(["rank", "accuracy", "results"]) == 0

    told = capsys.readouterr().out.splitlines()
    assert f"  aaa/{'n' * 60}" in told
    assert max(map(len, told)) <= 80


def test_pefts_published_figures_are_ranked(capsys):
    if not REFERENCE.is_dir():
        pytest.skip("PEFT's own results are not here")

    assert main(["rank", "--method", "lora", str(REFERENCE)]) == 0

    told = capsys.readouterr().out
    assert "published.forgetting" in told
    assert "on NVIDIA L40S\n" in told
    assert "1st of 5" in told
