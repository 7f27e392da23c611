"""Tasks by name: what a registration must be, and what cases of a user's own task share."""

from dataclasses import dataclass, replace

import pytest

from pytest_peftbench import Column, Metric, TaskSpec, TrainConfig, register_task
from pytest_peftbench.commands.published import task_of
from pytest_peftbench.results import metrics
from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.metrics import METRICS
from pytest_peftbench.tasks import registry
from pytest_peftbench.tasks.math_reasoning.spec import SPEC as MATH
from pytest_peftbench.tasks.math_reasoning.spec import MathTrainConfig
from pytest_peftbench.tasks.registry import spec_of, specs
from pytest_peftbench.tasks.spec import Published


@dataclass(frozen=True, kw_only=True)
class OwnConfig(TrainConfig):
    words: int = 9


@dataclass(frozen=True, kw_only=True)
class NarrowConfig(OwnConfig):
    DATA = (*TrainConfig.DATA, "words")
    BASE_MODEL = TrainConfig.BASE_MODEL


ACCURACY = Metric("own_accuracy", "fraction", "higher", "quality", "share told right")
OWN = TaskSpec("own", OwnConfig, "own_task:Own", metrics=(ACCURACY,), columns=(Column("told", "own_accuracy", ".1%"),))
PARAMS = {
    "model_id": "m",
    "dtype": "float32",
    "batch_size": 2,
    "batch_size_eval": 2,
    "max_steps": 2,
    "eval_steps": 1,
    "seed": 0,
    "grad_norm_clip": 1.0,
    "optimizer_type": "AdamW",
    "optimizer_kwargs": {"lr": 1e-3},
    "lr_scheduler": None,
}


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    """Registrations of a test end with it."""
    monkeypatch.setattr(metrics, "METRICS", dict(METRICS))
    monkeypatch.setattr(registry, "METRICS", metrics.METRICS)
    monkeypatch.setattr(registry, "_specs", dict(registry._specs))


def test_a_task_may_register_again_and_is_found_by_its_name():
    register_task(OWN)
    register_task(replace(OWN))

    assert spec_of("own") == OWN
    assert OWN.quality_metrics == 2  # its own, and the training loss


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (replace(OWN, task="evil:Task"), "task 'own' is registered already, as another one"),
        (replace(OWN, columns=()), "task 'own' is registered already, as another one"),
        (replace(MATH, task="evil:Task"), "task 'MetaMathQA' is registered already"),
        (replace(OWN, name="a/b"), "task 'a/b': its name must be that of a folder"),
        (replace(OWN, name="b", columns=(Column("told", "own_acuracy", ".1%"),)), "'own_acuracy', which is no metric"),
        (replace(OWN, name="b", columns=(Column("told", "own_accuracy", ",d"),)), "column 'told': form ',d': "),
    ],
)
def test_a_registration_that_cannot_be_is_refused_in_words(other, words):
    register_task(OWN)

    with pytest.raises(InputError, match=words):
        register_task(other)


def test_a_task_that_does_not_exist_names_those_that_do():
    with pytest.raises(InputError, match="'maths' is no task; there are MetaMathQA, image-gen"):
        spec_of("maths")


def test_cases_share_nothing_where_a_key_of_the_task_s_own_differs():
    nine, thirty = OwnConfig(**PARAMS), OwnConfig(**PARAMS, words=30)

    for what in ("BASE_MODEL", "DATA", "REFERENCE"):
        assert nine.telling(what) != thirty.telling(what)
        assert nine.telling(what) == replace(nine, max_steps=7).telling(what)


def test_a_task_may_say_itself_what_its_data_and_its_base_model_depend_on():
    nine, thirty = NarrowConfig(**PARAMS), NarrowConfig(**PARAMS, words=30)

    assert nine.telling("DATA") != thirty.telling("DATA")
    assert nine.telling("BASE_MODEL") == thirty.telling("BASE_MODEL")
    assert "attn_implementation" in MathTrainConfig.BASE_MODEL


def test_a_result_of_peft_that_two_tasks_claim_is_given_to_neither():
    register_task(replace(OWN, published=(Published("test accuracy", "own_accuracy"),)))

    with pytest.raises(InputError, match=r"a\.json: holds several of test accuracy, "):
        task_of({"test accuracy": 0.5}, "a.json")


def test_a_package_whose_task_cannot_be_imported_is_named(monkeypatch):
    class Broken:
        name, value = "mood", "no_such_module:SPEC"

        def load(self):
            raise ModuleNotFoundError("No module named 'no_such_module'")

    monkeypatch.setattr(registry, "entry_points", lambda group: [Broken()])
    registry._load_installed.cache_clear()
    try:
        with pytest.raises(InputError, match="entry point mood = no_such_module:SPEC: ModuleNotFoundError: No module"):
            specs()
    finally:
        monkeypatch.undo()
        registry._load_installed.cache_clear()
