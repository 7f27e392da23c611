"""What must hold of every comparison, whatever the figures: found by Hypothesis, not by examples."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_peftbench.compare import SEVERITY, compare, corrected, is_green, stats
from pytest_peftbench.results.baseline import from_result
from pytest_peftbench.results.metrics import METRICS
from pytest_peftbench.results.result import CaseId, Result, SeedRun, Witness

CASE = CaseId("MetaMathQA", "tiny", "loha", "rank8")
ENVIRONMENT = dict.fromkeys(("torch", "transformers", "device", "arithmetic", "accelerator"), "same")
# A margin that does not depend on the expected value, so that swapping the sides changes nothing but the sign.
FLAT = METRICS | {"forgetting": replace(METRICS["forgetting"], relative_margin=0.0)}


@pytest.fixture(autouse=True, scope="module")
def _fewer_permutations():
    """So many tell the same here, in a hundredth of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stats, "RESAMPLES", 999)
        yield


counts = st.integers(min_value=1, max_value=10**9)
figures = st.lists(st.floats(min_value=-2, max_value=2, allow_nan=False), min_size=3, max_size=3)
solved = st.lists(st.integers(min_value=0, max_value=40), min_size=3, max_size=3)


def run(seed, right, forgetting):
    documents = [forgetting + 0.001 * (n - 10) for n in range(21)]
    metrics = {"first_losses": [5.0], "adapter_sha256": "0" * 64, "test_accuracy": right / 40, "forgetting": forgetting}
    return SeedRun(
        seed, metrics, {"test_correct": "1" * right + "0" * (40 - right), "forgetting_per_document": documents}
    )


def result(flops=1000, right=(20, 20, 20), forgetting=(0.1, 0.1, 0.1), case=CASE, **changes):
    runs = [run(seed, *pair) for seed, pair in enumerate(zip(right, forgetting, strict=True))]
    metrics = {"params.trainable": 8, "train_step.flops": flops, "merge.same_output": "ok", "step_time_ratio": 1.0}
    metrics["step_time_interval"] = [1.0, 1.0]
    return Result(case, "v1", ENVIRONMENT, {**metrics, **changes}, runs)


def verdicts(obtained, expected):
    found = compare(obtained, from_result(expected), FLAT, tests=1)
    return {finding.subject: finding.verdict for finding in found.findings}


@given(counts, counts)
def test_a_counter_that_regressed_has_improved_the_other_way_round(first, second):
    there, back = (verdicts(result(flops=a), result(flops=b)) for a, b in ((first, second), (second, first)))

    expected = "identical" if first == second else "regressed" if first > second else "improved"
    assert there["train_step.flops"] == expected
    assert {there["train_step.flops"], back["train_step.flops"]} in ({"identical"}, {"improved", "regressed"})


@settings(deadline=None, max_examples=12)
@given(solved, figures, solved, figures)
def test_quality_that_regressed_never_regresses_the_other_way_round(right, forgetting, other_right, other_forgetting):
    first, second = result(right=right, forgetting=forgetting), result(right=other_right, forgetting=other_forgetting)
    # the noise of both sides together, so that the margin is the same in both directions
    noise = compare(first, from_result(second), FLAT, tests=1)
    there, back = verdicts(first, second), verdicts(second, first)

    assert noise.findings
    for name in ("test_accuracy", "forgetting"):
        assert (there[name], back[name]) not in (("regressed", "regressed"), ("improved", "improved"))
        assert (there[name] == "identical") == (back[name] == "identical")


pairs = st.lists(st.tuples(st.integers(-1000, 1000), st.integers(-1000, 1000)), min_size=3, max_size=8)


def sides(pairs, shift=0.0):
    """Old and new values of these pairs, in thousandths."""
    return [old / 1000 for old, _ in pairs], [new / 1000 + shift for _, new in pairs]


@given(pairs)
def test_what_pairs_tell_one_way_they_deny_the_other(pairs):
    old, new = sides(pairs)

    assert stats.worse_by_pair(old, new) + stats.worse_by_pair(new, old) == pytest.approx(1.0)
    assert 0.0 <= stats.worse_by_pair(old, new) <= 1.0


@given(pairs, st.randoms(use_true_random=False))
def test_the_order_of_pairs_does_not_count(pairs, random):
    shuffled = random.sample(pairs, len(pairs))

    assert stats.worse_by_pair(*sides(shuffled)) == pytest.approx(stats.worse_by_pair(*sides(pairs)))


@given(pairs, st.floats(min_value=0.001, max_value=1.0))
def test_a_larger_shift_of_all_pairs_is_never_more_likely(pairs, shift):
    # the last digit of six grows with the values: of pairs that scatter less than that, at the end of the scale
    slack = 1e-9

    assert stats.worse_by_pair(*sides(pairs, shift)) <= stats.worse_by_pair(*sides(pairs)) + slack


@given(pairs, st.floats(min_value=-1.0, max_value=1.0))
def test_what_seeds_have_in_common_does_not_count_for_pairs(pairs, common):
    old, new = sides(pairs)
    moved = [[value + common for value in side] for side in (old, new)]

    differences = {round(after - before, 9) for before, after in zip(old, new, strict=True)}
    if len(differences) > 1:  # else their spread is that of the last digit, which is relative
        assert stats.worse_by_pair(*moved) == pytest.approx(stats.worse_by_pair(old, new), rel=1e-6)


@given(
    st.sampled_from(["params.trainable", "train_step.flops", "step_time_ratio"]),
    st.sampled_from(["obtained", "expected"]),
)
def test_nan_and_infinity_are_never_green(name, side):
    for value in (math.nan, math.inf):
        bad, good = result(**{name: value}), result()
        pair = (bad, good) if side == "obtained" else (good, bad)
        assert not is_green(compare(pair[0], from_result(pair[1]), METRICS, tests=1))


NAMES = sorted({*from_result(result()).metrics, *result().seeds[0].metrics})


def without(whole, names):
    """The result as if these metrics did not exist."""
    runs = [replace(item, metrics={k: v for k, v in item.metrics.items() if k not in names}) for item in whole.seeds]
    return replace(whole, metrics={k: v for k, v in whole.metrics.items() if k not in names}, seeds=runs)


@given(st.sets(st.sampled_from(NAMES), min_size=1))
def test_a_metric_that_vanished_or_that_nobody_declared_is_never_green(names):
    whole = result()

    assert not is_green(compare(without(whole, names), from_result(whole), METRICS, tests=1))
    assert not is_green(compare(result(no_such_metric=1), from_result(whole), METRICS, tests=1))


@given(st.sets(st.sampled_from(NAMES), min_size=1))
def test_a_metric_that_the_baseline_does_not_hold_is_told_and_green_only_beside_others_of_the_gate(names):
    """Counters and quality are the gate: a baseline without either of them lets nothing pass."""
    whole = result()
    verdict = compare(whole, from_result(without(whole, names)), METRICS, tests=1)
    found = {finding.subject: finding.verdict for finding in verdict.findings}
    lanes = {METRICS[name].lane for name in NAMES if name not in names}

    assert {found[name] for name in names} <= {"not recorded yet", "missing metric"}
    assert SEVERITY.index(verdict.verdict) >= SEVERITY.index("not recorded yet")
    assert is_green(verdict) == ({"exact", "numerics", "quality"} <= lanes)


@settings(deadline=None, max_examples=10)
@given(st.lists(st.integers(min_value=0, max_value=20), min_size=2, max_size=2, unique=True))
def test_a_larger_loss_of_quality_is_never_judged_better(losses):
    small, large = sorted(losses)
    ranks = [
        SEVERITY.index(
            verdicts(result(right=[n - lost for n in (20, 21, 22)]), result(right=(20, 21, 22)))["test_accuracy"]
        )
        for lost in (small, large)
    ]

    assert ranks[0] <= ranks[1]


def witnessed(told, bound=0.0, **changes):
    """A result of other bits than those of `result()`, with a witness."""
    runs = [replace(item, metrics={**item.metrics, "adapter_sha256": "1" * 64}) for item in result().seeds]
    return replace(result(), seeds=runs, witness=None if told is None else Witness(told, bound), **changes)


quantities = st.dictionaries(
    st.sampled_from(["start: a", "untrained output", "gradient: a", "losses", "merged output"]),
    st.lists(st.floats(min_value=0.5, max_value=2), min_size=1, max_size=3),
    min_size=1,
)


@settings(deadline=None, max_examples=40)
@given(quantities, st.data())
def test_a_witness_that_is_missing_no_number_or_beyond_its_bound_is_never_green(told, data):
    baseline = from_result(replace(result(), witness=Witness(told, 1e-9)))
    name = data.draw(st.sampled_from(sorted(told)))
    numbers, place = list(told[name]), data.draw(st.integers(min_value=0, max_value=len(told[name]) - 1))
    numbers[place] = data.draw(
        st.sampled_from([math.nan, math.inf, -math.inf, numbers[place] + 1e-6 * max(told[name])])
    )
    gone = {key: value for key, value in told.items() if key != name}
    shorter = {**told, name: told[name][1:]}

    assert is_green(compare(witnessed(told), baseline, METRICS, tests=1))
    for bad in (None, gone, shorter, {**told, name: numbers}):
        elsewhere = {**ENVIRONMENT, "arithmetic": "other"}
        assert not is_green(compare(witnessed(bad, environment=elsewhere), baseline, METRICS, tests=1))
        assert not is_green(compare(witnessed(bad), baseline, METRICS, tests=1))


@given(quantities, st.floats(min_value=0, max_value=1e-3), st.floats(min_value=0, max_value=1e-3), st.data())
def test_a_larger_deviation_is_never_judged_better(told, first, second, data):
    small, large = sorted([first, second])
    name = data.draw(st.sampled_from(sorted(told)))
    baseline = from_result(replace(result(), witness=Witness(told, 1e-6)))
    ranks = [
        SEVERITY.index(
            compare(
                witnessed({**told, name: [number * (1 + size) for number in told[name]]}), baseline, METRICS, tests=1
            ).verdict
        )
        for size in (small, large)
    ]

    assert ranks[0] <= ranks[1]


@settings(deadline=None, max_examples=6)
@given(st.permutations(["a", "b", "c", "d"]))
def test_verdicts_of_a_session_do_not_depend_on_the_order_of_its_cases(order):
    expected = from_result(result(right=(20, 21, 22)))
    lost = {"a": 0, "b": 5, "c": 12, "d": 18}
    cases = {
        name: compare(result(right=[n - lost[name] for n in (20, 21, 22)]), expected, METRICS, tests=10**6)
        for name in lost
    }

    settled = corrected({name: cases[name] for name in order})

    assert {name: settled[name].verdict for name in sorted(settled)} == {
        name: verdict.verdict for name, verdict in sorted(corrected(cases).items())
    }


@pytest.mark.parametrize("lost", [0, 20])
def test_the_examples_reach_both_ends(lost):
    found = verdicts(result(right=[n - lost for n in (20, 21, 22)]), result(right=(20, 21, 22)))

    assert found["test_accuracy"] == {0: "identical", 20: "regressed"}[lost]
