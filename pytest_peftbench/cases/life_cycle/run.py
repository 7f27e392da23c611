"""A case of the life cycle: every story of an adapter on a structure, and what came of each law."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from pytest_peftbench.cases.checks import tensor_table
from pytest_peftbench.cases.life_cycle.cell import Cell
from pytest_peftbench.cases.life_cycle.counting import costs
from pytest_peftbench.cases.life_cycle.stories import stories_of
from pytest_peftbench.cases.subject import parameters
from pytest_peftbench.measure.collector import freeze_what_came
from pytest_peftbench.measure.decompositions import steady_decompositions
from pytest_peftbench.measure.environment import deterministic, installed, lacking
from pytest_peftbench.measure.precision import OtherRounding, digits, double_precision, project
from pytest_peftbench.results.files import InputError, stands
from pytest_peftbench.results.laws import HOLDS, LAW, NOT_REACHED, ends_in_error
from pytest_peftbench.results.metrics import Value, in_order
from pytest_peftbench.results.result import Result, SecondStage, Witness
from pytest_peftbench.suites import Experiment
from pytest_peftbench.tasks.config import QUANTISED
from pytest_peftbench.tasks.structures.kept import keeps
from pytest_peftbench.tasks.structures.operations import counts

# Counts up when a story changes so that its words are no longer comparable with earlier ones.
RECIPE_VERSION = 3


def live_through(experiment: Experiment, second_stage: Callable[[Result], SecondStage] | None = None) -> Result:
    """What holds of an adapter on its structure, each law in a word, see `results.laws`; and what it gives, a witness.

    All of it happens in double precision on a CPU, so that equal means equal on any machine. An adapter that cannot be
    added has no life: `law.inject` is all that its result holds. second_stage: tells whether the witness is disturbed,
    to be recorded. Raises InputError for a config that PEFT does not know, and where an optional package is missing.
    """
    experiment.require()
    if reason := lacking(experiment.train.package):
        raise InputError(f"{experiment.case}: {reason}")
    with tempfile.TemporaryDirectory() as folder, _quiet(), deterministic("cpu"), _precision(experiment):
        # each case brings imports of its own, through which the collector went before each operation that is counted
        freeze_what_came()
        cell = Cell(experiment, Path(folder))
        result = _with_kept(_result(experiment, _life(cell)), cell)
        if f"{LAW}batch" not in result.metrics or not cell.can_witness:
            return result
        disturbed = []
        if second_stage is not None and second_stage(result).disturb:
            with OtherRounding():
                disturbed.append(_statement(Cell(experiment, Path(folder) / "disturbed")))
        return replace(result, witness=Witness(_statement(cell)), disturbed=disturbed)


def _with_kept(result: Result, cell: Cell) -> Result:
    """The result with the adapter that is to be kept from now on, or with a word where one should be and is not."""
    experiment = cell.experiment
    if experiment.kept is None or stands(experiment.kept):
        return result
    if f"{LAW}old" in result.metrics:
        assert cell.kept is not None
        return replace(result, kept=cell.kept.contents())
    if not keeps(experiment.train.model_id, experiment.case.experiment):
        return result
    way_out = "restore it from version control, or record one with --peft-update-baselines"
    missing = f"{experiment.kept}: is not there, so law.old was not asked; {way_out}"
    return replace(result, warnings=[*result.warnings, missing])


def _precision(experiment: Experiment) -> AbstractContextManager[None]:
    """Double precision, but for quantised weights."""
    return nullcontext() if experiment.train.dtype in QUANTISED else double_precision()


@steady_decompositions()
def _statement(cell: Cell) -> dict[str, list[float]]:
    """What the adapter gives before and after its few steps, and the losses between: laws see no wrong scale."""
    return {
        "untrained output": project(cell.initial_output),
        "losses": digits(cell.losses),
        "trained output": project(cell.active_output),
    }


def _result(experiment: Experiment, metrics: dict[str, Value]) -> Result:
    return Result(
        case=experiment.case,
        case_version=case_version(experiment),
        environment={
            **{name: installed(name) for name in ("torch", "transformers", "diffusers", "peft")},
            "device": "cpu",
        },
        metrics=in_order(metrics, str(experiment.case)),
        seeds=[],
    )


def _life(cell: Cell) -> dict[str, Value]:
    """What came of each story, what the adapter weighs, and what operations cost."""
    cell.batch, cell.base()  # not within a law: an error there is the structure's, and none of an adapter
    with steady_decompositions():
        words = _words(cell)
        figures = _figures(cell, words) if words["inject"] == HOLDS else {}
    if _goes_on(words) and counts(cell.experiment.train.model_id, cell.experiment.case.experiment):
        figures |= costs(cell, words)
    return {**figures, **cell.figures, **{f"{LAW}{name}": word for name, word in words.items()}}


def _words(cell: Cell) -> dict[str, str]:
    """What came of each law, story by story."""
    words: dict[str, str] = {}
    for story in stories_of(cell):
        if story.applies(cell):
            words |= story.words(cell)
        if not _goes_on(words):
            break
    return words


def _goes_on(words: dict[str, str]) -> bool:
    """Whether there is an adapter, and one that can be trained: of another there is nothing to ask."""
    return words["inject"] == HOLDS and words.get("train.base") != NOT_REACHED


def _figures(cell: Cell, words: dict[str, str]) -> dict[str, Value]:
    """What the adapter weighs, in a file where it can be saved."""
    model = cell.untrained()
    if ends_in_error(words.get("save.load", HOLDS)):
        return parameters(model)
    files = sorted(cell.saved(model).glob("*.safetensors"))
    return {
        **parameters(model),
        "checkpoint.bytes": sum(file.stat().st_size for file in files),
        "checkpoint.tensors": tensor_table(files),
    }


def case_version(experiment: Experiment) -> str:
    """The version that a result of the experiment has: a hash of all that defines what is asked."""
    definition = [RECIPE_VERSION, experiment.definition()]
    return hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def _quiet() -> Iterator[None]:
    """Libraries warn of half of what is asked here; the words tell."""
    # that of the compiler heeds no level, and pytest would show its empty lines beside a failure
    trace, earlier = logging.getLogger("torch.__trace"), logging.root.manager.disable
    was_disabled, trace.disabled = trace.disabled, True
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(earlier)
        trace.disabled = was_disabled
