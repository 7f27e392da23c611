"""What a budget of trials buys, against sums over every outcome that the draws can have."""

import itertools

import pytest

from pytest_peftbench.compare.budget import Order, Search, budgets_up_to, curves


def search(scores, merits=None, **figures):
    return Search(scores, merits or [(score,) for score in scores], figures)


def curve(found, budgets):
    return curves({"method": found}, budgets)[0]


def standings(searches, budget, higher=True):
    return Order(searches, (budget,), higher=higher).standings(budget)


@pytest.mark.parametrize("budget", [1, 2, 3, 4])
def test_the_expected_best_is_the_mean_of_the_best_over_all_draws(budget):
    scores = [0.1, 0.7, 0.3, 0.3]
    lots = list(itertools.product(scores, repeat=budget))

    (found,) = curve(search(scores), (budget,)).score

    assert found.value == pytest.approx(sum(map(max, lots)) / len(lots))
    assert found.low <= found.value <= found.high


def test_what_the_choice_gives_on_the_test_set_is_that_of_the_trial_with_the_best_score():
    scores, tests = [0.1, 0.7, 0.3], [0.9, 0.2, 0.4]
    lots = list(itertools.product(range(3), repeat=2))
    expected = sum(tests[max(lot, key=lambda trial: scores[trial])] for lot in lots) / len(lots)

    (found,) = curve(search(scores, test_accuracy=tests), (2,)).choice["test_accuracy"]

    assert found.value == pytest.approx(expected)


def test_of_equal_scores_the_merit_decides_which_one_is_chosen():
    found = search([0.5, 0.5], [(0.5, -1.0), (0.5, -2.0)], test_accuracy=[0.6, 0.2])

    assert curve(found, (2,)).choice["test_accuracy"][0].value == pytest.approx(0.75 * 0.6 + 0.25 * 0.2)


def test_where_less_is_better_the_least_is_expected():
    found = curve(search([3.0, 1.0], [(-3.0,), (-1.0,)]), (1, 2)).score

    assert [score.value for score in found] == pytest.approx([2.0, 1.5])


def test_an_interval_of_equal_trials_is_a_point():
    (found,) = curve(search([0.5] * 4), (2,)).score

    assert (found.low, found.value, found.high) == (0.5, 0.5, 0.5)


def test_the_same_trials_give_the_same_curve():
    found = search([0.2, 0.8, 0.4, 0.6])

    assert curve(found, (1, 2)) == curve(found, (1, 2))


def test_a_method_that_is_better_in_each_trial_is_first_in_each_resample():
    first, second = standings({"b": search([0.1, 0.2]), "a": search([0.6, 0.9])}, 2)

    assert (first.name, first.place, first.best, first.worst, first.first, first.swaps) == ("a", 1, 1, 1, 1.0, 0.0)
    assert (second.name, second.place, second.best, second.worst, second.first, second.swaps) == ("b", 2, 2, 2, 0, None)


def test_methods_of_like_trials_swap():
    searches = {"a": search([0.1, 0.9, 0.5, 0.4]), "b": search([0.9, 0.1, 0.4, 0.5])}

    found = standings(searches, 1)

    assert [standing.place for standing in found] == [1, 1]
    assert 0.2 < found[0].swaps < 0.8
    assert (found[0].best, found[0].worst) == (1, 2)
    assert Order(searches, (1,), higher=True).swaps(1) == {"a": {"b": found[0].swaps}, "b": {}}


def test_methods_of_the_same_trials_share_the_first_place_and_never_swap():
    found = standings({"a": search([0.1, 0.9]), "b": search([0.1, 0.9])}, 2)

    assert [(standing.place, standing.first, standing.swaps) for standing in found] == [(1, 1.0, 0.0), (1, 1.0, None)]


def test_where_less_is_better_the_lowest_stands_first():
    lower = {"a": search([1.0, 2.0], [(-1.0,), (-2.0,)]), "b": search([3.0, 4.0], [(-3.0,), (-4.0,)])}

    assert [standing.name for standing in standings(lower, 1, higher=False)] == ["a", "b"]


def test_a_pair_that_changes_places_with_the_budget_is_counted():
    steady, risky = search([0.5, 0.5, 0.5, 0.5]), search([0.0, 0.0, 0.0, 1.0])
    searches = {"steady": steady, "risky": risky}

    assert [standing.name for standing in standings(searches, 1)] == ["steady", "risky"]
    assert [standing.name for standing in standings(searches, 4)] == ["risky", "steady"]
    assert Order(searches, (1, 4), higher=True).turned(1, 4) == 1.0
    assert Order({"steady": steady}, (1, 4), higher=True).turned(1, 4) == 0.0


def test_no_budget_goes_beyond_the_trials():
    assert budgets_up_to(16) == (1, 2, 4, 8, 16)
    assert budgets_up_to(3) == (1, 2)
