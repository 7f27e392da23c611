"""The catalogue: what is measured is declared, once, and what is not is an error in words."""

from dataclasses import replace

import pytest

from pytest_peftbench.cases.subject import figures_of
from pytest_peftbench.measure.counters import Counters
from pytest_peftbench.results import metrics
from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.metrics import METRICS, PHASES, Metric, declare, in_order
from pytest_peftbench.tasks.registry import spec_of, specs

MINE = Metric("my_accuracy", "fraction", "higher", "quality", "share of my texts told right")
COUNTED = Counters(flops=5, calls=4, peak_bytes=3, saved_bytes=2)


@pytest.fixture(autouse=True)
def catalogue(monkeypatch):
    """One of the test's own."""
    monkeypatch.setattr(metrics, "METRICS", dict(METRICS))


def test_values_come_in_the_order_of_declaration():
    assert list(in_order({"train_loss": 1.0, "params.total": 2}, "a case")) == ["params.total", "train_loss"]


def test_a_metric_that_nobody_declared_is_an_error_that_names_it_and_who_measured_it():
    with pytest.raises(InputError, match="my task: evaluation: metric 'my_accuracy' is measured but not declared; add"):
        in_order({"my_accuracy": 1.0, "train_loss": 1.0}, "my task: evaluation")

    declare([MINE], "my task")

    assert in_order({"my_accuracy": 1.0}, "my task") == {"my_accuracy": 1.0}


def test_the_same_metric_may_be_declared_again_and_another_one_not_by_its_name():
    declare([MINE], "task 'mine'")
    declare([MINE], "task 'mine'")

    with pytest.raises(InputError, match="task 'yours': metric 'my_accuracy' is declared already, as another one"):
        declare([Metric("my_accuracy", "fraction", "lower", "info", "something else")], "task 'yours'")


def test_what_each_task_shows_and_publishes_is_declared():
    for spec in specs().values():
        names = {column.metric for column in spec.columns} | {figure.metric for figure in spec.published}
        assert names <= METRICS.keys()
        assert all(METRICS[metric.name] is metric for metric in spec.metrics)


def test_each_counter_that_a_phase_keeps_is_a_metric_and_the_others_are_none():
    for phase in PHASES:
        figures = figures_of({phase: COUNTED}, peak_parts=True)
        assert list(figures) == [f"{phase}.{name}" for name in PHASES[phase][1]]
        assert in_order(figures, "a case") == figures
        of_life_cycle = {metric.name for metric in spec_of("structures").metrics}
        counted = {name for name in METRICS if name.startswith(f"{phase}.") and METRICS[name].unit != "outcome"}
        known = counted - of_life_cycle
        assert known - {"inject.host_calls"} == figures.keys()


def test_a_phase_that_nobody_declared_is_an_error_that_names_it():
    with pytest.raises(InputError, match="phase 'rename' is counted but not declared"):
        figures_of({"rename": COUNTED}, peak_parts=False)


@pytest.mark.parametrize(("key", "value"), [("direction", "max"), ("lane", "Quality"), ("kind", "integer")])
def test_a_misspelt_declaration_is_refused_since_a_comparison_would_take_it_for_something_else(key, value):
    with pytest.raises(InputError, match=f"metric 'my_accuracy': {key} is '{value}', not "):
        replace(MINE, **{key: value})


def test_two_metrics_of_one_name_in_one_task_are_refused():
    with pytest.raises(InputError, match="my task: metric 'my_accuracy' is declared twice"):
        declare([MINE, replace(MINE, direction="lower")], "my task")
