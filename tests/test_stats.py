"""When a difference of quality is more than noise: the tests, sizes and corrections behind the verdicts."""

import random

import numpy as np
import pytest

from pytest_peftbench.compare import stats


def test_the_noise_floor_is_what_unchanged_seeds_do_not_reach():
    generator = random.Random(0)

    def mean_of_five():
        return sum(generator.gauss(0, 1) for _ in range(5)) / 5

    differences = [abs(mean_of_five() - mean_of_five()) for _ in range(2000)]

    assert max(differences) < stats.noise_floor(1.0, known_seeds=5, seeds=5)


def test_the_floor_of_five_seeds_is_exceeded_as_seldom_as_its_docstring_says():
    old, new = np.random.default_rng(0).normal(size=(2, 200_000, 5))
    floors = stats.noise_floor(1.0, 5, 5) * old.std(axis=1, ddof=1)

    assert np.mean(new.mean(axis=1) - old.mean(axis=1) > floors) == pytest.approx(0.0017, rel=0.15)


@pytest.mark.parametrize(
    ("known", "seeds", "paired"), [(0, 5, False), (-3, 5, False), (5, 0, False), (1, 1, False), (0, 5, True)]
)
def test_a_floor_of_too_few_seeds_is_refused(known, seeds, paired):
    with pytest.raises(ValueError, match="no spread can be estimated"):
        stats.noise_floor(1.0, known, seeds, paired=paired)


def test_more_seeds_lower_the_floor_and_the_detectable_size():
    floors = [stats.noise_floor(1.0, seeds, seeds) for seeds in (2, 3, 5, 10, 100)]
    sizes = [stats.detectable(0.0, 1.0, seeds, seeds) for seeds in (2, 3, 5, 10, 100)]

    assert floors == sorted(floors, reverse=True)
    assert sizes == sorted(sizes, reverse=True)


def test_the_seeds_that_a_margin_needs_are_the_fewest_that_support_it():
    needed = stats.seeds_needed(0.5, 1.0)

    assert stats.noise_floor(1.0, needed, needed) <= 0.5 < stats.noise_floor(1.0, needed - 1, needed - 1)


def test_a_regression_of_the_detectable_size_is_caught_nine_times_out_of_ten():
    generator = random.Random(0)
    floor = stats.noise_floor(1.0, known_seeds=1000, seeds=5)
    size = stats.detectable(floor, 1.0, known_seeds=1000, seeds=5)

    def caught():
        old = [generator.gauss(0, 1) for _ in range(5)]
        new = [generator.gauss(size, 1) for _ in range(5)]
        return sum(new) / 5 - sum(old) / 5 > floor

    assert sum(caught() for _ in range(2000)) / 2000 == pytest.approx(stats.POWER, abs=0.03)


def test_seeds_without_any_spread_differ_for_certain_or_not_at_all():
    assert stats.worse_by_seed([0.5, 0.5], [0.6, 0.6]) == 0.0
    assert stats.worse_by_seed([0.5, 0.5], [0.4, 0.4]) == 1.0
    assert stats.worse_by_seed([0.5, 0.5], [0.5, 0.5]) == 1.0


# Five seeds of images, LoRA, and what a learning rate 2 % higher makes of them.
LOSSES = [0.412, 0.441, 0.398, 0.427, 0.455]
MOVED = [0.41138, 0.44025, 0.39734, 0.42626, 0.45412]


def test_pairs_tell_a_small_change_that_the_spread_between_seeds_hides():
    assert stats.worse_by_pair(MOVED, LOSSES) == pytest.approx(4.1e-5, rel=0.01)
    assert stats.worse_by_pair(LOSSES, MOVED) > 0.999
    assert 0.4 < stats.worse_by_seed(MOVED, LOSSES) < 0.6


def test_a_probability_over_pairs_is_that_of_student_s_test():
    from scipy.stats import ttest_rel

    found = ttest_rel(LOSSES, MOVED, alternative="greater").pvalue

    assert stats.worse_by_pair(MOVED, LOSSES) == pytest.approx(found)


def test_differences_that_agree_to_the_last_digit_are_rounded_not_certain():
    two, five = (stats.worse_by_pair([0.5] * n, [0.501] * n) for n in (2, 5))

    # a spread of 5.01e-6, the last of six digits: t = 282 of one degree of freedom
    assert two == pytest.approx(0.0011, rel=0.05)
    assert 0.0 < five < 1e-9
    assert stats.worse_by_pair([0.5] * 5, [0.500001] * 5) > 0.05
    assert stats.worse_by_pair([0.5, 0.4], [0.5, 0.4]) == 0.5
    assert stats.worse_by_pair([0.0, 0.0], [0.0, 0.0]) == 0.5


def test_pairs_that_do_not_pair_up_are_refused():
    with pytest.raises(ValueError, match="zip"):
        stats.worse_by_pair([0.5, 0.5], [0.5, 0.5, 0.5])


def test_what_all_pairs_of_unchanged_code_do_alike_is_noise():
    assert stats.paired_spread([0.1, 0.1, 0.1]) == pytest.approx(0.1)
    assert stats.paired_spread([0.1, -0.1]) == pytest.approx(0.1)
    assert stats.paired_spread([0.0, 0.0]) == 0.0


def test_the_floor_of_pairs_is_exceeded_as_seldom_as_its_docstring_says():
    known, found = np.random.default_rng(0).normal(size=(2, 200_000, 5))
    floors = stats.noise_floor(1.0, 5, 5, paired=True, level=0.005) * np.sqrt((known**2).mean(axis=1))

    assert np.mean(found.mean(axis=1) > floors) == pytest.approx(0.005, rel=0.1)


def test_a_regression_of_the_detectable_size_is_caught_nine_times_out_of_ten_by_pairs():
    floor = stats.noise_floor(1.0, known_seeds=1000, seeds=5, paired=True)
    size = stats.detectable(floor, 1.0, known_seeds=1000, seeds=5, paired=True)
    found = np.random.default_rng(0).normal(size, 1.0, (20_000, 5))

    assert np.mean(found.mean(axis=1) > floor) == pytest.approx(stats.POWER, abs=0.01)


def test_fewer_pairs_than_groups_of_seeds_support_a_margin():
    needed = stats.seeds_needed(0.5, 1.0, paired=True)
    floors = [stats.noise_floor(1.0, seeds, seeds, paired=True) for seeds in (needed, needed - 1)]

    assert floors[0] <= 0.5 < floors[1]
    assert needed < stats.seeds_needed(0.5, 1.0)


def test_answers_are_paired_and_pooled_over_the_seeds():
    old, new = ["1" * 20 + "0" * 20] * 2, ["1" * 15 + "0" * 25] * 2

    # ten answers lost, none gained: 1 / 2**10
    assert stats.worse_by_sample(old, new, sign=-1) == pytest.approx(2**-10)
    assert stats.worse_by_sample(new, old, sign=-1) == 1.0
    assert stats.worse_by_sample(old, old, sign=-1) == 1.0


def test_documents_are_paired_by_permutation_and_the_same_from_run_to_run():
    old = [[0.1 * n for n in range(50)]]
    new = [[value + 0.01 for value in old[0]]]

    probability = stats.worse_by_sample(old, new, sign=1)

    assert probability == stats.worse_by_sample(old, new, sign=1)
    assert probability <= 2 / stats.RESAMPLES
    assert stats.worse_by_sample(new, old, sign=1) > 0.999


def test_samples_that_do_not_pair_up_are_refused():
    with pytest.raises(ValueError, match="zip"):
        stats.worse_by_sample(["01"], ["011"], sign=1)


def test_holm_adjusts_each_probability_for_those_that_are_not_smaller():
    adjusted = stats.holm({"a": 0.01, "b": 0.04, "c": 0.03})

    assert adjusted == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})
    assert stats.holm({}) == {}


def test_quantiles_and_tails_are_those_of_scipy_to_the_bit():
    from scipy.stats import t

    for freedom in (1, 2, 3.7, 8, 199):
        for probability in (1e-9, stats.RARE, stats.ALPHA, 0.5, stats.POWER):
            assert stats.quantile(probability, freedom) == t.ppf(probability, freedom)
            assert -stats.quantile(probability, freedom) == t.isf(probability, freedom)
        for value in (-3.5, 0.0, 1e-12, 2.25, 1e9):
            assert stats.tail(value, freedom) == t.sf(value, freedom)
