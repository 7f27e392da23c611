"""Steps of a case, timed as another process asks for them: so two programs are timed in turn, on one core."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any

from torch import nn

from pytest_peftbench.cases.subject import BaseModel, TaskData, evaluating, subject_of
from pytest_peftbench.measure import timing
from pytest_peftbench.measure.collector import freeze_collector
from pytest_peftbench.measure.environment import deterministic, seed_everything
from pytest_peftbench.results.orders import Clock
from pytest_peftbench.results.raised import raised_in
from pytest_peftbench.results.words import error_line
from pytest_peftbench.suites import Experiment

# Times so many calls of a piece of work, in seconds each.
Work = Callable[[int], list[float]]


def serve(clock: Clock, name: str, experiment: Experiment, base_model: BaseModel, task_data: TaskData) -> None:
    """Make the case's work, say what of it can be timed, and time it until the asking process is done with the case.

    Sends `(name, [work, …], problem)`, where one of the last two is empty; then a list of seconds for each `(work,
    calls)` that comes, until `None` does.
    """
    connection = _connected(clock)
    try:
        with deterministic(experiment.device), tempfile.TemporaryDirectory() as folder:
            work = _work(experiment, base_model, task_data, Path(folder))
            connection.send((name, list(work), ""))
            _answer(connection, work)
    except (EOFError, ConnectionError):
        raise  # nobody asks any more
    except Exception as error:  # of PEFT's: the other side may do without
        connection.send((name, [], error_line(error) + raised_in(error)))
        connection.recv()


def _answer(connection: Connection[Any, Any], work: dict[str, Work]) -> None:
    while (asked := connection.recv()) is not None:
        what, calls = asked
        connection.send(work[what](calls))


@cache
def _connected(clock: Clock) -> Connection[Any, Any]:
    """The connection of this process, which stays on its core from now on."""
    if clock.core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {clock.core})
    connection = Client(clock.address, authkey=bytes.fromhex(clock.key))
    connection.send(clock.name)
    return connection


def _work(experiment: Experiment, base_model: BaseModel, task_data: TaskData, folder: Path) -> dict[str, Work]:
    """A training step with as many rows as a case is timed with, and decoding, where the task does that."""
    subject = subject_of(experiment, base_model, task_data, folder)
    freeze_collector()
    seed, config = experiment.seeds[0], experiment.train
    model = subject.inject(subject.injectable_base(seed), seed)
    trainer = subject.trainer(model)
    rows = timing.rows(config.batch_size, experiment.device)
    task = type(subject.task)(replace(config, batch_size=rows), subject.task.place, subject.task.data)
    batch = task.probe_batch()
    seed_everything(seed)
    work: dict[str, Work] = {"step": partial(_timed_step, model, partial(trainer.step, batch), experiment.device)}
    if task.generates:
        decode = replace(subject, task=task).decoding(model, task.timed_steps)
        work["decode"] = partial(_timed_decoding, model, decode, experiment.device)
    return work


def _timed_step(model: nn.Module, step: Callable[[], object], device: str, calls: int) -> list[float]:
    model.train()
    return timing.seconds(step, device, calls)


def _timed_decoding(model: nn.Module, decode: Callable[[], object], device: str, calls: int) -> list[float]:
    with evaluating(model):
        return timing.seconds(decode, device, calls)
