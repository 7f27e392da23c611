"""What a baseline, or a result, says in two places must agree; else it is refused in words, or red."""

import json
from dataclasses import replace

import pytest
from support import REPOSITORY, make_result

from pytest_peftbench.compare import compare, is_green
from pytest_peftbench.compare.noise import disagreement, with_noise
from pytest_peftbench.results.baseline import from_result, read, write
from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.metrics import METRICS, Metric
from pytest_peftbench.results.result import BaseReference, CaseId, SeedRun

COMMITTED = REPOSITORY / "baselines" / "MetaMathQA" / "tiny" / "loha--rank8.json"
CASE = CaseId("MetaMathQA", "mini", "loha", "r4")


def changed(folder, *keys, value, file=COMMITTED):
    """A committed baseline with another value; None: without it."""
    data = json.loads(file.read_text())
    *parents, last = keys
    place = data
    for key in parents:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    path = folder / "x.json"
    path.write_text(json.dumps(data))
    return path


def a_result(correct="0110", **metrics):
    """A result of three seeds, with samples and the base model's own figures."""
    result = make_result(CASE)
    runs = [replace(run, samples={"test_correct": correct}) for run in result.seeds]
    base = BaseReference([2.0], {"train_step.peak_bytes": 8}, {"train_step": {"aten.mm @ Linear.forward": [1, 2]}})
    return replace(result, seeds=runs, base=base, metrics={**result.metrics, **metrics})


def held(obtained, expected):
    return compare(obtained, with_noise(from_result(expected), (), METRICS), METRICS, tests=1)


def finding(verdict, subject):
    return next(found for found in verdict.findings if found.subject == subject)


# A baseline's noise


@pytest.mark.parametrize(
    ("keys", "value", "words"),
    [
        (("noise", "forgetting", "sd"), 9.0, "noise.forgetting.sd is 9, that of the values in per_seed is 0."),
        (("noise", "forgetting", "sd"), 0.0, "noise.forgetting.sd is 0, that of the values in per_seed is 0."),
        (("noise", "forgetting", "seeds"), 4, "noise.forgetting.seeds is 4, and per_seed holds 5 values"),
        (("noise", "forgetting"), None, "noise holds no forgetting; restore what is missing, or delete it"),
        (
            ("noise", "forgotten"),
            {"sd": 1.0, "seeds": 5, "detectable": 1.0},
            "noise.forgotten: per_seed holds no forgotten; restore what is missing, or delete it",
        ),
        (("per_seed", "forgetting"), [0.0, 0.1, 0.2, 0.3, 0.4], "noise.forgetting.sd is "),
    ],
)
def test_noise_that_is_not_that_of_the_seeds_is_refused(tmp_path, keys, value, words):
    with pytest.raises(InputError) as error:
        read(changed(tmp_path, *keys, value=value))

    assert str(error.value).startswith(f"{tmp_path / 'x.json'}: {words}")


def test_noise_of_more_seeds_than_the_file_holds_is_kept(tmp_path):
    noise = {"sd": 0.2, "seeds": 9, "detectable": 0.9}

    assert read(changed(tmp_path, "noise", "forgetting", value=noise)).noise["forgetting"].seeds == 9


def test_a_baseline_without_any_noise_is_read(tmp_path):
    """An imported result has none; its seeds' own is taken."""
    assert read(changed(tmp_path, "noise", value={})).noise == {}


def test_a_file_with_the_noise_of_its_seeds_is_written_and_one_with_another_is_not(tmp_path):
    baseline = with_noise(from_result(make_result(CASE)), (), METRICS)
    baseline = replace(baseline, operators={})
    write(baseline, tmp_path / "x.json")
    noise = {**baseline.noise, "forgetting": replace(baseline.noise["forgetting"], sd=1.0)}

    assert read(tmp_path / "x.json") == baseline
    with pytest.raises(
        InputError, match=r"not written: noise.forgetting.sd is 1, that of the values in per_seed is 0.0"
    ):
        write(replace(baseline, noise=noise), tmp_path / "x.json")


def test_noise_never_excuses_more_than_the_baseline_says_it_can_tell():
    expected = with_noise(from_result(make_result(CASE)), (), METRICS)
    noise = replace(expected.noise["forgetting"], seeds=9, sd=1.0)
    verdict = compare(
        make_result(CASE), replace(expected, noise={**expected.noise, "forgetting": noise}), METRICS, tests=1
    )

    assert not disagreement(expected)
    assert verdict.verdict == "not comparable"
    assert (
        "the baseline contradicts itself: noise.forgetting.detectable is 0.0226095; such noise tells no less than "
    ) in verdict.text()


# Samples


@pytest.mark.parametrize("text", ["01x1", "0 1", "٣"])
def test_answers_are_zeros_and_ones(tmp_path, text):
    data = json.loads(COMMITTED.read_text())["evidence"]["answers"]["test_correct"]
    path = changed(tmp_path, "evidence", "answers", "test_correct", value=[[text], *data[1:]])

    with pytest.raises(InputError, match=r"x.json: seed 0: test_correct holds '.*', expected 0 and 1"):
        read(path)
    verdict = held(a_result(correct=text), a_result())
    assert finding(verdict, "samples.test_correct").verdict == "failed"


@pytest.mark.parametrize(("correct", "count"), [("011", 3), ("01100", 5)])
def test_samples_lost_or_added_are_red_though_their_mean_is_the_same(correct, count):
    verdict = held(a_result(correct), a_result())

    assert not is_green(verdict)
    told = finding(verdict, "test_accuracy")
    assert told.verdict == "not comparable"
    assert told.reason == f"its samples, test_correct, are {count}, not 4, for seed 0, 1, 2"


@pytest.mark.parametrize("accuracy", [-0.1, 1.5])
def test_a_share_that_is_none_fails(accuracy):
    runs = [replace(run, metrics={**run.metrics, "test_accuracy": accuracy}) for run in a_result().seeds]
    told = finding(held(replace(a_result(), seeds=runs), a_result()), "test_accuracy")

    assert told.verdict == "failed"
    assert told.reason == "is no share, 0 to 1 for seed 0"


# Times, parts and the base model


def test_a_time_of_nothing_is_no_improvement():
    told = finding(held(a_result(step_time_ratio=0.0, step_time_interval=[0.0, 0.0]), a_result()), "step_time_ratio")

    assert told.verdict == "regressed"
    assert told.reason == "nothing was measured"


@pytest.mark.parametrize("interval", [[0.5, 0.6], [2.0, 3.0]])
def test_a_time_outside_of_its_own_interval_fails(interval):
    told = finding(held(a_result(step_time_ratio=1.25, step_time_interval=interval), a_result()), "step_time_ratio")

    assert told.verdict == "failed"
    assert told.reason == f"its interval is {interval}, expected [low, high] around it"


def test_a_time_at_the_end_of_its_interval_is_rounded_with_it():
    obtained = a_result(step_time_ratio=1.23456789, step_time_interval=[1.23456789, 1.23456789])

    assert finding(held(obtained, a_result()), "step_time_ratio").verdict == "within noise"


@pytest.mark.parametrize("unit", ["answers", "points"])
def test_a_metric_of_a_user_s_own_may_fall_to_nothing_and_below(unit):
    own = {**METRICS, "wrong": Metric("wrong", unit, "lower", "exact", "")}
    baseline = from_result(a_result(wrong=3), own)

    for value in (0, -2):
        assert finding(compare(a_result(wrong=value), baseline, own, tests=1), "wrong").verdict == "improved"


def test_operators_beside_those_of_the_base_model_may_vanish():
    """The counter itself is not zero: another torch moved all that is left of it."""
    own, base = {"aten.mul @ LoHaLayer.forward": [2, 0]}, {"aten.mm @ Linear.forward": [1, 2]}
    moved = {"aten.mm @ Linear.forward": [2, 2]}
    sides = []
    for torch, rows, figures in (("2.14.0", moved, moved), ("2.13.0", {**base, **own}, base)):
        calls, flops = (sum(row[column] for row in rows.values()) for column in (0, 1))
        result = a_result(**{"train_step.calls": calls, "train_step.flops": flops})
        environment = {**result.environment, "torch": torch}
        reference = replace(result.base, operators={"train_step": figures})
        sides.append(replace(result, base=reference, operators={"train_step": rows}, environment=environment))

    told = finding(held(*sides), "train_step.calls")
    assert told.verdict == "improved"
    assert told.reason == "beside what changed in the base model"


def test_a_peak_that_is_not_the_sum_of_its_parts_is_refused(tmp_path):
    file = REPOSITORY / "baselines" / "footprint" / "MetaMathQA" / "llama-3.2-3B" / "loha--rank32.json"
    path = changed(tmp_path, "metrics", "train_step.peak_weights_bytes", value=8, file=file)

    with pytest.raises(InputError, match=r"metrics.train_step.peak_bytes is .*, and its parts add up to "):
        read(path)


def test_a_base_model_whose_own_figures_vanished_is_red():
    verdict = held(replace(a_result(), base=None), a_result())

    assert verdict.verdict == "missing metric"
    assert finding(verdict, "base model").reason == "its own figures vanished; the baseline holds them"
    assert is_green(held(a_result(), replace(a_result(), base=None)))


def test_an_answer_a_character_is_what_samples_of_text_hold(tmp_path):
    runs = [SeedRun(0, {"test_accuracy": 0.5}, {"test_correct": "yes"})]
    baseline = replace(from_result(make_result(CASE)), seeds=runs, operators={})

    with pytest.raises(InputError, match="not written: seed 0: test_correct holds 'e', expected 0 and 1"):
        write(baseline, tmp_path / "x.json")
